"""From torch to one ONNX file, and the proof that ONNX Runtime gives the same numbers.

The exporter is torch's own (`dynamo=True`) at opset 20: from opset 23 on ONNX Runtime refuses its attention nodes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import Parity
from training.tasks.base import Inputs, ServingSpec

OPSET = 20
BATCHES = (1, 3, 32)
TOLERANCE = 1e-4

Arrays = dict[str, NDArray[Any]]
Example = Callable[[int, int, int], Inputs]

_NAMES = {"uint8": onnx.TensorProto.UINT8, "int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
# What torch 2.13's exporter says of its own insides, and of two inputs that share an axis as they should.
_NOISE = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    (r"# The axis name: \w+ will not be used, since it shares the same shape constraints", UserWarning),
)
_CHATTY = ("torch.onnx", "onnxscript")


class ExportError(Exception):
    """The network cannot be exported, or the file is not what the task promised."""


class ParityError(ExportError):
    """ONNX Runtime gives other numbers than torch."""


def export(module: nn.Module, example: Inputs, spec: ServingSpec, path: Path) -> None:
    """Write the module as one ONNX file with the tensors of `spec`; ExportError when that is not what came out."""
    arguments = {tensor.name: example[tensor.name] for tensor in spec.inputs}
    axes = {
        tensor.name: {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in spec.inputs
    }
    try:
        with _quiet():
            torch.onnx.export(
                module.eval(),
                (),
                str(path),
                kwargs=arguments,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=axes,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        raise ExportError(f"torch cannot export the network: {_first_line(exc)}") from exc
    model = onnx.load(path)
    _forget_the_workshop(model)
    _check(model, spec)
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter out: prints, logs of missing packages and skipped foldings, known warnings."""
    logs = [logging.getLogger(name) for name in _CHATTY]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            for message, category in _NOISE:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _first_line(exc: BaseException) -> str:
    """The first line of what went wrong at first, beneath the exporter's general advice."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return str(exc).strip().partition("\n")[0]


def _forget_the_workshop(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of its own work: stack traces hold the paths of the machine that trained."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _check(model: onnx.ModelProto, spec: ServingSpec) -> None:
    onnx.checker.check_model(model)
    for what, promised, found in (
        ("inputs", spec.inputs, model.graph.input),
        ("outputs", spec.outputs, model.graph.output),
    ):
        got = [_described(value) for value in found]
        want = [(tensor.name, _NAMES[tensor.dtype], list(tensor.shape)) for tensor in promised]
        if got != want:
            raise ExportError(f"the graph's {what} are {got}, the task promised {want}")


def _described(value: onnx.ValueInfoProto) -> tuple[str, int, list[int | str]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [size.dim_param or size.dim_value for size in tensor.shape.dim]


def session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """ONNX Runtime's session of the file on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(engine: ort.InferenceSession, inputs: Inputs) -> Arrays:
    """All outputs by name."""
    names = [output.name for output in engine.get_outputs()]
    values = engine.run(names, {name: rows.cpu().numpy() for name, rows in inputs.items()})
    return dict(zip(names, values, strict=True))


def check_parity(
    module: nn.Module, path: Path, example: Example, lengths: Sequence[int], tolerance: float = TOLERANCE
) -> Parity:
    """Compare torch and the file over batches of 1, 3 and 32 and all lengths, and rows alone with rows in a batch.

    Raises ParityError with the case that differs most.
    """
    engine = session(path)
    cases = [list(case) for case in itertools.product(BATCHES, lengths)]
    worst, where = 0.0, ""
    for number, (batch, length) in enumerate(cases):
        inputs = example(batch, length, number)
        got = run(engine, inputs)
        for label, diff in (
            ("torch and ONNX Runtime differ", _differ(_torch(module, inputs, list(got)), got)),
            ("a row alone differs from the row in its batch", _alone(engine, inputs, got, batch)),
        ):
            if not diff <= worst:
                worst, where = diff, f"{label} by {diff:.2e} at batch {batch}, length {length}"
            if not diff <= tolerance:  # NaN too
                raise ParityError(f"{where}; the tolerance is {tolerance:.0e}")
    return Parity(max_abs_diff=worst, tolerance=tolerance, cases=cases)


def _torch(module: nn.Module, inputs: Inputs, names: list[str]) -> Arrays:
    with torch.no_grad():
        outputs = module(**inputs)
    listed = (outputs,) if isinstance(outputs, Tensor) else outputs
    return {name: value.numpy() for name, value in zip(names, listed, strict=True)}


def _alone(engine: ort.InferenceSession, inputs: Inputs, whole: Arrays, batch: int) -> float:
    """The worst difference of the first, middle and last row run alone."""
    worst = 0.0
    for row in sorted({0, batch // 2, batch - 1}) if batch > 1 else []:
        single = run(engine, {name: rows[row : row + 1] for name, rows in inputs.items()})
        worst = max(worst, _differ({name: values[row : row + 1] for name, values in whole.items()}, single))
    return worst


def _differ(one: Arrays, other: Arrays) -> float:
    """The largest absolute difference; infinite where shapes differ or only one is a number."""
    worst = 0.0
    for name, values in one.items():
        if values.shape != other[name].shape or not np.isfinite(values).all() or not np.isfinite(other[name]).all():
            return float("inf")
        if values.size:
            worst = max(worst, float(np.abs(values.astype(np.float64) - other[name]).max()))
    return worst


def count_weights(module: nn.Module) -> int:
    """The numbers that training has set in the module that was exported."""
    return sum(parameter.numel() for parameter in module.parameters())
