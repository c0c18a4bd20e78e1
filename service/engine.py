"""One ONNX Runtime session on one device: built, checked against its golden sample, then run in padded batches."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
import onnxruntime

from models.manifest import Manifest
from service.binding import NO_GRAPH, Bindings, run_options
from service.device import CPU, Device, DeviceError, driver
from service.providers import open_session
from service.tensors import Array, Tensors, at_least, cut, has_length, pack, repeat_last

__all__ = ["Array", "Engine", "EngineError", "Runner", "Tensors", "load"]

log = logging.getLogger(__name__)

_CPU_ROWS, _CPU_STEPS = 16, 1024
"""Most rows, and rows x length, of one go on a CPU: beyond them the intermediate values leave the core's cache, a row
costs up to a third more, and the session's memory only grows."""

_QUICK_S = 0.003
"""A batch on a CPU that takes less than this runs on the event loop: two changes of thread cost more."""


class EngineError(RuntimeError):
    """The model cannot be loaded or does not answer as its manifest says."""


class Runner(Protocol):
    """What the batcher needs of an engine."""

    version: int
    provider: str

    def bucket_length(self, length: int) -> int:
        """The padded length of a row of `length` steps; 0 for graphs without a length axis."""

    def padded_rows(self, rows: int) -> int:
        """The rows that the device really runs for a batch of so many."""

    def quick(self, rows: int, length: int) -> bool:
        """Whether so many rows take less time than handing them to another thread and back is worth."""

    def run(self, parts: list[Tensors], rows: int, length: int) -> list[Array]:
        """Run the rows of all parts, padded to `length`, as one batch: the outputs in order, each [rows, …]."""

    def is_sound(self) -> bool:
        """Whether the device is still there and still gives the golden answers; asked after a run has failed."""

    def close(self) -> None:
        """Free the session; nothing may run after it."""


