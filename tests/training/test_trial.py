"""The trial of a candidate beside the live version, on real ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from models.manifest import Manifest
from models.store import Store
from tests import artifacts
from training import trial

ZOO = Store(Path(__file__).resolve().parents[2] / "models" / "zoo")


def _version(folder: Path, favourite: int = 3, **changes: Any) -> tuple[Path, Manifest]:
    folder.mkdir()
    artifacts.digit_graph(folder / "model.onnx", favourite)
    return folder, artifacts.draft(favourite=3, **changes)


def _slowed(folder: Path, size: int) -> None:
    """Let the graph do so much idle work on every row: products with matrices of zeros."""
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    graph.node[-1].output[:] = ["answers"]
    for name, shape in (("wide", (1, size)), ("square", (size, size)), ("narrow", (size, 1))):
        graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
        graph.node.append(helper.make_node("MatMul", [graph.node[-1].output[0], name], [f"after {name}"]))
    graph.node[-3].input[0] = "column"
    graph.node.append(helper.make_node("Add", ["answers", "after narrow"], ["probabilities"]))
    onnx.save(model, folder / "model.onnx")


def test_a_sound_candidate_repeats_its_sample_and_is_timed_beside_the_live_one(tmp_path: Path) -> None:
    """Times of one row and of a batch for both, and no difference to the sample."""
    folder, draft = _version(tmp_path / "new")
    found = trial.run(folder, draft, _version(tmp_path / "old", favourite=5))
    assert found.golden_diff < 1e-6
    assert [timing.rows for timing in found.timings] == [1, 32]
    assert all(0 < timing.candidate_ms < 1000 for timing in found.timings)
    assert all(timing.live_ms is not None and timing.live_ms > 0 for timing in found.timings)
    assert found.live_problem is None


def test_a_slower_graph_is_seen_to_be_slower(tmp_path: Path) -> None:
    """Work that is worth milliseconds shows, whichever of the two has it."""
    slow, quick = _version(tmp_path / "slow"), _version(tmp_path / "quick")
    _slowed(slow[0], 1500)
    single, _ = trial.run(*slow, quick).timings
    assert single.live_ms is not None
    assert single.candidate_ms > 2 * single.live_ms
    single, _ = trial.run(*quick, slow).timings
    assert single.live_ms is not None
    assert single.live_ms > 2 * single.candidate_ms


def test_the_same_file_twice_is_never_twice_as_slow(tmp_path: Path) -> None:
    """What the bound rests on: taking turns and the shortest of several runs, ten times in a row."""
    new, old = _version(tmp_path / "new"), _version(tmp_path / "old")
    for _ in range(10):
        for timing in trial.run(*new, old).timings:
            assert timing.live_ms is not None
            assert timing.candidate_ms <= max(2 * timing.live_ms, timing.live_ms + 0.5)


def test_another_graph_than_was_measured_differs_from_the_sample(tmp_path: Path) -> None:
    """The worst difference is told; other shapes or no numbers are infinitely far."""
    folder, draft = _version(tmp_path / "new", favourite=4)
    assert trial.run(folder, draft).golden_diff == pytest.approx(0.9)
    golden = draft.golden.model_copy(update={"outputs": {"probabilities": [[0.1] * 9] * 2}})
    assert trial.run(folder, draft.model_copy(update={"golden": golden})).golden_diff == float("inf")


def test_a_file_that_is_no_graph_is_an_error_and_a_live_one_a_remark(tmp_path: Path) -> None:
    """A candidate that does not run ends the job; a live version that does not cannot hold its successor back."""
    good, bad = _version(tmp_path / "good"), _version(tmp_path / "bad")
    (bad[0] / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(trial.TrialError, match=r"model\.onnx of the candidate does not run"):
        trial.run(*bad)
    found = trial.run(*good, bad)
    assert found.live_problem is not None
    assert "live version 1 does not run beside it" in found.live_problem
    assert all(timing.live_ms is None for timing in found.timings)


@pytest.mark.parametrize("name", ["forecast-lstm", "topic-gru"])
def test_shipped_series_and_text_models_are_tried_on_their_own_rows(name: str) -> None:
    """Every kind of input has golden rows that can be repeated; a version beside itself is as quick."""
    version = ZOO.live(name)
    assert version is not None
    this = ZOO.folder(name, version), ZOO.manifest(name, version)
    found = trial.run(*this, this)
    assert found.golden_diff <= this[1].golden.atol
    assert all(timing.live_ms is not None for timing in found.timings)
