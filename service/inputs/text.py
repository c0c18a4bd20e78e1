"""Text to the token ids that the graph takes, by the tokenizer file that lies beside the model.

All normalisation is in that file, so nothing here can differ from what training did.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.manifest import TextSpec
from service.errors import InvalidInput, Location
from service.inputs import words

MAX_CHARS = 20_000
_KINDS = {
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
_HEAD_CHARS = 3072
"""A longer text is first tried by so many of its characters."""
_SEAM_CHARS = 512
"""How far before its end a cut may change tokens: more than the longest match of the tokenizer's normaliser."""


class TextEncoder:
    """Token ids int64 of texts, at most `spec.max_length` of them, without padding.

    Safe to share between threads and to fork with: the tokenizer's own threads are switched off.
    """

    def __init__(self, tokenizer_file: Path, spec: TextSpec) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = spec.max_length
        self._words = words.of(tokenizer_file, self._tokenizer)

    @property
    def vocabulary(self) -> int:
        """How many ids there are, from 0 on."""
        return self._tokenizer.get_vocab_size()

    def encode(
        self, text: object, *, max_chars: int = MAX_CHARS, loc: Location = ("body", "text")
    ) -> NDArray[np.int64]:
        """The ids [length] of one text, 1 <= length <= max_length.

        Raises InvalidInput `invalid_text` (no string, or no valid Unicode), `text_too_long` or `empty_text`, at `loc`.
        """
        checked = _check(text, max_chars, loc)
        ids = self._ids(checked)
        if not len(ids):
            raise _empty(loc)
        return ids

    def encode_batch(
        self, texts: list[str], *, max_chars: int = MAX_CHARS, loc: Location = ("body", "inputs")
    ) -> list[NDArray[np.int64]]:
        """The ids of each text, in order; an error names the index of the first text that is not taken."""
        return [self.encode(text, max_chars=max_chars, loc=(*loc, index)) for index, text in enumerate(texts)]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """For each id that `encode` gives for the text, the characters [begin, end) it stands for.

        Of a sign that was written as an entity, only a part of the entity.
        """
        return self._encoding(text).offsets[: self._max_length]

    def _ids(self, text: str) -> NDArray[np.int64]:
        if self._words is not None and len(text) <= _HEAD_CHARS:
            plain = self._words.encode(text)
            if plain is not None:
                return plain[: self._max_length].copy()
        return np.array(self._tokenized(text), np.int64)

    def _tokenized(self, text: str) -> list[int]:
        """The ids by the tokenizer itself."""
        if len(text) > _HEAD_CHARS:
            head = self._head(text)
            if head is not None:
                return head
        found: list[Encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return found[0].ids[: self._max_length]

    def _head(self, text: str) -> list[int] | None:
        """The ids by the beginning of a long text alone, or None if the end of the cut could have changed them."""
        encoding = self._encoding(text[:_HEAD_CHARS])
        ends = encoding.offsets[self._max_length - 1 : self._max_length]
        if not ends or ends[0][1] > _HEAD_CHARS - _SEAM_CHARS:
            return None
        return encoding.ids[: self._max_length]

    def _encoding(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)


def _check(text: object, max_chars: int, loc: Location) -> str:
    if not isinstance(text, str):
        raise _invalid(
            loc,
            "invalid_text",
            "text must be a string",
            f"{_KINDS.get(type(text), type(text).__name__)} is not a string",
        )
    if len(text) > max_chars:
        detail = f"text may have at most {max_chars:,} characters, this one has {len(text):,}"
        raise _invalid(loc, "text_too_long", detail, f"{len(text):,} characters, the limit is {max_chars:,}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            place = f"character {exc.start} is half of a surrogate pair"
            raise _invalid(loc, "invalid_text", f"text must be valid Unicode: {place}", place) from None
    if text.isspace() or not any(map(str.isprintable, text)):
        raise _empty(loc)
    return text


def _empty(loc: Location) -> InvalidInput:
    return _invalid(loc, "empty_text", "text must hold at least one word, number or sign", "nothing to read")


def _invalid(loc: Location, code: str, detail: str, at_place: str) -> InvalidInput:
    return InvalidInput(detail, code=code, errors=[(loc, at_place)])