class Engine:
    """A model version that is ready to run on `device`.

    `bind` says whether batches go through fixed, bound buffers; by default they do where the session is not on a CPU.
    Raises EngineError when the file does not load or fails its self-test, DeviceError when `cuda` or TensorRT was
    asked for and the session did not get it.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: Device, *, bind: bool | None = None) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.version = manifest.version
        self._session = open_session(folder / manifest.model_file, manifest, device)
        self.provider = self.present_provider()
        _check_provider(self.name, self.provider, device)
        self._inputs = manifest.inputs
        self._output_names = [spec.name for spec in manifest.outputs]
        self._lengths = manifest.buckets.lengths
        self._rows = manifest.buckets.rows
        self._pads_rows = self.provider != CPU  # a CPU session has no cost a new shape
        self._row_s: dict[int, float] = {}
        _check_tensors(self._session, manifest)
        self._graphs = device.cuda_graphs != "off" and self.provider != CPU
        self._bindings: Bindings | None = None
        if self._pads_rows if bind is None else bind:
            self._pads_rows = True
            locks = driver() if device.try_cuda else None
            self._bindings = Bindings(self._session, manifest, driver=locks, graphs=self._graphs)

    # ------------------------------------------------------------------ running

    def bucket_length(self, length: int) -> int:
        return at_least(self._lengths, length) if length else 0

    def padded_rows(self, rows: int) -> int:
        if not self._pads_rows:
            return rows
        whole, rest = divmod(rows, self._rows[-1])
        return whole * self._rows[-1] + (at_least(self._rows, rest) if rest else 0)

    def quick(self, rows: int, length: int) -> bool:
        return rows * self._row_s.get(length, _QUICK_S) < _QUICK_S

    def run(self, parts: list[Tensors], rows: int, length: int) -> list[Array]:
        """One batch from the parts; more rows than are good at once run in several goes of the same session."""
        largest = self._most_rows(length)
        if rows <= largest:
            return self._run_bucket(parts, rows, length)
        feed = self._pack(parts, rows, length)
        goes = [
            self._run_bucket([{name: array[at : at + largest] for name, array in feed.items()}], rows_here, length)
            for at in range(0, rows, largest)
            if (rows_here := min(largest, rows - at))
        ]
        return [np.concatenate(outputs) for outputs in zip(*goes, strict=True)]

    def _pack(self, parts: list[Tensors], rows: int, length: int) -> Tensors:
        return {spec.name: pack(spec, [part[spec.name] for part in parts], rows, length) for spec in self._inputs}

    def _most_rows(self, length: int) -> int:
        if self._pads_rows:
            return self._rows[-1]
        return max(1, min(_CPU_ROWS, _CPU_STEPS // length)) if length else _CPU_ROWS

    def _run_bucket(self, parts: list[Tensors], rows: int, length: int) -> list[Array]:
        if not self._pads_rows:
            outputs: list[Array] = self._session.run(self._output_names, self._pack(parts, rows, length))
            return outputs
        padded = at_least(self._rows, rows)
        if self._bindings is not None and self._bindings.covers(padded, length):
            return self._bindings.run(parts, rows, (padded, length))
        feed = self._pack(parts, rows, length)
        if padded != rows:
            feed = {name: repeat_last(array, padded - rows) for name, array in feed.items()}
        outputs = self._session.run(self._output_names, feed, run_options(NO_GRAPH) if self._graphs else None)
        return [output[:rows] for output in outputs]

    def is_sound(self) -> bool:
        if self.provider == CPU:
            return True  # what fails on a CPU fails because of its input
        try:
            self.self_test()
        except Exception:  # ONNX Runtime raises a class of its own per status
            log.exception("%s version %d fails its self-test on %s now", self.name, self.version, self.provider)
            return False
        return self.present_provider() == self.provider

    def present_provider(self) -> str:
        """What the session runs on now, by its own account."""
        return str(self._session.get_providers()[0])

    def close(self) -> None:
        if self._bindings is not None:
            self._bindings.close()
            self._bindings = None
        del self._session

    # ------------------------------------------------------------------ proving

    def warm_up(self) -> None:
        """Run each shape once that serving will use, so that no request pays for it."""
        golden = self._golden_inputs()
        lengths = self._lengths or [0]
        for length in lengths:
            for count in self._rows if self._pads_rows else sorted({1, self._most_rows(length)}):
                one = {name: array[:1] for name, array in golden.items()}
                self.run([cut(self._inputs, one, length)] * count, count, length)
            if not self._pads_rows:
                self._row_s[length] = self._time_of_a_row(cut(self._inputs, one, length), length)

    def _time_of_a_row(self, row: Tensors, length: int) -> float:
        """Seconds that a row of a full batch takes on this CPU, the best of a few."""
        rows = self._most_rows(length)
        times: list[float] = []
        while len(times) < 3 and rows * sum(times) < _QUICK_S:  # no need to time a slow batch more often
            started = perf_counter()
            self.run([row] * rows, rows, length)
            times.append((perf_counter() - started) / rows)
        return min(times)

    def self_test(self) -> float:
        """Repeat the manifest's golden sample; EngineError when the answer differs by more than its tolerance.

        Returns the largest absolute difference.
        """
        golden = self.manifest.golden
        inputs = self._golden_inputs()
        rows = len(next(iter(inputs.values())))
        longest = max((inputs[spec.name].shape[1] for spec in self._inputs if has_length(spec)), default=0)
        length = self.bucket_length(longest)
        outputs = dict(zip(self._output_names, self.run([inputs], rows, length), strict=True))
        worst = 0.0
        for name, expected in golden.outputs.items():
            difference = np.abs(outputs[name].astype(np.float64) - np.asarray(expected, np.float64))
            worst = max(worst, float(difference.max()))
        if not worst <= golden.atol:  # a NaN is a failure too
            raise EngineError(
                f"{self.name} version {self.version} fails its self-test on {self.provider}: "
                f"off by {worst:.3g}, at most {golden.atol:g} is allowed"
            )
        return worst

    def _golden_inputs(self) -> Tensors:
        golden = self.manifest.golden.inputs
        return {spec.name: np.asarray(golden[spec.name], dtype=spec.dtype) for spec in self._inputs}


def load(folder: Path, manifest: Manifest, device: Device, *, bind: bool | None = None) -> Engine:
    """A warmed and self-tested engine for the version in `folder`.

    With CUDA graphs `auto`, a version whose graph cannot be captured runs without, and `device` says so.
    """
    if device.try_cuda and device.cuda_graphs == "auto":
        try:
            engine = _ready(folder, manifest, device, bind)
        except (EngineError, DeviceError) as exc:
            plain = _ready(folder, manifest, replace(device, cuda_graphs="off"), bind)
            log.warning("%s version %d runs without CUDA graphs: %s", manifest.name, manifest.version, exc)
            device.remark(manifest.name, "runs without CUDA graphs")
            return plain
    else:
        engine = _ready(folder, manifest, device, bind)
    lacks = device.try_cuda and engine.provider == CPU
    device.remark(manifest.name, "CUDA was tried, ONNX Runtime gave the CPU" if lacks else None)
    return engine


def _ready(folder: Path, manifest: Manifest, device: Device, bind: bool | None) -> Engine:
    engine = None
    try:
        engine = Engine(folder, manifest, device, bind=bind)
        engine.warm_up()
        engine.self_test()
    except Exception as exc:  # ONNX Runtime raises a class of its own per status, all plain Exceptions
        if engine is not None:
            engine.close()
        if isinstance(exc, (EngineError, DeviceError)):
            raise
        log.error("%s version %d does not load: %s", manifest.name, manifest.version, exc)
        hint = " with NEUROSERVE_CUDA_GRAPHS=on" if device.try_cuda and device.cuda_graphs == "on" else ""
        raise EngineError(
            f"{manifest.name} version {manifest.version} does not load{hint}; the log has the reason"
        ) from exc
    return engine


def _check_provider(name: str, provider: str, device: Device) -> None:
    """DeviceError where the asked-for provider was not given; with `auto`, a CPU in place of CUDA is not an error."""
    wanted = device.first_provider
    if provider == wanted or (device.mode == "auto" and device.tensorrt_cache is None):
        return
    asked = "NEUROSERVE_TENSORRT=true" if device.tensorrt_cache is not None else "NEUROSERVE_DEVICE=cuda"
    raise DeviceError(f"{asked}, but ONNX Runtime gave {name} {provider}")


def _check_tensors(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    for kind, specs, nodes in (
        ("inputs", manifest.inputs, session.get_inputs()),
        ("outputs", manifest.outputs, session.get_outputs()),
    ):
        promised, found = [spec.name for spec in specs], [node.name for node in nodes]
        if promised != found:
            raise EngineError(f"{manifest.name}: the graph's {kind} are {found}, the manifest says {promised}")
