"""Which readings a forecast rests on: spans of one column are replaced by the column's mean, and the forecast moves.

A first pass takes every column in spans that grow with their age; a second one takes finer spans of the columns that
moved the forecast, the more of them the more they moved it. Spans overlap by half, and are one step short at the end of
the series, where single readings matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from service.engine import Array, Tensors
from service.explain.prober import Prober, scaled

_MOST_ROWS = 400
_FIRST_ROWS = 100
"""Of them, those of the first pass."""

Span = tuple[int, int]


async def explain(prober: Prober, inputs: Tensors, sent_steps: int, forecast: Array) -> dict[str, Any]:
    """The `explanation` of a series of `sent_steps`, of which the model read `inputs`, one row of tensors.

    `forecast` float32 [horizon] is the answer's mean. Steps before the model's look-back have 0.
    """
    spec = prober.manifest.series
    if spec is None:
        raise TypeError(f"{prober.manifest.name} is no series model")
    read = await weights(prober, inputs, forecast)
    whole = np.zeros((sent_steps, read.shape[1]))
    whole[sent_steps - len(read) :] = scaled(read)
    return {"columns": spec.columns, "weights": whole}


async def weights(prober: Prober, inputs: Tensors, forecast: Array) -> Array:
    """Movement of the forecast for each step and column float64 [length, columns], in the target's unit.

    The mean over the spans that hold a reading of |change of the forecast|, meant over the horizon, for each step of
    the span.
    """
    length, width = inputs["values"].shape[1:]
    first = _spans(length, max(1, _FIRST_ROWS // width))
    blocks = np.array_split(np.arange(width), min(width, _FIRST_ROWS))  # many columns are taken some at a time
    moved = await _moved(prober, inputs, forecast, [(block, span) for block in blocks for span in first])
    by_block = moved.reshape(len(blocks), len(first))
    found = np.zeros((length, width))
    share = by_block.sum(1) / max(by_block.sum(), 1e-30)
    finer: list[tuple[Array, Span]] = []
    for block, moves, part in zip(blocks, by_block, share, strict=True):
        spans = _spans(length, int(part * (_MOST_ROWS - _FIRST_ROWS)))
        if len(block) == 1 and len(spans) > len(first):
            finer.extend((block, span) for span in spans)
        else:
            found[:, block] = _spread(first, moves, length)[:, np.newaxis] / len(block)
    if finer:
        moved = await _moved(prober, inputs, forecast, finer)
        for column in {int(block[0]) for block, _ in finer}:
            mine = [index for index, (block, _) in enumerate(finer) if block[0] == column]
            found[:, column] = _spread([finer[index][1] for index in mine], moved[mine], length)
    return found


async def _moved(prober: Prober, inputs: Tensors, forecast: Array, cuts: list[tuple[Array, Span]]) -> Array:
    """Mean |change| of the forecast for each cut, float64 [cuts], in the target's unit."""
    values = inputs["values"]
    means = values[0].mean(0, dtype=np.float64).astype(values.dtype)
    altered = np.repeat(values, len(cuts), axis=0)
    for row, (columns, (begin, end)) in zip(altered, cuts, strict=True):
        row[begin:end, columns] = means[columns]
    rows = {
        name: altered if name == "values" else np.repeat(array, len(cuts), axis=0) for name, array in inputs.items()
    }
    outputs = await prober.run(rows, values.shape[1])
    place = [spec.name for spec in prober.manifest.outputs].index("mean")
    change: Array = np.abs(outputs[place].astype(np.float64) - forecast).mean(1)
    return change


def _spans(length: int, most: int) -> list[Span]:
    """At most `most` spans [begin, end) that cover `length` steps, the finest that fit, short at the end."""
    for fineness in range(24, 0, -1):
        spans = _growing(length, fineness)
        if len(spans) <= most:
            return spans
    return [(0, length)]


def _growing(length: int, fineness: int) -> list[Span]:
    """Spans as long as 1 step and 1/`fineness` of their distance from the end, each half over the next."""
    spans = []
    age = 0
    while age < length:
        size = 1 + age // fineness
        spans.append((max(0, length - age - size), length - age))
        age += (size + 1) // 2
    return spans


def _spread(spans: list[Span], moved: Array, length: int) -> Array:
    """For each step the mean of movement for each step over the spans that hold it, float64 [length]."""
    total, count = np.zeros(length), np.zeros(length)
    for (begin, end), change in zip(spans, moved, strict=True):
        total[begin:end] += change / (end - begin)
        count[begin:end] += 1
    return total / np.maximum(count, 1)
