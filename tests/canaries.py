"""Versions for tests of canaries: small real graphs that answer by a table, agree as far as wanted, fail or dawdle."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.manifest import Golden
from models.store import Store
from tests.artifacts import draft

NAME = "digit-cnn"
LIVE_LABEL = 3
PLACE = 14
"""Row and column of the pixel by whose value the tables answer."""


def rows_of(labels: Sequence[int], confidence: float = 0.91) -> np.ndarray:
    """Probabilities float32 [labels, 10] with `confidence` for each label."""
    rows = np.full((len(labels), 10), (1 - confidence) / 9, np.float32)
    rows[np.arange(len(labels)), labels] = confidence
    return rows


def table_graph(path: Path, rows: np.ndarray, slow: int = 0) -> None:
    """A classifier that answers with the row of the value of one pixel, and fails where the table has none.

    `slow` multiplications of two 600 x 600 matrices come before each batch's answer.
    """
    nodes = [
        helper.make_node("Slice", ["pixels", "starts", "ends", "axes"], ["corner"]),
        helper.make_node("Squeeze", ["corner", "axes"], ["first"]),
        helper.make_node("Cast", ["first"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["rows", "index"], ["told"], axis=0),
    ]
    constants = {
        "starts": np.array([PLACE, PLACE], np.int64),
        "ends": np.array([PLACE + 1, PLACE + 1], np.int64),
        "axes": np.array([1, 2], np.int64),
        "rows": rows,
        "zero": np.array(0, np.float32),
        "all": np.array([0, 1, 2], np.int64),
        "both": np.array([0, 1], np.int64),
        "matrix": np.random.default_rng(0).normal(0, 0.01, (600, 600)).astype(np.float32),
    }
    nodes += [
        helper.make_node("Cast", ["corner"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "all"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["matrix", "nothing"], ["product0"]),
        *[helper.make_node("MatMul", [f"product{n}", "matrix"], [f"product{n + 1}"]) for n in range(slow)],
        helper.make_node("ReduceSum", [f"product{slow}", "both"], ["work"], keepdims=0),
        helper.make_node("Mul", ["work", "zero"], ["worked"]),
        helper.make_node("Add", ["told", "worked"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "digit",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def publish_table(
    store: Store, labels: Sequence[int], *, confidence: float = 0.91, slow: int = 0, rows: np.ndarray | None = None
) -> int:
    """Publish a version that answers `labels[value of that pixel]`; its number."""
    table = rows_of(labels, confidence) if rows is None else rows
    staged = store.stage()
    table_graph(staged / "model.onnx", table, slow)
    golden = Golden(
        inputs={"pixels": np.zeros((2, 28, 28), int).tolist()}, outputs={"probabilities": [table[0].tolist()] * 2}
    )
    return store.publish(staged, draft(NAME, golden=golden)).version


def publish_live(store: Store) -> int:
    """Publish a version that answers `LIVE_LABEL` to everything, and make it live."""
    version = publish_table(store, [LIVE_LABEL] * 256)
    store.promote(NAME, version)
    return version


def pixels(first: int) -> list[list[int]]:
    """A picture in MNIST's form, which no reading changes, with that value where the table looks."""
    picture = np.zeros((28, 28), int)
    picture[4:24, 4:24] = 255
    picture[6:22, 6:22] = 0
    picture[PLACE, PLACE] = first
    return picture.tolist()


def body(first: int) -> bytes:
    """The request of one picture."""
    return json.dumps({"pixels": pixels(first)}).encode()


def picked(key: str, version: int, percent: float) -> bool:
    """Whether a key belongs to the canary's share, worked out from what the documents say."""
    digest = hashlib.blake2b(f"{NAME}/{version}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 10_000 < percent * 100
