"""Text on its way in: every string is either token ids or a refusal that says why."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.manifest import TextSpec
from models.store import Store
from service.errors import InvalidInput
from service.inputs.text import MAX_CHARS, TextEncoder
from training.datasets import ag_news

ZOO = Store(Path(__file__).parents[2] / "models" / "zoo")
NAME = "topic-transformer"


def tokenizer_file() -> Path:
    version = ZOO.live(NAME)
    assert version is not None, f"models/zoo has no live {NAME}"
    return ZOO.folder(NAME, version) / "tokenizer.json"


def make(max_length: int = 256) -> TextEncoder:
    return TextEncoder(tokenizer_file(), TextSpec(max_length=max_length))


ENCODER = make()


def test_a_headline_becomes_ids() -> None:
    """int64, one axis, no padding, no unknown word in plain English."""
    ids = ENCODER.encode("Oil prices rise as supply fears grow")
    assert ids.dtype == np.int64
    assert ids.ndim == 1
    assert 7 <= len(ids) <= 10
    assert ids.min() > 1


def test_a_long_text_keeps_its_first_tokens() -> None:
    """More than max_length tokens are cut, not refused."""
    words = "oil prices rise " * 200
    assert ENCODER.encode(words).tolist() == make(10_000).encode(words).tolist()[:256]


@pytest.mark.parametrize("text", [None, 7, 1.5, True, b"oil", ["oil"], {"text": "oil"}])
def test_what_is_no_string_is_refused(text: object) -> None:
    """A value of another type is a 422 at its place."""
    with pytest.raises(InvalidInput) as caught:
        ENCODER.encode(text, loc=("body", "inputs", 3, "text"))
    assert (caught.value.status, caught.value.code) == (422, "invalid_text")
    assert caught.value.errors[0]["loc"] == ["body", "inputs", 3, "text"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\n\t  ", "\x00", "\x00 \x01", "\u200b\ufeff", "\u2003\xa0", "\x85", "\\ \\", "<b></b>", "&lt;b&gt;"],
)
def test_what_holds_nothing_to_read_is_refused(text: str) -> None:
    """Blanks, control characters, or markup alone: a 422 `empty_text`."""
    with pytest.raises(InvalidInput) as caught:
        ENCODER.encode(text)
    assert caught.value.code == "empty_text"


def test_a_text_over_the_limit_names_limit_and_length() -> None:
    """20,000 characters are taken, 20,001 are not."""
    assert len(ENCODER.encode("a " * (MAX_CHARS // 2))) == 256
    with pytest.raises(InvalidInput, match=r"at most 20,000 characters, this one has 20,001") as caught:
        ENCODER.encode("a" * (MAX_CHARS + 1))
    assert caught.value.code == "text_too_long"
    with pytest.raises(InvalidInput, match="at most 5 characters"):
        ENCODER.encode("a text", max_chars=5)


@pytest.mark.parametrize("text", ["\ud800", "oil \udfff prices"])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    """A string that is no Unicode text is a 422, never an error of the tokenizer."""
    with pytest.raises(InvalidInput, match="surrogate") as caught:
        ENCODER.encode(text)
    assert caught.value.code == "invalid_text"


@pytest.mark.parametrize("text", ["中文新闻", "☃☃☃", "🏈 🏀", "ю", "x" * 19_000, "\x00oil", "[PAD]", "[UNK] [CLS]"])
def test_unknown_words_are_taken(text: str) -> None:
    """Text in no known word still has ids, and none of them is padding."""
    ids = ENCODER.encode(text)
    assert len(ids) >= 1
    assert ids.min() >= 1


@given(st.text(st.characters(codec=None), max_size=200))
def test_any_string_is_ids_or_a_refusal(text: str) -> None:
    """Whatever the characters, there is an answer or a client error."""
    try:
        ids = ENCODER.encode(text)
    except InvalidInput:
        return
    assert 1 <= len(ids) <= 256
    assert ids.min() >= 1


def test_cutting_a_huge_text_first_changes_no_id() -> None:
    """The shortcut for long texts gives what the whole text gives, with markup and long words across the cut."""
    dice = random.Random(0)
    pieces = ["oil prices", "<", ">", "&lt;", "&gt;", "&amp;", "x" * 60, "y" * 900, "é", " ", "'s", "\\", "\u0301", "ﬁ"]
    whole = Tokenizer.from_file(str(tokenizer_file()))
    shortcuts = 0
    for number in range(150):
        weights = [number % 7 * 10, 1, 1, 1, 1, 1, 1, number % 2, 1, 60, 1, 1, 1, 1]
        text = "".join(dice.choices(pieces, weights, k=12_000))[: dice.randint(3100, MAX_CHARS)]
        expected = whole.encode(text).ids[:256]
        if expected:
            assert ENCODER.encode(text).tolist() == expected
            shortcuts += ENCODER._head(text) is not None
    assert shortcuts > 50


def test_a_batch_is_its_texts_one_by_one() -> None:
    """Order is kept, and a refusal names the index of its text."""
    texts = ["Oil prices rise", "The team wins", "x"]
    assert [ids.tolist() for ids in ENCODER.encode_batch(texts)] == [ENCODER.encode(text).tolist() for text in texts]
    with pytest.raises(InvalidInput) as caught:
        ENCODER.encode_batch([*texts, " "], loc=("body", "texts"))
    assert caught.value.errors[0]["loc"] == ["body", "texts", 3]


def test_offsets_point_at_the_words() -> None:
    """Each id stands for a piece of the caller's own text, accents and markup before it notwithstanding."""
    text = "<b>Oil</b> & gas: caf\u00e9"
    spans = ENCODER.offsets(text)
    assert len(spans) == len(ENCODER.encode(text))
    assert [text[begin:end] for begin, end in spans][:3] == ["Oil", "&", "gas"]
    assert "".join(text[begin:end] for begin, end in spans[4:]) == "caf\u00e9"


