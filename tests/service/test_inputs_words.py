"""Plain texts word by word: the very ids of the tokenizer, or no answer at all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.manifest import TextSpec
from service.inputs import words
from service.inputs.text import TextEncoder
from tests.service.test_inputs_text import tokenizer_file
from training.datasets import ag_news

WHOLE = Tokenizer.from_file(str(tokenizer_file()))
WORDS = words.of(tokenizer_file(), WHOLE)
ALL_ASCII = st.text(st.characters(max_codepoint=0x7F), max_size=200)
PLAIN = st.text(st.sampled_from(words._PLAIN), max_size=200)
PIECES = st.lists(
    st.sampled_from(["AT&T", "amp", "lt", "gt", "&", "#39", "$5.2m", "U.S.", "_x", "a'b", "-", " ", "Oil"])
)


def expected(text: str) -> list[int]:
    return WHOLE.encode(text, add_special_tokens=False).ids


def found(text: str, by: words.Words | None = WORDS) -> list[int] | None:
    assert by is not None
    ids = by.encode(text)
    return None if ids is None else ids.tolist()


def test_the_shipped_tokenizer_takes_plain_text_word_by_word(data_dir: Path) -> None:
    """AG News' whole test split: most of it is plain, and not one id differs."""
    texts = [article.text for article in ag_news.read_csv(data_dir / ag_news.FOLDER / ag_news.TEST_PACKED.name)]
    plain = [text for text in texts if found(text) is not None]
    assert len(plain) > len(texts) / 2
    assert [found(text) for text in plain] == [expected(text) for text in plain]


@given(st.one_of(PLAIN, PIECES.map("".join), PIECES.map(" ".join)))
def test_any_plain_text_has_the_ids_of_the_tokenizer(text: str) -> None:
    """Whatever the signs and blanks."""
    assert found(text) == expected(text)


@given(st.one_of(ALL_ASCII, st.text(st.characters(codec="utf-8"), max_size=200)))
def test_any_text_has_the_ids_of_the_tokenizer_or_none(text: str) -> None:
    """With entities, control characters, other scripts: never others than the tokenizer's."""
    assert found(text) in (None, expected(text))


@pytest.mark.parametrize("text", ["a\\b", "a <b", "it#39;s", "a\tb", "a\nb", "caf\u00e9", "a\u2019s", "\x7f", "\x00"])
def test_what_the_normaliser_could_change_is_not_plain(text: str) -> None:
    """Such a text is the tokenizer's."""
    assert found(text) is None


def test_more_words_than_are_kept_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept stays small, long words are not kept, and the ids are the same."""
    monkeypatch.setattr(words, "_MOST_WORDS", 10)
    few = words.of(tokenizer_file(), WHOLE)
    assert few is not None
    dice = random.Random(0)
    for _ in range(50):
        text = " ".join(dice.choices(["oil", "x" * 30, "y" * 90, *map(str, range(40))], k=30))
        assert found(text, few) == expected(text)
        assert len(few._ids) <= 10
        assert max(map(len, few._ids)) <= 24


@pytest.mark.parametrize(
    "pattern",
    [
        ";",
        "&amp;",
        r"\bamp;",
        "&?#39;",
        "&lt;[^&<>]{0,200}&gt;",
        "<[^<>]{0,200}>",
        r"[\x00-\x1f\\]",
        "\u2018",
        "a[;<]",
        r"\\",
    ],
)
def test_a_pattern_that_needs_a_sign_no_plain_text_has_is_seen_through(pattern: str) -> None:
    """Those are the patterns of which a normaliser may have as many as it likes."""
    assert words.cannot_match(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a",
        ".",
        "a|;",
        "(;)?a",
        ";?",
        ";*a",
        "a;{0,2}",
        "[;a]",
        "[^a]",
        r"[\];]",
        "[[:alpha:]]",
        "[;&&a]",
        r"\d",
        r"\x3b",
        r"\p{L}",
        "(?i)a",
        r"\b",
        "^a",
        "a$",
        "[&]",
        ";+",
    ],
)
def test_any_other_pattern_might_match(pattern: str) -> None:
    """Optional, alternative or common signs, and all that is not understood."""
    assert not words.cannot_match(pattern)


CHANGES = {
    "a pattern in plain text": {"normalizer": {"type": "Replace", "pattern": {"Regex": "oil"}, "content": "gas"}},
    "a string": {"normalizer": {"type": "Replace", "pattern": {"String": "oil"}, "content": "gas"}},
    "a step that adds": {"normalizer": {"type": "Prepend", "prepend": "_"}},
    "other words": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
    "no words": {"pre_tokenizer": None},
    "an added token": {"added_tokens": [{"id": 1, "content": "oil prices", "single_word": False, "lstrip": False}]},
    "a frame": {"post_processor": {"type": "BertProcessing", "sep": ["[UNK]", 1], "cls": ["[UNK]", 1]}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_that_does_more_is_left_alone(tmp_path: Path, change: str) -> None:
    """Where the file does not show that words stand for themselves, the tokenizer itself is asked."""
    added = {"rstrip": False, "normalized": True, "special": False}
    content = json.loads(tokenizer_file().read_bytes()) | CHANGES[change]
    content["added_tokens"] = [one | added for one in content["added_tokens"]]
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    tokenizer = Tokenizer.from_file(str(file))
    assert words.of(file, tokenizer) is None
    text = "Oil prices rise"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert TextEncoder(file, TextSpec(max_length=256)).encode(text).tolist() == ids


def test_a_tokenizer_that_keeps_capitals_keeps_them_here(tmp_path: Path) -> None:
    """Lower case is a step of the file, and not taken for granted; no normaliser at all is plain enough."""
    content = json.loads(tokenizer_file().read_bytes())
    for normalizer in (None, {"type": "Sequence", "normalizers": [{"type": "NFKD"}]}):
        file = tmp_path / "tokenizer.json"
        file.write_text(json.dumps(content | {"normalizer": normalizer}))
        tokenizer = Tokenizer.from_file(str(file))
        kept = words.of(file, tokenizer)
        for text in ("Oil", "oil prices RISE"):
            assert found(text, kept) == tokenizer.encode(text, add_special_tokens=False).ids
        assert found("Oil", kept) != found("oil", kept)
