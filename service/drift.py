"""How far today's inputs and answers are from those of training: counted in the bins that a version's manifest gives.

A batch costs one append. Once a second, and before this worker is asked, what was gathered is counted in one go; of
a model that is asked more only a part of the rows is. Old rows fade: after some thousand newer ones half of their
weight is left. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Metric

from models import drift
from models.manifest import Manifest
from service.batch import Done, Part
from service.tensors import Array

HALF_LIFE_ROWS = 2000
LEAST_ROWS = 100
"""Fewer rows tell nothing: the index of ten bins is about nine over their number by chance alone."""
_EVERY_S = 1.0
_MOST_ROWS = 512
_MOST_VALUES = 400_000
"""Input values that one counting looks at: some milliseconds a second at most."""
_COUNTS = "neuroserve_drift_rows"


class _Watched:
    """The live version of one model in this process."""

    def __init__(self, manifest: Manifest, reference: drift.Drift, gauge: Gauge) -> None:
        self.version = manifest.version
        self._manifest = manifest
        self._reference = reference
        self._edges = {name: np.array(signal.edges) for name, signal in reference.signals.items()}
        self.counts = {name: np.zeros(len(signal.counts)) for name, signal in reference.signals.items()}
        self._bins = {
            name: [gauge.labels(manifest.name, str(manifest.version), name, str(place)) for place in range(len(counts))]
            for name, counts in self.counts.items()
        }
        self._batches: list[Done] = []
        self._rows = 0

    def take(self, done: Done) -> bool:
        """Keep a batch for the next counting, if there is room; whether it is the first."""
        if self._rows >= _MOST_ROWS:
            return False
        self._batches.append(done)
        self._rows += done.rows
        return len(self._batches) == 1

    def write(self) -> None:
        """Count what was kept."""
        batches, self._batches, self._rows = self._batches, [], 0
        if not batches:
            return
        for name, values in self._signals(batches).items():
            edges, counts = self._edges.get(name), self.counts.get(name)
            if edges is None or counts is None or not len(values):
                continue
            counts *= 0.5 ** (len(values) / HALF_LIFE_ROWS)
            counts += np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(counts))
            for child, count in zip(self._bins[name], counts.tolist(), strict=True):
                child.set(count)

    def forget(self) -> None:
        """Another version is live."""
        for children in self._bins.values():
            for child in children:
                child.set(0)

    def _signals(self, batches: list[Done]) -> dict[str, Array]:
        inputs, outputs = _rows(batches, [spec.name for spec in self._manifest.outputs])
        if not inputs:
            return {}
        found: dict[str, Array] = drift.confidence(outputs)
        return found | _of_inputs(inputs, self._manifest, self._reference)


def _rows(batches: list[Done], names: list[str]) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """The inputs of each part that a client sent, and the outputs of their rows."""
    parts: list[Part] = []
    kept: list[list[Array]] = []
    room = float(_MOST_VALUES)
    for done in batches:
        if room <= 0 or isinstance(done.outputs, Exception):
            continue
        sent = [item.part for item in done.items if not item.part.altered]
        if len(sent) == len(done.items):
            kept.append(done.outputs)
        elif sent:
            mine = np.repeat([not item.part.altered for item in done.items], [item.part.rows for item in done.items])
            kept.append([output[mine] for output in done.outputs])
        else:
            continue
        parts += sent
        first = sent[0]
        room -= sum(array.size for array in first.inputs.values()) / first.rows * done.rows
    columns = zip(*kept, strict=True)
    outputs = {name: np.concatenate(column) for name, column in zip(names, columns, strict=True)} if kept else {}
    return [part.inputs for part in parts], outputs


def _of_inputs(parts: list[dict[str, Array]], manifest: Manifest, reference: drift.Drift) -> dict[str, Array]:
    """The signals of the parts' rows, in no order of theirs: rows of one length are taken together."""
    text, series = manifest.text, manifest.series
    if text is not None:
        padded = _padded([part["token_ids"] for part in parts], text.pad_id)
        return dict(drift.words(padded, text.pad_id, reference.unknown_id))
    if series is None:
        return dict(drift.ink(np.concatenate([part["pixels"] for part in parts])))
    alike: dict[int, list[Array]] = {}
    for part in parts:
        for row, length in zip(part["values"], part["lengths"].tolist(), strict=True):
            seen = row[max(0, length - series.look_back) : length]
            alike.setdefault(len(seen), []).append(seen)
    found = [drift.readings(np.stack(rows), series.columns, series.look_back) for rows in alike.values()]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _padded(arrays: list[Array], fill: int) -> Array:
    whole = np.full((sum(map(len, arrays)), max(array.shape[1] for array in arrays)), fill, np.int64)
    at = 0
    for array in arrays:
        whole[at : at + len(array), : array.shape[1]] = array
        at += len(array)
    return whole


class DriftMetrics:
    """The counts of one process, and the index from those of all."""

    def __init__(self, at: CollectorRegistry) -> None:
        self._gauge = Gauge(
            _COUNTS,
            "Rows in each bin of a signal, newer ones first: old ones fade",
            ["model", "version", "signal", "bin"],
            multiprocess_mode="livesum",
            registry=at,
        )
        self._watched: dict[str, _Watched] = {}
        self._references: dict[str, tuple[int, drift.Drift]] = {}
        self._planned = False

    def follow(self, manifest: Manifest) -> None:
        """A version is live now: its bins hold."""
        if (before := self._watched.pop(manifest.name, None)) is not None:
            before.forget()
        self._references.pop(manifest.name, None)
        if manifest.drift is not None:
            self._references[manifest.name] = manifest.version, manifest.drift
            self._watched[manifest.name] = _Watched(manifest, manifest.drift, self._gauge)

    def take(self, model: str, done: Done) -> None:
        """One batch that the live version has answered."""
        watched = self._watched.get(model)
        if watched is not None and watched.take(done) and not self._planned:
            self._planned = True
            asyncio.get_running_loop().call_later(_EVERY_S, self.write)

    def write(self) -> None:
        """Count what is news."""
        self._planned = False
        for watched in self._watched.values():
            watched.write()

    @staticmethod
    def counts(families: Iterable[Metric], model: str, version: int) -> dict[str, list[float]]:
        """The counts of a version's signals, bin by bin."""
        found: dict[str, dict[int, float]] = {}
        for family in families:
            for sample in family.samples if family.name == _COUNTS else ():
                labels = sample.labels
                if (labels["model"], labels["version"]) == (model, str(version)):
                    found.setdefault(labels["signal"], {})[int(labels["bin"])] = sample.value
        return {name: [bins[place] for place in sorted(bins)] for name, bins in found.items()}

    def index(self, families: list[Metric]) -> Metric:
        """The population stability index of each signal that has rows enough."""
        index = Metric("neuroserve_drift_psi", "How far a signal is from training: below 0.1 it rests", "gauge")
        for model, (version, reference) in sorted(self._references.items()):
            for name, counts in sorted(self.counts(families, model, version).items()):
                if sum(counts) >= LEAST_ROWS and len(counts) == len(reference.signals[name].counts):
                    index.add_sample(index.name, {"model": model, "signal": name}, reference.signals[name].psi(counts))
        return index
