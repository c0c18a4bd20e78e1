"""Batch sizes that leave a single row at the end of an epoch: 9 does of 19 rows, and of the 55,000 of MNIST."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.test_xor import Silent
from training.datasets import mnist
from training.fit import FitSettings, fit
from training.tasks.base import Split, Splits
from training.tasks.digit import DigitTask

ROWS, BATCH = 19, 9


@pytest.mark.parametrize("network", DigitTask.recipe.networks)
def test_a_last_batch_of_one_row_can_be_trained_on(network: str, tmp_path: Path) -> None:
    """Batch norm needs two rows; the run ends, with as many steps as were announced."""
    assert ROWS % BATCH == (60_000 - mnist.VALIDATION_ROWS) % BATCH == 1
    task, watcher = DigitTask(), Silent()
    rows = Split(task.example(ROWS, 0, 0), torch.arange(ROWS) % 10)
    splits = Splits(rows, rows, rows, [], {}, {"mean": 0.13, "std": 0.31})
    result = fit(task, network, splits, FitSettings(1, BATCH, 0.003, 0), watcher, tmp_path / "a.pt")
    assert len(result.history) == 1
    assert (watcher.progress.step, watcher.progress.steps) == (3, 3)
