"""Text to the token ids that the graph takes, by the tokenizer file that lies beside the model.

All normalisation is in that file, so nothing here can differ from what training did.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from models.manifest import TextSpec
from service.errors import InvalidInput, Location
from service.inputs import words
from service.warnings import NOTHING, AnswerWarning, Findings

MAX_CHARS = 20_000
_KINDS = {
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}
_PLAIN_CHARS = MAX_CHARS
"""Texts up to this length are tried word by word, which also counts their tokens."""
_UNKNOWN_SHARE = 0.5
_HEAD_CHARS = 3072
"""A longer text is first tried by so many of its characters."""
_SEAM_CHARS = 512
"""How far before its end a cut may change tokens: more than the longest match of the tokenizer's normaliser."""


class ReadText(NamedTuple):
    """The ids int64 [length] that the model reads of a text, and how many the whole text has.

    Of a long text the whole is not always read: then `given` is less than it has, and `counted` false.
    """

    ids: NDArray[np.int64]
    given: int
    counted: bool = True


class TextEncoder:
    """Token ids int64 of texts, at most `spec.max_length` of them, without padding.

    A text of whose words more than `unknown_share` are unknown to the tokenizer gets a warning, and so does one
    without any word or number. Safe to share between threads and to fork with: the tokenizer's own threads are
    switched off.
    """

    def __init__(self, tokenizer_file: Path, spec: TextSpec, unknown_share: float | None = None) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = spec.max_length
        self._words = words.of(tokenizer_file, self._tokenizer)
        self._unknown_share = _UNKNOWN_SHARE if unknown_share is None else unknown_share
        self._unknown, self._is_word = _kinds_of_tokens(self._tokenizer)

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
        return self.read(text, max_chars=max_chars, loc=loc).ids

    def read(self, text: object, *, max_chars: int = MAX_CHARS, loc: Location = ("body", "text")) -> ReadText:
        """The same with how many tokens the text has; raises as `encode` does."""
        found = self._read(_check(text, max_chars, loc))
        if not len(found.ids):
            raise _empty(loc)
        return found

    def findings(self, read: ReadText) -> Findings:
        """The warnings of a text that was read; without a single known word it has no topic that a model could tell."""
        warnings = self.warnings(read)
        if not warnings:
            return NOTHING
        # No row of the training or the validation news lacks a known word: the fitted probability is 1.
        return Findings(warnings, no_label=0.0 if self._count_words(read.ids) else 1.0)

    def warnings(self, read: ReadText) -> tuple[AnswerWarning, ...]:
        """What to warn of in a text that was read."""
        found = []
        if read.given > self._max_length:
            found.append(_truncated(self._max_length, read))
        if self.is_unknown(read.ids):
            found.append(_unknown_words(int(np.count_nonzero(read.ids == self._unknown)), self._count_words(read.ids)))
        return tuple(found)

    def is_unknown(self, ids: NDArray[np.int64]) -> bool:
        """Whether most words of a text, given by its ids [length] without padding, are unknown, or it has none."""
        known = self._count_words(ids)
        if known >= len(ids) * (1 - self._unknown_share):  # most texts: no need to look closer
            return not known
        unknown = int(np.count_nonzero(ids == self._unknown))
        return not known or unknown > self._unknown_share * (unknown + known)

    def _count_words(self, ids: NDArray[np.int64]) -> int:
        return int(np.count_nonzero(self._is_word.take(ids)))

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

    def _read(self, text: str) -> ReadText:
        if self._words is not None and len(text) <= _PLAIN_CHARS:
            plain = self._words.encode(text)
            if plain is not None:
                return ReadText(plain[: self._max_length].copy(), len(plain))
        if len(text) > _HEAD_CHARS:
            head = self._head(text)
            if head is not None:
                return head
        found: list[Encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids = found[0].ids
        return ReadText(np.array(ids[: self._max_length], np.int64), len(ids))

    def _head(self, text: str) -> ReadText | None:
        """The ids by the beginning of a long text alone, or None if the end of the cut could have changed them.

        `given` counts the tokens up to where the cut could have changed them.
        """
        encoding = self._encoding(text[:_HEAD_CHARS])
        ends = encoding.offsets[self._max_length - 1 : self._max_length]
        if not ends or ends[0][1] > _HEAD_CHARS - _SEAM_CHARS:
            return None
        ids = np.array(encoding.ids[: self._max_length], np.int64)
        certain = bisect_right(encoding.offsets, _HEAD_CHARS - _SEAM_CHARS, key=lambda offset: offset[1])
        return ReadText(ids, max(certain, self._max_length + 1), counted=False)

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


def _kinds_of_tokens(tokenizer: Tokenizer) -> tuple[int, NDArray[np.bool_]]:
    """The id of the token for unknown words (-1 where there is none), and which ids are known and not mere signs."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    place = tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None
    is_word = np.zeros(tokenizer.get_vocab_size(), bool)
    for token, at in tokenizer.get_vocab().items():
        is_word[at] = at != place and any(map(str.isalnum, token))
    return -1 if place is None else place, is_word


def _truncated(most: int, read: ReadText) -> AnswerWarning:
    given = f"{read.given:,}" if read.counted else f"at least {read.given:,}"
    return AnswerWarning(
        "truncated",
        f"The model read the first {most:,} of {given} tokens; the rest of the text did not count. "
        "Send a shorter text, or its parts one by one.",
    )


def _unknown_words(unknown: int, known: int) -> AnswerWarning:
    if not unknown:
        return AnswerWarning("unknown_words", "The text holds no word and no number. Do not rely on this answer.")
    return AnswerWarning(
        "unknown_words",
        f"The model does not know {unknown:,} of the {unknown + known:,} word tokens that it read: it knows the "
        "language of its training texts only. Do not rely on this answer.",
    )


def _empty(loc: Location) -> InvalidInput:
    return _invalid(loc, "empty_text", "text must hold at least one word, number or sign", "nothing to read")


def _invalid(loc: Location, code: str, detail: str, at_place: str) -> InvalidInput:
    return InvalidInput(detail, code=code, errors=[(loc, at_place)])
