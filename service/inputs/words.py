"""Token ids of plain English texts, word by word, several times as fast as a tokenizer takes the whole text.

A tokenizer's normaliser looks for dozens of patterns in each text: entities, tags, typographic signs. In printable
ASCII without the signs that those need, none can be found; what is left to do is lower case, words, and the ids of
each word, which are the same wherever it stands. `of` proves that of a tokenizer's file, pattern by pattern; where it
cannot, every text takes the tokenizer's own way.
"""

from __future__ import annotations

import re
import string
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import Model

_PLAIN = (string.ascii_letters + string.digits + string.punctuation + " ").translate(str.maketrans("", "", ";<\\"))
_PLAIN_BYTES = _PLAIN.encode()
_WORDS = re.compile(r"\w+|[^\w ]+", re.ASCII)
"""What the library's pre-tokenizer `Whitespace` makes of plain text."""
_MOST_WORDS, _MOST_CHARS = 16_384, 24

_NEUTRAL = {"NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase"}
"""Normalisers that do nothing to ASCII, or put it into lower case."""
_CLASS = r"\[(?:\\.|&(?!&)|[^\]\[\\&])+\]"
_TOKEN = re.compile(rf"({_CLASS}|\\b|\\[^0-9A-Za-z]|[^\\\[\](){{}}|?*+])([?*]|\{{[^}}]*\}})?")


class Words:
    """The ids of plain texts by one tokenizer; the words it met, up to a number, are kept."""

    def __init__(self, model: Model, *, lower: bool) -> None:
        self._ids = _Known(model)
        self._lower = lower

    def encode(self, text: str) -> NDArray[np.int64] | None:
        """What the tokenizer gives for a plain text, read-only; None for any other."""
        if not text.isascii() or text.encode().translate(None, _PLAIN_BYTES):
            return None
        words = _WORDS.findall(text.lower() if self._lower else text)
        return np.frombuffer(b"".join(map(self._ids.__getitem__, words)), np.int64)


class _Known(dict[str, bytes]):
    """Words to their ids, int64 as bytes; asks the model for those that are new."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def __missing__(self, word: str) -> bytes:
        ids = array("q", [token.id for token in self._model.tokenize(word)]).tobytes()
        if len(word) <= _MOST_CHARS:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


def of(tokenizer_file: Path, tokenizer: Tokenizer) -> Words | None:
    """The words of a tokenizer, if its file shows that it does nothing else to plain text."""
    described = orjson.loads(tokenizer_file.read_bytes())
    steps = _steps(described["normalizer"])
    plain = (
        described["pre_tokenizer"] == {"type": "Whitespace"}
        and not described["added_tokens"]
        and described["post_processor"] is None
        and all(map(_leaves_alone, steps))
    )
    return Words(tokenizer.model, lower={"type": "Lowercase"} in steps) if plain else None


def _steps(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normaliser's steps, in order."""
    if normalizer is None:
        return []
    return normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]


def _leaves_alone(step: dict[str, Any]) -> bool:
    """Whether a normaliser's step does nothing to plain text but put it into lower case."""
    if step["type"] != "Replace":
        return step["type"] in _NEUTRAL
    pattern = step["pattern"]
    return "Regex" in pattern and cannot_match(pattern["Regex"])


def cannot_match(pattern: str) -> bool:
    """Whether a simple regular expression needs a character that no plain text has; False where that is not seen."""
    tokens = list(_TOKEN.finditer(pattern))
    if "".join(token[0] for token in tokens) != pattern:
        return False  # groups, alternatives, classes in classes: more than is understood here
    return any(token[2] is None and re.search(token[1], _PLAIN) is None for token in tokens)
