"""Fixed buffers for the shapes that a GPU serves: every bucket has its own tensors on the device, bound once.

ONNX Runtime copies an input at binding time when it does not lie where the graph wants it, and never looks at the
original again: so every tensor is made where the session says that it wants it, starts as zeros and is updated in
place. An update that the graph does not see would show in the first self-test.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import OrtDeviceMemoryType, OrtValue

from models.manifest import Manifest, TensorSpec
from service.pinned import HostMemory
from service.tensors import Array, Tensors, pack_into, shape_of

_NVIDIA = 0x10DE
_ALIGNMENT = 64
NO_GRAPH = -1
"""The graph id of a run that neither captures a CUDA graph nor replays one."""


def run_options(graph_id: int) -> onnxruntime.RunOptions:
    """Options that name the CUDA graph of a run; options without the name cost 50 us, for looking in vain for it."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


class Binding:
    """One bucket of `rows` x `length`: its tensors never move. One run at a time.

    `host` is where the rows are packed before they go to the device; `graph_id` names the CUDA graph of this shape.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        manifest: Manifest,
        bucket: tuple[int, int],
        host: HostMemory,
        graph_id: int | None = None,
    ) -> None:
        self._session = session
        self._specs = manifest.inputs
        self._bound = session.io_binding()
        self._inputs: list[tuple[TensorSpec, Array, OrtValue]] = []
        at = 0
        for spec, place in zip(manifest.inputs, session.get_input_memory_infos(), strict=True):
            staged = host.view(at, shape_of(spec, *bucket), spec.dtype)
            at += _aligned(staged.nbytes)
            value = _zeros(staged.shape, spec.dtype, place)
            self._bound.bind_ortvalue_input(spec.name, value)
            self._inputs.append((spec, staged, value))
        self._outputs: list[OrtValue] = []
        for spec, place in zip(manifest.outputs, session.get_output_memory_infos(), strict=True):
            value = _zeros(shape_of(spec, *bucket), spec.dtype, place)
            self._bound.bind_ortvalue_output(spec.name, value)
            self._outputs.append(value)
        self._options = None if graph_id is None else run_options(graph_id)

    def run(self, parts: list[Tensors], rows: int) -> list[Array]:
        """The outputs of the parts' rows, in arrays of their own; raises what a copy or the device raises."""
        for spec, staged, value in self._inputs:
            pack_into(staged, spec, [part[spec.name] for part in parts])
            value.update_inplace(staged)
        self._session.run_with_iobinding(self._bound, self._options)
        outputs: list[Array] = self._bound.copy_outputs_to_cpu()
        return [output[:rows] for output in outputs]

    def addresses(self) -> list[int]:
        """Where the tensors lie, inputs first."""
        return [value.data_ptr() for value in [*(value for _, _, value in self._inputs), *self._outputs]]

    def bytes(self) -> int:
        """What the tensors take."""
        return sum(value.tensor_size_in_bytes() for value in [*(each[2] for each in self._inputs), *self._outputs])


class Bindings:
    """All buckets of one session, each made when it is first wanted; warm-up wants them all.

    There are as many as the manifest has pairs of row and length bucket, so their memory is bounded by `most_bytes`.
    Runs take turns. With `graphs` they, and nothing else, happen on a thread of their own: ONNX Runtime keeps a
    captured CUDA graph with the thread that captured it.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, manifest: Manifest, *, driver: Any = None, graphs: bool = False
    ) -> None:
        self._session = session
        self._manifest = manifest
        lengths = manifest.buckets.lengths or [0]
        self._buckets = [(rows, length) for rows in manifest.buckets.rows for length in lengths]
        self._made: dict[tuple[int, int], Binding] = {}
        staged = [sum(_aligned(_size(spec, *bucket)) for spec in manifest.inputs) for bucket in self._buckets]
        self._host = HostMemory(max(staged), driver)
        self._lock = threading.Lock()
        self._graphs = graphs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"graphs-{manifest.name}") if graphs else None

    def covers(self, rows: int, length: int) -> bool:
        """Whether there is such a bucket."""
        return (rows, length) in self._buckets

    def run(self, parts: list[Tensors], rows: int, bucket: tuple[int, int]) -> list[Array]:
        """The parts' `rows` in this bucket; the outputs are [rows, …]."""
        if self._thread is not None:
            return self._thread.submit(self._run, parts, rows, bucket).result()
        return self._run(parts, rows, bucket)

    def most_bytes(self) -> int:
        """What the tensors of all buckets take on the device."""
        specs = [*self._manifest.inputs, *self._manifest.outputs]
        return sum(_size(spec, *bucket) for spec in specs for bucket in self._buckets)

    def bytes(self) -> int:
        """What those made so far take."""
        return sum(binding.bytes() for binding in self._made.values())

    def close(self) -> None:
        """Free all tensors; nothing may run after it."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._made.clear()
        self._host.close()

    def _run(self, parts: list[Tensors], rows: int, bucket: tuple[int, int]) -> list[Array]:
        with self._lock:
            binding = self._made.get(bucket)
            if binding is None:
                graph_id = self._buckets.index(bucket) + 1 if self._graphs else None
                binding = self._made[bucket] = Binding(self._session, self._manifest, bucket, self._host, graph_id)
            return binding.run(parts, rows)


def _zeros(shape: tuple[int, ...], dtype: str, place: Any) -> OrtValue:
    """A tensor of zeros in the memory that `place` describes."""
    on_gpu = place.device_mem_type == OrtDeviceMemoryType.DEFAULT and (
        place.device_vendor_id == _NVIDIA or place.name == "Cuda"
    )
    kind, index = ("cuda", place.device_id) if on_gpu else ("cpu", 0)
    value = OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype), kind, index)
    value.update_inplace(np.zeros(shape, dtype))
    return value


def _size(spec: TensorSpec, rows: int, length: int) -> int:
    return int(np.prod(shape_of(spec, rows, length))) * np.dtype(spec.dtype).itemsize


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
