"""AG News: the rows, the frozen split, and a tokenizer that is the same wherever it is trained."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from training.datasets import ag_news
from training.datasets.ag_news import Article, read, read_csv, train_tokenizer
from training.datasets.files import DataDamagedError, DataMissingError

TEXTS = [
    "Oil prices rise as supply fears grow",
    "Oil prices fall, supply grows",
    "The team wins the final game of the season",
    "The final game: a win for the team",
]


def data_dir() -> Path:
    place = os.environ.get("DATA_DIR")
    assert place, "set DATA_DIR to the folder that holds ag_news"
    return Path(place)


@pytest.fixture(scope="module")
def news() -> ag_news.AgNews:
    return read(data_dir())


def write(folder: Path, text: str) -> Path:
    path = folder / "rows.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_rows_are_read_with_quotes_and_line_breaks(tmp_path: Path) -> None:
    """A doubled quote, a comma and a line break inside a field stay in it; classes count from 0."""
    path = write(tmp_path, '"3","A ""b"", c","d\ne"\r\n"1","x","y"\r\n')
    assert read_csv(path) == [Article(2, 'A "b", c', "d\ne"), Article(0, "x", "y")]


@pytest.mark.parametrize("row", ['"5","a","b"', '"1","a"', '"1","a","b","c"', '"World","a","b"'])
def test_a_row_of_another_form_is_named(tmp_path: Path, row: str) -> None:
    """A file that is not AG News says which row is wrong."""
    path = write(tmp_path, f'"1","x","y"\n{row}\n')
    with pytest.raises(DataDamagedError, match="row 2 is not"):
        read_csv(path)


def test_all_rows_are_there(news: ag_news.AgNews) -> None:
    """The official test split is whole and balanced, and no training row is lost or used twice."""
    assert Counter(row.label for row in news.test) == {0: 1900, 1: 1900, 2: 1900, 3: 1900}
    rows = len(news.train) + len(news.validation)
    assert rows in {30_020, 120_000}
    assert not {row.text for row in news.train} & {row.text for row in news.validation}
    assert 0.045 < len(news.validation) / rows < 0.055
    assert len(news.sources) == 2


def test_validation_rows_are_chosen_by_their_text_alone() -> None:
    """The split is frozen: these rows are where they were when the first version was published."""
    held_out = [number for number in range(200) if Article(0, f"title {number}", "text").held_out]
    assert held_out == [11, 18, 23, 105, 169, 184, 197]


def test_the_subset_is_taken_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the subset the official file is asked for; with it the subset, even if the official file is there too."""
    monkeypatch.setenv("NEUROSERVE_STATE", str(tmp_path / "state"))
    files = [ag_news.TRAIN_SUBSET, ag_news.TRAIN]
    assert ag_news._choose(tmp_path, files) is ag_news.TRAIN
    (tmp_path / "train.csv").touch()
    assert ag_news._choose(tmp_path, files) is ag_news.TRAIN
    (tmp_path / "train_subset.csv.gz").touch()
    assert ag_news._choose(tmp_path, files) is ag_news.TRAIN_SUBSET


def test_missing_data_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither file nor network: the error says which file to put where."""
    monkeypatch.setenv("NEUROSERVE_STATE", str(tmp_path / "state"))
    offline = tuple(
        ag_news.RemoteFile(file.name, file.sha256, file.bytes, ("http://127.0.0.1:9/",))
        for file in (ag_news.TRAIN, ag_news.TEST)
    )
    monkeypatch.setattr(ag_news, "TRAIN", offline[0])
    monkeypatch.setattr(ag_news, "TEST", offline[1])
    with pytest.raises(DataMissingError, match=r"train\.csv is missing .* put the file at"):
        read(tmp_path / "data")


@pytest.mark.slow
def test_tokenizer_is_the_same_in_every_process(news: ag_news.AgNews) -> None:
    """Two processes, each with hash seeds of its own, learn the same tokenizer from the same rows."""
    code = (
        "import hashlib, sys; from pathlib import Path; from training.datasets import ag_news;"
        "rows = ag_news.read(Path(sys.argv[1])).train[:3000];"
        "text = ag_news.train_tokenizer((row.text for row in rows), 4000).to_str();"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code, str(data_dir())], check=True, capture_output=True, text=True).stdout
        for _ in range(3)
    }
    assert len(found) == 1


def test_special_entries_come_first() -> None:
    """Padding is 0 and the unknown word 1; entries fill the numbers without a hole."""
    tokenizer = train_tokenizer(TEXTS, 200)
    vocabulary = tokenizer.get_vocab()
    assert (vocabulary["[PAD]"], vocabulary["[UNK]"]) == (0, 1)
    assert sorted(vocabulary.values()) == list(range(tokenizer.get_vocab_size()))


def test_text_cannot_spell_a_special_entry() -> None:
    """A text that says [PAD] is read as text."""
    assert 0 not in train_tokenizer(TEXTS, 200).encode("[PAD] oil [PAD]").ids


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Oil &lt;b&gt;prices&lt;/b&gt; rise", "oil prices rise"),
        ('<a href="x">Oil</a> prices', "oil prices"),
        ("team #39;s", "team's"),
        ("team&#39;s", "team's"),
        ("team’s", "team's"),
        ("team\\game", "team game"),
        ("team\x00game", "team game"),
        ("&quot;game&quot;", '"game"'),
        ("quot;game quot;", '"game"'),
        ("“game”", '"game"'),
        ("SÉASON", "season"),
        ("ﬁnal", "final"),
        ("ga\u200bme", "game"),
    ],
)
def test_markup_accents_and_signs_are_levelled(raw: str, plain: str) -> None:
    """What differs only in markup, case, accents or kind of quote gives the same tokens."""
    tokenizer = train_tokenizer([*TEXTS, 'the team\'s "game"'], 300)
    assert tokenizer.encode(raw).tokens == tokenizer.encode(plain).tokens
    assert "[UNK]" not in tokenizer.encode(raw).tokens


def test_title_is_a_prefix_of_the_text_in_tokens(news: ag_news.AgNews) -> None:
    """Training cuts rows to their headline by a number of tokens, which must be those of the title alone."""
    tokenizer = train_tokenizer((row.text for row in news.train[:2000]), 4000)
    for row in news.test[:500]:
        title = tokenizer.encode(row.title).ids
        assert tokenizer.encode(row.text).ids[: len(title)] == title
