"""How long one ONNX Runtime thread of this CPU takes for a batch of each network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from models.manifest import Manifest
from training import export
from training.comparison.runs import Run

BATCHES = (1, 32)
TURNS = 20
RUNS = 3
"""Timed runs in a turn, after one that only brings the network back into the CPU's caches."""

_FINE = 1e-6
"""Seconds: a clock that ticks more coarsely is of no use here."""


def clock() -> Callable[[], float]:
    """CPU time of this thread, so that what else the machine does is not counted; wall time where that is coarse."""
    return time.thread_time if time.get_clock_info("thread_time").resolution <= _FINE else time.perf_counter


def rows(manifest: Manifest, batch: int) -> export.Arrays:
    """The golden rows of a version, repeated to a batch; sequences keep the length they have there."""
    found = {}
    for tensor in manifest.inputs:
        golden = np.asarray(manifest.golden.inputs[tensor.name], tensor.dtype)
        found[tensor.name] = golden[np.arange(batch) % len(golden)]
    return found


def measure(runs: Mapping[str, Run]) -> dict[str, dict[int, float]]:
    """The median milliseconds of a batch by model and batch size, on one thread.

    All models take turns, so that what slows the machine for a while falls on all alike.
    """
    engines = {name: export.session(run.file) for name, run in runs.items()}
    cases = [(name, batch) for name in runs for batch in BATCHES]
    inputs = {(name, batch): rows(runs[name].manifest, batch) for name, batch in cases}
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    now = clock()
    for _ in range(TURNS):
        for case in cases:
            engine, feed = engines[case[0]], inputs[case]
            engine.run(None, feed)
            for _ in range(RUNS):
                begun = now()
                engine.run(None, feed)
                times[case].append((now() - begun) * 1000)
    return {name: {batch: statistics.median(times[name, batch]) for batch in BATCHES} for name in runs}
