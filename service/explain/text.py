"""Which words of a text the answer rests on: each is left out in turn.

The words behind it move up, so that the model reads a shorter text, such as it knows, and no gap. A word is a run of
characters between white space, with the punctuation and entities it was written with. Short texts are read once for
each word. In long ones neighbouring words are left out together first, and the groups that cost the answer most are
then read word by word.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from service.engine import Array
from service.explain.prober import Prober, log_odds, scaled

_MOST_ROWS = 96
"""Of one explanation; a text with more words than that is read in groups first."""
_GROUPS = 40
_WORD = re.compile(r"\S+")


async def explain(
    prober: Prober, text: str, token_ids: Array, offsets: list[tuple[int, int]], probabilities: Array
) -> dict[str, Any]:
    """The `explanation` of a text that was answered with probabilities float32 [labels].

    `token_ids` int64 [length] are what the model read, `offsets` the characters of each. Words beyond them have 0.
    """
    found = list(_WORD.finditer(text))
    words = _words_of_tokens([match.start() for match in found], offsets)
    read = np.unique(words)
    weights = np.zeros(len(found))
    weights[read] = await _weights(prober, token_ids, np.searchsorted(read, words), len(read), probabilities)
    rounded = scaled(weights).tolist()
    return {
        "words": [
            {"text": match.group(), "start": match.start(), "end": match.end(), "weight": weight}
            for match, weight in zip(found, rounded, strict=True)
        ]
    }


def _words_of_tokens(starts: list[int], offsets: list[tuple[int, int]]) -> Array:
    """The index of the word that each token belongs to."""
    begins = np.array([begin for begin, _ in offsets], np.int64)
    return np.maximum(np.searchsorted(np.array(starts, np.int64), begins, side="right") - 1, 0)


async def _weights(prober: Prober, token_ids: Array, words: Array, count: int, probabilities: Array) -> Array:
    """Fall of the answer's log-odds by each of `count` words, float64 [count]; `words` [length] in 0..count-1."""
    label = int(probabilities.argmax())
    pad = prober.manifest.text.pad_id if prober.manifest.text else 0
    height = log_odds(probabilities[np.newaxis], label)[0]

    async def falls(groups: list[Array]) -> Array:
        hidden = np.stack([np.isin(words, group) for group in groups])
        rows = {prober.manifest.inputs[0].name: _without(token_ids, hidden, pad)}
        fall: Array = height - log_odds(await prober.probabilities(rows, len(token_ids)), label)
        return fall

    if count <= _MOST_ROWS:
        return await falls([np.array([word]) for word in range(count)])
    groups = np.array_split(np.arange(count), _GROUPS)
    by_group = await falls(groups)
    weights = np.zeros(count)
    budget = _MOST_ROWS - _GROUPS
    chosen: list[Array] = []
    for index in np.argsort(-by_group, kind="stable"):
        if len(groups[index]) > budget:
            break
        budget -= len(groups[index])
        chosen.extend(groups[index].reshape(-1, 1))
    for index, group in enumerate(groups):
        weights[group] = by_group[index] / len(group)
    alone = np.concatenate(chosen)
    weights[alone] = await falls(chosen)
    return weights


def _without(token_ids: Array, hidden: Array, pad: int) -> Array:
    """Rows [rows, length] of the tokens [length] that are not hidden [rows, length], padded at their end."""
    order = hidden.argsort(axis=1, kind="stable")
    rows: Array = np.take_along_axis(np.where(hidden, pad, token_ids), order, axis=1)
    return rows
