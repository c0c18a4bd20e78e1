"""Small real model versions for tests: ONNX graphs whose answers tell which version gave them."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import (
    Doubt,
    FileEntry,
    Golden,
    Manifest,
    Parity,
    Provenance,
    TensorSpec,
    now,
)
from models.store import Store

DIGIT_INPUTS = [TensorSpec(name="pixels", dtype="uint8", shape=["batch", 28, 28])]
DIGIT_OUTPUTS = [TensorSpec(name="probabilities", dtype="float32", shape=["batch", 10])]


OUTLIER_OUTPUT = TensorSpec(name="outlier", dtype="float32", shape=["batch"])
DOUBT = Doubt(threshold=0.5)


def doubting_graph(path: Path, favourite: int) -> None:
    """As `digit_graph`, but the pixel in the middle, from 0 to 255, is the probability that it shows no digit."""
    rows = np.full((1, 10), 0.01, np.float32)
    rows[0, favourite] = 0.91
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["floats", "begin", "end", "axes"], ["middle"]),
        helper.make_node("Div", ["middle", "most"], ["share"]),
        helper.make_node("Reshape", ["share", "column_shape"], ["column"]),
        helper.make_node("Sub", ["one", "column"], ["rest"]),
        helper.make_node("Mul", ["rest", "rows"], ["known"]),
        helper.make_node("Mul", ["column", "tenth"], ["unknown"]),
        helper.make_node("Add", ["known", "unknown"], ["probabilities"]),
        helper.make_node("Reshape", ["share", "row_shape"], ["outlier"]),
    ]
    constants = {
        "begin": np.array([14, 14], np.int64),
        "end": np.array([15, 15], np.int64),
        "axes": np.array([1, 2], np.int64),
        "most": np.array(255, np.float32),
        "one": np.array(1, np.float32),
        "tenth": np.array(0.1, np.float32),
        "column_shape": np.array([-1, 1], np.int64),
        "row_shape": np.array([-1], np.int64),
        "rows": rows,
    }
    graph = helper.make_graph(
        nodes,
        "digit",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 28, 28])],
        [
            helper.make_tensor_value_info("outlier", TensorProto.FLOAT, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def digit_graph(path: Path, favourite: int) -> None:
    """A classifier that gives 0.91 to `favourite` and 0.01 to the rest, whatever the pixels."""
    rows = np.full((1, 10), 0.01, np.float32)
    rows[0, favourite] = 0.91
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axes"], ["sums"], keepdims=0),
        helper.make_node("Mul", ["sums", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "last"], ["column"]),
        helper.make_node("Add", ["column", "rows"], ["probabilities"]),
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "zero": np.array(0, np.float32),
        "last": np.array([1], np.int64),
        "rows": rows,
    }
    graph = helper.make_graph(
        nodes,
        "digit",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def draft(name: str = "digit-cnn", favourite: int = 0, **changes) -> Manifest:
    """A digit manifest that still lacks its real version number and hashes."""
    answer = [0.01] * 10
    answer[favourite] = 0.91
    fields = {
        "name": name,
        "version": 1,
        "task": "digit",
        "network": "cnn",
        "kind": "image",
        "created_at": now(),
        "files": {"model.onnx": FileEntry(sha256="0" * 64, bytes=0)},
        "inputs": DIGIT_INPUTS,
        "outputs": DIGIT_OUTPUTS,
        "labels": [str(digit) for digit in range(10)],
        "metrics": {"validation": {"accuracy": 0.99}},
        "golden": Golden(
            inputs={"pixels": np.zeros((2, 28, 28), int).tolist()}, outputs={"probabilities": [answer] * 2}
        ),
        "parity": Parity(max_abs_diff=0.0, cases=[[1, 0]]),
        "provenance": Provenance(command="test", seed=0, data=[]),
    }
    return Manifest(**{**fields, **changes})


def publish(store: Store, name: str = "digit-cnn", favourite: int = 0, **changes) -> int:
    """Publish a version that answers `favourite`; its number."""
    staged = store.stage()
    digit_graph(staged / "model.onnx", favourite)
    return store.publish(staged, draft(name, favourite, **changes)).version


def publish_doubting(store: Store, name: str = "digit-cnn", favourite: int = 0) -> int:
    """Publish a version whose graph has the output `outlier`, before its probabilities; its number."""
    staged = store.stage()
    doubting_graph(staged / "model.onnx", favourite)
    outputs = [OUTLIER_OUTPUT, *DIGIT_OUTPUTS]
    return store.publish(staged, draft(name, favourite, outputs=outputs, doubt=DOUBT)).version
