"""The reference of a version's drift: what its inputs and answers were like on the rows it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import disk, drift
from models.drift import BINS, Drift, Signal
from models.manifest import MANIFEST_FILE, Manifest, TextSpec
from models.store import Store
from training import export, runtime
from training.tasks.base import ServingSpec, Split, Splits, Task

ROWS = 4096
_BATCH = 256

Values = dict[str, NDArray[Any]]


def reference(task: Task, path: Path, splits: Splits, spec: ServingSpec | Manifest) -> Drift:
    """Signals of inputs over evenly spread training rows, and of answers over such validation rows.

    Answers on training rows would not do: a network is surer of what it has learnt than of anything it will see.
    """
    unknown = _unknown(path.parent, spec.text)
    learnt = _gathered(task, _some(splits.train), None, spec, unknown)
    signals = {name: _signal(values) for name, values in learnt.items()}
    answered = _gathered(task, _some(splits.validation), path, spec, unknown)
    signals["confidence"] = _signal(answered["confidence"])
    return Drift(rows=len(_some(splits.train)), signals=signals, unknown_id=unknown)


def _some(split: Split) -> Split:
    places = np.unique(np.linspace(0, len(split) - 1, min(ROWS, len(split))).astype(int)).tolist()
    return Split({name: rows[places] for name, rows in split.inputs.items()}, split.targets[places])


def _gathered(task: Task, split: Split, path: Path | None, spec: ServingSpec | Manifest, unknown: int | None) -> Values:
    """The signals of a split's inputs, or with a graph those of its answers."""
    engine = None if path is None else export.session(path, runtime.threads())
    parts: list[Values] = []
    for inputs, _ in task.batches(split, _BATCH, None):
        if engine is None:
            parts.append(_of_inputs({name: rows.cpu().numpy() for name, rows in inputs.items()}, spec, unknown))
        else:
            parts.append(drift.confidence(export.run(engine, inputs)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_inputs(inputs: Values, spec: ServingSpec | Manifest, unknown: int | None) -> Values:
    if spec.text is not None:
        return drift.words(inputs["token_ids"], spec.text.pad_id, unknown)
    if spec.series is not None:
        values, lengths = inputs["values"], inputs["lengths"]
        rows = [
            drift.readings(row[None, :length], spec.series.columns, spec.series.look_back)
            for row, length in zip(values, lengths.tolist(), strict=True)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return drift.ink(inputs["pixels"])


def _signal(values: NDArray[Any]) -> Signal:
    """About equally full bins; fewer where many rows have one value, and one beyond it where all have."""
    values = values.astype(np.float64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1]).astype(np.float32)).astype(np.float64)
    edges = edges[(edges > values.min()) & (edges <= values.max())]
    if not len(edges):
        edges = np.nextafter(values.max(keepdims=True), np.inf)
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return Signal(edges=edges.tolist(), counts=counts.tolist())


def _unknown(folder: Path, text: TextSpec | None) -> int | None:
    if text is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / text.tokenizer))
    found: int | None = tokenizer.token_to_id("[UNK]")
    return found


def additions(task: Task, path: Path, splits: Splits, manifest: Manifest) -> dict[str, Any]:
    """What a manifest says of its training data, made anew: the reference, and the ranges of a series' columns."""
    found: dict[str, Any] = {"drift": reference(task, path, splits, manifest)}
    series = task.spec(splits).series
    if manifest.series is not None and series is not None:
        found["series"] = manifest.series.model_copy(update={"ranges": series.ranges})
    return found


def complete(store: Store, name: str, version: int, made: dict[str, Any]) -> None:
    """Write additions into the manifest of the version itself: for a store that is shipped, not served from."""
    manifest = store.verify(name, version).model_copy(update=made)
    disk.write(store.folder(name, version) / MANIFEST_FILE, manifest.to_json())


def republish(store: Store, name: str, version: int, made: dict[str, Any]) -> int:
    """The live version of a model once more, with additions, as a new version that goes live; its number.

    The same files, figures and provenance: only the number, the time and the additions differ.
    """
    manifest = store.verify(name, version)
    staged = store.stage()
    try:
        shutil.copytree(
            store.folder(name, version), staged, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST_FILE)
        )
        new = store.publish(staged, manifest.model_copy(update=made)).version
    finally:
        store.discard(staged)
    store.promote_first(name, new, version)
    return new
