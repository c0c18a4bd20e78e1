"""What a task is to the rest of training: one object that says all about its data, loss, metric and export.

`fit.py` and `pipeline.py` know only this; a new task is one file that fills it in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from models.jobs import TaskRecipe
from models.manifest import Buckets, DataFile, SeriesSpec, TensorSpec, TextSpec

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """Rows of one split: the graph's own raw inputs by name (rows first) and the targets."""

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Splits:
    """The three splits, the files they came from, and files that must travel with the model (`tokenizer.json`)."""

    train: Split
    validation: Split
    test: Split
    sources: list[DataFile]
    assets: Mapping[str, bytes]
    facts: Mapping[str, Any]
    """What networks need to know of the data before they are built: scaler, vocabulary size, ..."""


@dataclass(frozen=True)
class ServingSpec:
    """What the manifest says of the exported graph besides hashes and figures."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    buckets: Buckets
    labels: list[str]
    text: TextSpec | None = None
    series: SeriesSpec | None = None


@dataclass(frozen=True)
class Optimisation:
    """How one network is trained, beside what a job may set: all visible in the manifest."""

    weight_decay: float = 0.0
    schedule: str = "onecycle"
    second_decay: float = 0.999
    """AdamW's decay of squared gradients; less suits tables of which a step touches few rows."""
    average_decay: float = 0.0
    """Decay a step of the exponential moving average of weights; 0 switches it off."""
    clip_norm: float = 0.0
    tolerance: float = 0.0
    """A later epoch is kept if its validation metric is within this much of the best one: about a standard error, as
    in the rule of L. Breiman et al. (1984). Rate and average settle until the end, and a small split cannot tell."""
    patience: int = 5
    """Epochs without a better validation metric before the run stops early."""


class Task(Protocol):
    """One kind of problem; stateless, every method gets what it needs."""

    name: str
    recipe: TaskRecipe
    floor: float
    """The validation metric a version must reach to pass the gate."""

    def load(self, data_dir: Path, seed: int) -> Splits:
        """Find or download the files, verify them, and make the splits."""

    def optimisation(self, network: str) -> Optimisation:
        """How the network is trained."""

    def build(self, network: str, splits: Splits) -> nn.Module:
        """A freshly initialised network; it takes the raw inputs as keywords and begins with its own scaling."""

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """One epoch of batches. With a generator: shuffled and augmented (training); without: in order, untouched."""

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """The scalar that training minimises, a mean over rows."""

    def predict(self, module: nn.Module, split: Split, batch_size: int = 256) -> Tensor:
        """Raw network outputs (logits, scaled forecasts) for every row of a split, in order."""

    def metrics(self, raw: Tensor, split: Split) -> dict[str, float]:
        """The metrics of raw outputs; holds `recipe.metric`, and may hold `loss` to spare the loop a second pass."""

    def serving(
        self,
        module: nn.Module,
        splits: Splits,
        epochs: int | None = None,
    ) -> tuple[nn.Module, dict[str, float]]:
        """The module to export (raw inputs in, final values out) and what was calibrated on the validation split.

        It takes the inputs as keywords and gives one tensor, or a tuple in the order of `spec(...).outputs`. The
        calibration of a graph with an outlier output holds the figures of `outliers.Calibration`, which the manifest's
        `doubt` is made of. `epochs` are those the module was trained for: what is trained behind it takes no longer
        than they warrant. None: as long as it helps.
        """

    def score(self, outputs: Mapping[str, Tensor], split: Split) -> dict[str, float]:
        """The metrics of what the exported graph gave for every row of a split, by output name, in the user's units.

        Holds `recipe.metric`, finite numbers only. The manifest's validation and test figures are these.
        """

    def losses(self, outputs: Mapping[str, Tensor], split: Split) -> Tensor:
        """The loss [rows] of what the exported graph gave for every row of a split, lower is better.

        Rows that depend on each other give one loss together: a series one for each block of one horizon.
        """

    def spec(self, splits: Splits) -> ServingSpec:
        """Tensors, labels, buckets and limits of the exported graph."""

    def example(self, batch: int, length: int, seed: int) -> Inputs:
        """Random but valid raw inputs for tracing, parity and the golden sample; padding holds junk where it may."""

    def parity_lengths(self) -> list[int]:
        """Lengths that parity is checked over; [0] where the graph has no length axis."""


@runtime_checkable
class RetokenizedTask(Protocol):
    """A task whose versions may have tokenizers of their own."""

    def validation_with(self, data_dir: Path, tokenizer: Path) -> Split:
        """The validation rows, in the same order, as the tokenizer in that file reads them."""
