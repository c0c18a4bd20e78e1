"""A trial of a candidate on ONNX Runtime beside the live version: does it repeat its golden sample, and how fast is it?

Only measuring; `training.gate` judges. Torch is not needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Golden, Manifest, Record

if TYPE_CHECKING:
    import onnxruntime as ort

ROWS = (1, 32)
_LEAST, _MOST, _ENOUGH_S = 7, 40, 0.5

Arrays = dict[str, NDArray[Any]]


class TrialError(Exception):
    """The candidate's file does not run."""


class Timing(Record):
    """The shortest of several runs of a batch, in milliseconds on one thread; None for what could not be run."""

    rows: int
    candidate_ms: float
    live_ms: float | None = None


class Trial(Record):
    """The worst difference to the golden sample (infinite where shapes differ), and the times by rows in a batch."""

    golden_diff: float
    timings: list[Timing]
    live_problem: str | None = None


def run(candidate: Path, draft: Manifest, live: tuple[Path, Manifest] | None = None) -> Trial:
    """Try the version in the folder `candidate`; `live` is the folder and manifest of the version to time beside it.

    Both versions are timed on the candidate's golden rows, repeated; a text model reads its own tokens of them. They
    take turns, and the shortest run of each counts, so that other work on the machine weighs on neither. Raises
    TrialError when the candidate does not run at all.
    """
    try:
        engine = _session(candidate / draft.model_file)
        diff = _golden_diff(engine, draft)
        new = _repeated(engine, draft, draft.golden)
    except Exception as exc:  # ONNX Runtime's errors have no common class
        raise TrialError(f"{draft.model_file} of the candidate does not run: {exc}") from exc
    old, problem = None, None
    if live is not None:
        folder, manifest = live
        try:
            same = draft.kind != "text" and draft.contract == manifest.contract
            old = _repeated(_session(folder / manifest.model_file), manifest, (draft if same else manifest).golden)
            old(1)
        except Exception as exc:
            old, problem = None, f"live version {manifest.version} does not run beside it: {exc}"
    return Trial(golden_diff=diff, timings=[_timed(rows, new, old) for rows in ROWS], live_problem=problem)


def _session(path: Path) -> ort.InferenceSession:
    import onnxruntime as ort  # only where a candidate is tried

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _inputs(manifest: Manifest, golden: Golden, rows: int | None = None) -> Arrays:
    given = {spec.name: np.array(golden.inputs[spec.name], spec.dtype) for spec in manifest.inputs}
    if rows is None:
        return given
    return {name: np.take(values, np.arange(rows) % len(values), axis=0) for name, values in given.items()}


def _golden_diff(engine: ort.InferenceSession, manifest: Manifest) -> float:
    names = [spec.name for spec in manifest.outputs]
    worst = 0.0
    for name, got in zip(names, engine.run(names, _inputs(manifest, manifest.golden)), strict=True):
        said = np.array(manifest.golden.outputs[name], np.float64)
        if said.shape != got.shape or not np.isfinite(got).all():
            return float("inf")
        worst = max(worst, float(np.abs(said - got).max(initial=0.0)))
    return worst


def _repeated(engine: ort.InferenceSession, manifest: Manifest, golden: Golden) -> Callable[[int], float]:
    """What runs a batch of so many golden rows and says how long it took, in seconds."""
    names = [spec.name for spec in manifest.outputs]
    batches = {rows: _inputs(manifest, golden, rows) for rows in ROWS}

    def once(rows: int) -> float:
        began = time.perf_counter()
        engine.run(names, batches[rows])
        return time.perf_counter() - began

    return once


def _timed(rows: int, new: Callable[[int], float], old: Callable[[int], float] | None) -> Timing:
    both = [each for each in (new, old) if each is not None]
    best = [float("inf")] * len(both)
    until = time.perf_counter() + _ENOUGH_S
    for turn in range(_MOST):
        for place, once in enumerate(both):
            best[place] = min(best[place], once(rows))
        if turn + 1 >= _LEAST and time.perf_counter() > until:
            break
    new_ms, *old_ms = (round(seconds * 1000, 4) for seconds in best)
    return Timing(rows=rows, candidate_ms=new_ms, live_ms=old_ms[0] if old_ms else None)
