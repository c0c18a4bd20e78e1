"""The four rows of XOR (M. Minsky and S. Papert, "Perceptrons", 1969): the MLP learns them, a linear network cannot.

The digit network takes pictures, so a row is a black one whose upper left and upper right quarter are lit or not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.jobs import EpochRow, Progress
from training.fit import FitSettings, fit
from training.nets.mlp import DigitMlp
from training.tasks.base import Inputs, Optimisation, Split, Splits
from training.tasks.digit import DigitTask

ROWS = [(0, 0), (0, 1), (1, 0), (1, 1)]
COPIES = 40


class Silent:
    """A watcher that keeps the last step."""

    def step(self, progress: Progress) -> None:
        self.progress = progress

    def epoch(self, row: EpochRow, stopped_early: bool) -> None: ...


class Xor(DigitTask):
    """The digit task on pictures of XOR, which nobody moves about; classes 0 and 1 of its ten."""

    def optimisation(self, network: str) -> Optimisation:
        return Optimisation(patience=100)

    def build(self, network: str, splits: Splits) -> nn.Module:
        mean, std = splits.facts["mean"], splits.facts["std"]
        return Linear(mean, std) if network == "linear" else DigitMlp(mean, std)

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        rows = len(split)
        order = torch.arange(rows) if generator is None else torch.randperm(rows, generator=generator)
        for chosen in torch.split(order, batch_size):
            yield {"pixels": split.inputs["pixels"][chosen]}, split.targets[chosen]


class Linear(nn.Module):
    """The digit network without its hidden layers."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std, self.layer = mean, std, nn.Linear(784, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layer(((pixels.float() / 255 - self.mean) / self.std).flatten(1))
        return logits


def pictures() -> Split:
    pixels = torch.zeros(4, 28, 28, dtype=torch.uint8)
    for row, (left, right) in enumerate(ROWS):
        pixels[row, :14, :14], pixels[row, :14, 14:] = 255 * left, 255 * right
    return Split({"pixels": pixels}, torch.tensor([left ^ right for left, right in ROWS]))


def learnt(network: str, folder: Path, seed: int) -> tuple[Tensor, Splits, nn.Module]:
    """The four rows' logits after training by the product's own loop, and what they came from."""
    task, four = Xor(), pictures()
    many = Split({"pixels": four.inputs["pixels"].repeat(COPIES, 1, 1)}, four.targets.repeat(COPIES))
    ink = four.inputs["pixels"].double() / 255
    splits = Splits(many, four, four, [], {}, {"mean": ink.mean().item(), "std": ink.std().item()})
    settings = FitSettings(epochs=2, batch_size=16, learning_rate=0.003, seed=seed)
    module = fit(task, network, splits, settings, Silent(), folder / f"{network}-{seed}.pt").module
    return task.predict(module, four), splits, module


def test_the_mlp_learns_all_four_rows(tmp_path: Path) -> None:
    """20 steps of the usual loop; as served, each right answer has a probability above 0.95 but for the doubt."""
    logits, splits, module = learnt("mlp", tmp_path, 0)
    targets = splits.test.targets
    assert logits.argmax(1).tolist() == targets.tolist()
    serving, _ = Xor().serving(module, splits)
    with torch.no_grad():
        probabilities, outlier = serving(**splits.test.inputs)
    doubt = outlier.unsqueeze(1)
    right = (probabilities.gather(1, targets.unsqueeze(1)) - doubt / 10) / (1 - doubt)
    assert right.min() > 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_a_linear_network_never_learns_more_than_three(seed: int, tmp_path: Path) -> None:
    """The same loop, the same rows, no hidden layer."""
    logits, splits, _ = learnt("linear", tmp_path, seed)
    assert (logits.argmax(1) == splits.test.targets).sum() <= 3


def test_no_line_parts_the_rows() -> None:
    """Of all lines on a fine grid of weights the best has three rows on the right side."""
    grid = torch.linspace(-2, 2, 17)
    lines = torch.tensor(list(itertools.product(grid.tolist(), repeat=3)))
    inputs = torch.tensor([[left, right, 1] for left, right in ROWS], dtype=torch.float32)
    above = lines @ inputs.T > 0
    right = (above == pictures().targets.bool()).sum(1)
    assert right.max() == 3
