"""Runs of altered inputs through the engine that gave an answer, in the same queue as everybody else's rows.

"Altered" means that a part of the input is taken away; how far the answer moves is that part's weight (occlusion:
Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014). It asks nothing of the network
but its answers, so it serves every network on every device.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from service.batch import Part, Queue
from service.device import CPU
from service.engine import Array, Tensors
from service.errors import DeadlinePassed
from service.slot import Loaded

_LEAST = 1e-7
"""Probabilities are kept so far from 0 and 1: float32 has no finer ones near 1."""
_MANY_LABELS = 8
"""With fewer labels the least probable one's share is no measure of what all have in common."""

_CPU_SHARE = 4
"""A run on a CPU is so many times as long as is needed for its pace: there it is made in several goes anyway."""


class Prober:
    """What an explanation may ask of one engine until `deadline`, in seconds of the event loop's clock.

    Rows go one run's worth at a time, on a CPU a part of that, so that other requests wait for no more than it. The
    engine must be held (`Batcher.hold`) from before its answer on, or a swap could close it in between.
    """

    def __init__(self, batcher: Queue, loaded: Loaded, *, deadline: float, gone: Callable[[], bool]) -> None:
        self.manifest = loaded.manifest
        self._loaded = loaded
        self._batcher = batcher
        self._engine = loaded.engine
        self._deadline = deadline
        self._gone = gone

    async def run(self, inputs: Tensors, length: int = 0) -> list[Array]:
        """The outputs in the graph's order, each [rows, …], for inputs with as many rows, `length` steps each.

        Raises what the batcher raises: Busy, Unavailable, DeadlinePassed, InternalError; is cancelled when the client
        has gone.
        """
        rows = len(next(iter(inputs.values())))
        most = self._batcher.most_rows(self._engine.bucket_length(length))
        if self._engine.provider == CPU:
            most = max(1, most // _CPU_SHARE)
        goes = []
        for at in range(0, rows, most):
            some = {name: array[at : at + most] for name, array in inputs.items()}
            part = Part(some, min(most, rows - at), length, altered=True)
            goes.append(await self._run(part))
        return goes[0] if len(goes) == 1 else [np.concatenate(each) for each in zip(*goes, strict=True)]

    async def probabilities(self, inputs: Tensors, length: int = 0) -> Array:
        """The probabilities float32 [rows, labels] of a classifier for such inputs; raises as `run` does."""
        return (await self.run(inputs, length))[self._loaded.classifier.place]

    async def _run(self, part: Part) -> list[Array]:
        left_s = self._deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise DeadlinePassed("The deadline passed while the answer was being explained.")
        (future,) = self._batcher.submit(self._engine, [part], timeout_s=left_s, gone=self._gone)
        return (await future).outputs


def log_odds(probabilities: Array, label: int) -> Array:
    """ln(p / (1 - p)) float64 [rows] of one label, from probabilities float32 [rows, labels].

    Unlike p itself it still moves where the model is all but sure. What all of many labels share, as the network's
    doubt is spread over them, is taken off first: it speaks for none of them.
    """
    chances = probabilities.astype(np.float64)
    if chances.shape[1] >= _MANY_LABELS:
        chances -= chances.min(1, keepdims=True)
        chances /= np.maximum(chances.sum(1, keepdims=True), _LEAST)
    p = np.clip(chances[:, label], _LEAST, 1 - _LEAST)
    return np.log(p) - np.log1p(-p)


def scaled(weights: Array) -> Array:
    """Weights float64, the negative ones at 0 and the largest at 1, to four digits; all 0 where none is positive."""
    positive: Array = np.maximum(np.nan_to_num(weights), 0.0)
    largest = positive.max(initial=0.0)
    return (positive / largest).round(4) if largest > 0 else positive