def test_padding_and_truncation_in_the_file_are_switched_off(tmp_path: Path) -> None:
    """A tokenizer file that pads or cuts by itself gives the same ids."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    other = TextEncoder(tmp_path / "tokenizer.json", TextSpec(max_length=256))
    text = "Oil prices rise as supply fears grow"
    assert other.encode(text).tolist() == ENCODER.encode(text).tolist()


def test_ids_are_small_and_own_their_memory() -> None:
    """What waits in a queue holds nothing of the tokenizer."""
    ids = ENCODER.encode("Oil prices rise")
    assert ids.base is None
    assert len(pickle.dumps(ids)) < 400


def test_length_buckets_waste_little_on_the_news(data_dir: Path) -> None:
    """Padding to the buckets is at most 15 % of the steps run for AG News' test split."""
    manifest = ZOO.verify(NAME, ZOO.live(NAME) or 0)
    articles = ag_news.read_csv(data_dir / ag_news.FOLDER / ag_news.TEST_PACKED.name)
    lengths = np.array([len(ENCODER.encode(article.text)) for article in articles])
    buckets = np.array(manifest.buckets.lengths)
    padded = buckets[np.searchsorted(buckets, lengths)]
    assert 1 - lengths.sum() / padded.sum() <= 0.15


@pytest.mark.parametrize(("words", "given"), [(256, None), (257, "257"), (812, "812"), (3000, "3,000")])
def test_a_cut_text_says_how_much_was_read(words: int, given: str | None) -> None:
    """256 tokens are read whole; of more the warning names both counts, of a long plain text too."""
    read = ENCODER.read("oil " * words)
    assert (len(read.ids), read.given, read.counted) == (min(words, 256), words, True)
    found = ENCODER.warnings(read)
    assert [each.code for each in found] == (["truncated"] if given else [])
    assert not given or f"first 256 of {given} tokens" in found[0].detail


def test_a_long_text_that_is_not_plain_gives_a_least_count() -> None:
    """Where only the beginning is tokenized, the count is never above the true one, and is said to be a bound."""
    text = "“oil prices” rise " * 800
    read = ENCODER.read(text)
    whole = len(make(100_000).encode(text))
    assert not read.counted
    assert 256 < read.given <= whole
    (warning,) = ENCODER.warnings(read)
    assert f"first 256 of at least {read.given:,} tokens" in warning.detail


@pytest.mark.parametrize(
    "text",
    ["???", "!", "... --- ...", "😀🚀", "你好，世界。", "你好!!!???...",
     "Καλημέρα κόσμε", "Привет",
     "hello Привет мир"],
)  # fmt: skip
def test_words_that_the_model_does_not_know_are_warned_of(text: str) -> None:
    """Other scripts, signs alone, and texts most of whose words are of another script."""
    assert [each.code for each in ENCODER.warnings(ENCODER.read(text))] == ["unknown_words"]


@pytest.mark.parametrize("text", ["...", "& &", "—", "???", "你好，世界。", "Привет мир"])
def test_a_text_without_a_known_word_has_no_topic(text: str) -> None:
    """Nothing was read of it that could tell one topic from another."""
    assert ENCODER.findings(ENCODER.read(text)).no_label == 1


@pytest.mark.parametrize("text", ["Oil", "3-1", "hello Привет мир", "oil " * 400])
def test_a_text_with_a_known_word_is_left_to_the_model(text: str) -> None:
    """Warned of or not, its probabilities are as the model gives them."""
    assert ENCODER.findings(ENCODER.read(text)).no_label == 0


@pytest.mark.parametrize("text", ["Oil", "hello Привет", "2004", "U.S. (Reuters) - “oil” …?"])
def test_known_words_are_not_warned_of(text: str) -> None:
    """One unknown word beside as many known ones is no reason yet."""
    assert ENCODER.warnings(ENCODER.read(text)) == ()


def test_a_manifest_may_set_the_share_of_unknown_words() -> None:
    """A stricter share warns of a text that the default lets pass."""
    strict = TextEncoder(tokenizer_file(), TextSpec(max_length=256), 0.2)
    read = strict.read("oil prices Привет")
    assert [each.code for each in strict.warnings(read)] == ["unknown_words"]
    assert "1 of the 3 word tokens" in strict.warnings(read)[0].detail
