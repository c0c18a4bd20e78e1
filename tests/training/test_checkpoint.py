"""Checkpoints on a full disk, after a halved batch, and what a run that goes on from one tells."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from models.jobs import EpochRow, Progress
from tests.training.small import SmallDigit
from training import checkpoint
from training.checkpoint import CheckpointMismatchError, CheckpointWriteError
from training.fit import FitSettings, fit
from training.tasks.base import Splits


class _Cut(Exception):
    """A run that is cut off."""


class _Slow:
    """A watcher that takes its time with each step, and cuts the run off in the given (epoch, step)."""

    def __init__(self, cut: tuple[int, int] | None = None, step_s: float = 0.0) -> None:
        self.cut, self.step_s = cut, step_s
        self.told: list[tuple[float, Progress]] = []
        self.rows: list[EpochRow] = []

    def step(self, progress: Progress) -> None:
        self.told.append((time.monotonic(), progress))
        if (progress.epoch, progress.step) == self.cut:
            raise _Cut
        time.sleep(self.step_s)

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self.rows.append(row)


@pytest.fixture(scope="module", name="splits")
def _splits(data_dir: Path) -> Splits:
    return SmallDigit().load(data_dir, 0)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """A write beyond the size fails in this process, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    """The error names the file and the cause, nothing half-written stays, and the older state is still read."""
    path, run = tmp_path / "checkpoint.pt", {"batch_size": 64}
    checkpoint.save(path, run, {"step": 1})
    with _files_of_at_most(1 << 16), pytest.raises(CheckpointWriteError) as caught:
        checkpoint.save(path, run, {"step": 2, "weights": torch.zeros(1 << 16)})
    assert str(caught.value).startswith(f"the checkpoint {path} could not be written: File too large")
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.load(path, run) == {"step": 1}


def test_a_run_goes_on_with_half_its_batch(splits: Splits, tmp_path: Path) -> None:
    """Finished epochs stay, the rest has twice the steps, and the result tells from where on."""
    path = tmp_path / "a.pt"
    with pytest.raises(_Cut):
        fit(SmallDigit(), "mlp", splits, FitSettings(3, 64, 0.003, 5), _Slow((2, 4)), path)
    notes = _Slow()
    result = fit(SmallDigit(), "mlp", splits, FitSettings(3, 32, 0.003, 5), notes, path, resume=True)
    assert [row.epoch for row in notes.rows] == [row.epoch for row in result.history] == [1, 2, 3]
    assert result.halved_after == 1
    assert [(told.epoch, told.step, told.steps) for _, told in notes.told[:2]] == [(2, 1, 20), (2, 2, 20)]
    assert len(notes.told) == 40
    assert notes.told[-1][1].eta_s == 0


def test_no_other_batch_goes_on(splits: Splits, tmp_path: Path) -> None:
    """A third of it, or the double, is another run."""
    path = tmp_path / "a.pt"
    result = fit(SmallDigit(), "mlp", splits, FitSettings(1, 64, 0.003, 5), _Slow(), path)
    assert result.halved_after is None
    for size in (16, 128, 63):
        with pytest.raises(CheckpointMismatchError, match="batch_size"):
            fit(SmallDigit(), "mlp", splits, FitSettings(1, size, 0.003, 5), _Slow(), path, resume=True)


def test_a_run_that_goes_on_tells_the_time_that_is_left(splits: Splits, tmp_path: Path) -> None:
    """Epochs of the process before do not count as fast ones: the estimate is near what the rest then takes."""
    path, settings = tmp_path / "a.pt", FitSettings(5, 64, 0.003, 5)
    with pytest.raises(_Cut):
        fit(SmallDigit(), "mlp", splits, settings, _Slow((3, 1), 0.01), path)
    notes = _Slow(step_s=0.02)
    fit(SmallDigit(), "mlp", splits, settings, notes, path, resume=True)
    end = time.monotonic()
    assert [told.eta_s for _, told in notes.told[:9]] == [None] * 9
    at, told = notes.told[9]
    assert told.eta_s is not None
    assert (end - at) / 3 < told.eta_s < (end - at) * 3
