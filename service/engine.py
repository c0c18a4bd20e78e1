"""One ONNX Runtime session on one device: built, checked against its golden sample, then run in padded batches."""

from __future__ import annotations

import logging
from bisect import bisect_left
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.manifest import Manifest, TensorSpec
from service.device import CPU, CUDA, Device, DeviceError

log = logging.getLogger(__name__)

_CPU_ROWS, _CPU_STEPS = 16, 1024
"""Most rows, and rows x length, of one go on a CPU: beyond them the intermediate values leave the core's cache, a row
costs up to a third more, and the session's memory only grows."""

_QUICK_S = 0.003
"""A batch on a CPU that takes less than this runs on the event loop: two changes of thread cost more."""

Array = NDArray[Any]
Tensors = dict[str, Array]


class EngineError(RuntimeError):
    """The model cannot be loaded or does not answer as its manifest says."""


class Runner(Protocol):
    """What the batcher needs of an engine."""

    version: int
    provider: str

    def bucket_length(self, length: int) -> int:
        """The padded length of a row of `length` steps; 0 for graphs without a length axis."""

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

    Raises EngineError when the file does not load or fails its self-test, DeviceError when `cuda` was asked for and
    the session did not get it.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: Device) -> None:
        self.manifest = manifest
        self.name = manifest.name
        self.version = manifest.version
        self._session = _session(folder / manifest.model_file, device)
        self.provider = self.present_provider()
        if device.mode == "cuda" and self.provider != CUDA:
            raise DeviceError(f"NEUROSERVE_DEVICE=cuda, but ONNX Runtime gave {self.name} {self.provider}")
        self._inputs = manifest.inputs
        self._output_names = [spec.name for spec in manifest.outputs]
        self._lengths = manifest.buckets.lengths
        self._rows = manifest.buckets.rows
        self._pads_rows = self.provider != CPU  # a CPU session has no cost a new shape
        self._row_s: dict[int, float] = {}
        _check_tensors(self._session, manifest)

    # ------------------------------------------------------------------ running

    def bucket_length(self, length: int) -> int:
        return _at_least(self._lengths, length) if length else 0

    def quick(self, rows: int, length: int) -> bool:
        return rows * self._row_s.get(length, _QUICK_S) < _QUICK_S

    def run(self, parts: list[Tensors], rows: int, length: int) -> list[Array]:
        """One batch from the parts; more rows than are good at once run in several goes of the same session."""
        feed = {spec.name: _pack(spec, [part[spec.name] for part in parts], rows, length) for spec in self._inputs}
        largest = self._most_rows(length)
        if rows <= largest:
            return self._run_bucket(feed, rows)
        goes = [
            self._run_bucket({name: array[at : at + largest] for name, array in feed.items()}, min(largest, rows - at))
            for at in range(0, rows, largest)
        ]
        return [np.concatenate(outputs) for outputs in zip(*goes, strict=True)]

    def _most_rows(self, length: int) -> int:
        if self._pads_rows:
            return self._rows[-1]
        return max(1, min(_CPU_ROWS, _CPU_STEPS // length)) if length else _CPU_ROWS

    def _run_bucket(self, feed: Tensors, rows: int) -> list[Array]:
        padded = _at_least(self._rows, rows) if self._pads_rows else rows
        if padded != rows:
            feed = {name: _repeat_last(array, padded - rows) for name, array in feed.items()}
        outputs: list[Array] = self._session.run(self._output_names, feed)
        return [output[:rows] for output in outputs] if padded != rows else outputs

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
        del self._session

    # ------------------------------------------------------------------ proving

    def warm_up(self) -> None:
        """Run each shape once that serving will use, so that no request pays for it."""
        golden = self._golden_inputs()
        lengths = self._lengths or [0]
        for length in lengths:
            for count in self._rows if self._pads_rows else sorted({1, self._most_rows(length)}):
                one = {name: array[:1] for name, array in golden.items()}
                self.run([_cut(self._inputs, one, length)] * count, count, length)
            if not self._pads_rows:
                self._row_s[length] = self._time_of_a_row(_cut(self._inputs, one, length), length)

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
        length = max((array.shape[1] for spec, array in _by_spec(self._inputs, inputs) if _has_length(spec)), default=0)
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


def load(folder: Path, manifest: Manifest, device: Device) -> Engine:
    """A warmed and self-tested engine for the version in `folder`."""
    try:
        engine = Engine(folder, manifest, device)
        engine.warm_up()
        engine.self_test()
    except (EngineError, DeviceError):
        raise
    except Exception as exc:  # ONNX Runtime raises a class of its own per status, all plain Exceptions
        log.error("%s version %d does not load: %s", manifest.name, manifest.version, exc)
        raise EngineError(f"{manifest.name} version {manifest.version} does not load; the log has the reason") from exc
    return engine


def _session(path: Path, device: Device) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and logged by whoever catches it
    options.enable_mem_pattern = False  # it keeps a block of memory for every shape a batch ever had
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [CPU]
    if device.try_cuda:
        cuda: dict[str, Any] = {
            "device_id": 0,
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        if device.gpu_mem_limit_bytes is not None:
            cuda["gpu_mem_limit"] = device.gpu_mem_limit_bytes
        providers = [(CUDA, cuda), CPU]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    session.disable_fallback()  # a device that dies must be an error, not a silent CPU
    return session


def _check_tensors(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    for kind, specs, nodes in (
        ("inputs", manifest.inputs, session.get_inputs()),
        ("outputs", manifest.outputs, session.get_outputs()),
    ):
        promised, found = [spec.name for spec in specs], [node.name for node in nodes]
        if promised != found:
            raise EngineError(f"{manifest.name}: the graph's {kind} are {found}, the manifest says {promised}")


def _at_least(sizes: list[int], wanted: int) -> int:
    """The smallest size that is not below `wanted`; `wanted` itself above the largest."""
    index = bisect_left(sizes, wanted)
    return sizes[index] if index < len(sizes) else wanted


def _has_length(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.shape[1] == "length"


def _by_spec(specs: list[TensorSpec], tensors: Tensors) -> list[tuple[TensorSpec, Array]]:
    return [(spec, tensors[spec.name]) for spec in specs]


def _pack(spec: TensorSpec, arrays: list[Array], rows: int, length: int) -> Array:
    """All rows of one input in one array, zero-padded at the end of the length axis where there is one."""
    if not _has_length(spec):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if len(arrays) == 1 and arrays[0].shape[1] == length:
        return arrays[0]
    packed = np.zeros((rows, length, *arrays[0].shape[2:]), arrays[0].dtype)
    at = 0
    for array in arrays:
        packed[at : at + array.shape[0], : array.shape[1]] = array
        at += array.shape[0]
    return packed


def _repeat_last(array: Array, times: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], times, axis=0)])


def _cut(specs: list[TensorSpec], tensors: Tensors, length: int) -> Tensors:
    """The tensors with at most `length` steps, their `lengths` too where the graph takes them."""
    cut = {}
    for spec, array in _by_spec(specs, tensors):
        if length and _has_length(spec):
            cut[spec.name] = array[:, :length]
        else:
            cut[spec.name] = np.minimum(array, length) if length and spec.name == "lengths" else array
    return cut
