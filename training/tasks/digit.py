"""Handwritten digits: MNIST images to the probabilities of 0..9.

The training images are moved a little at random in each epoch (affine map and elastic warp), as P. Simard et al.
advise for this data ("Best Practices for Convolutional Neural Networks", ICDAR 2003), beside digits of other hands
(`datasets.hands`). In the end a head of its own learns doubt from pictures that show no digit (`training.doubt`).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.jobs import NetworkRecipe, Range, TaskRecipe
from models.manifest import Buckets, TensorSpec
from training import classify, doubt
from training.datasets import clutter, hands, mnist
from training.nets.cnn import DigitCnn, LeanCnn
from training.nets.mlp import DigitMlp
from training.outliers import Answer, Calibration, calibrate
from training.outliers import outputs as outlier_outputs
from training.tasks.base import Inputs, Optimisation, ServingSpec, Split, Splits, Task

_NETS: dict[str, type[DigitCnn | DigitMlp]] = {"cnn": DigitCnn, "mlp": DigitMlp}
_ROTATION, _SHEAR, _SCALE, _SHIFT = math.radians(10), 0.12, 0.1, 1.5 / 14
"""Largest rotation (radians), shear and scale (shares), shift (1.5 pixels; the grid is 2 wide)."""
_KNOTS, _WARP = 6, 0.5 / 14
"""The warp is smooth between 6x6 knots, each moved by about half a pixel (one standard deviation)."""
_MOVED = 0.75
"""Share of images that are moved; the rest keep their sharp strokes, which moving blurs."""
_SMOOTHING = 0.1
"""Label smoothing of the training loss (C. Szegedy et al., "Rethinking the Inception Architecture", 2016)."""
_OTHERS = 16
"""A batch has one drawn digit of another hand (`datasets.hands`) to this many of MNIST."""
_ODD = 5
"""Among the digits that doubt is learnt beside, one of another hand to this many."""
_OUTLIERS, _HELD_OUT = 20_000, 4_000
"""Pictures without one digit that are drawn to learn from and to calibrate on, at most one to a row of the split."""
_PRIOR, _WARNED = 0.05, 0.004
"""Share of outliers that the probabilities reckon with, and share of the validation rows that carry a warning."""


class Serving(nn.Module):
    """Probabilities [batch, 10] and the outlier probability [batch] of images uint8 [batch, 28, 28].

    `network.read` feeds both `network.logits` and the `outlier` head. Their last layers, in copies, take over the
    temperature and the line of the calibration: a small graph spends more time between steps than in them.
    """

    def __init__(self, network: LeanCnn | DigitMlp, outlier: nn.Sequential, calibration: Calibration) -> None:
        super().__init__()
        self.network, self.outlier = copy.deepcopy(network), copy.deepcopy(outlier)
        _scale(self.network.last_layer, 1 / calibration.temperature)
        _scale(self.outlier[-1], calibration.outlier_slope, calibration.outlier_intercept)
        self.answer = Answer(replace(calibration, temperature=1.0, outlier_slope=1.0, outlier_intercept=0.0))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.network.read(pixels)
        probabilities, outlier = self.answer(self.network.logits(seen), self.outlier(seen).squeeze(1))
        return probabilities, outlier


def _scale(layer: nn.Module, factor: float, offset: float = 0.0) -> None:
    if not isinstance(layer, nn.Linear):
        raise TypeError("the last layer is not a dense one")
    with torch.no_grad():
        layer.weight.mul_(factor)
        layer.bias.mul_(factor).add_(offset)


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Images uint8 [rows, 28, 28], most of them moved by a small affine map and warp of their own."""
    rows = len(pixels)
    moved = (torch.rand(rows, generator=generator) < _MOVED).float()
    rotation, shear, wide, high, right, down = (torch.rand(6, rows, generator=generator) * 2 - 1) * moved
    angle, across, along = rotation * _ROTATION, 1 + wide * _SCALE, 1 + high * _SCALE
    maps = torch.empty(rows, 2, 3)
    maps[:, 0, 0] = angle.cos() * across
    maps[:, 0, 1] = -angle.sin() * along + shear * _SHEAR
    maps[:, 1, 0] = angle.sin() * across
    maps[:, 1, 1] = angle.cos() * along
    maps[:, 0, 2], maps[:, 1, 2] = right * _SHIFT, down * _SHIFT
    grid = F.affine_grid(maps, [rows, 1, 28, 28], align_corners=False)
    knots = torch.randn(rows, 2, _KNOTS, _KNOTS, generator=generator) * _WARP * moved.view(-1, 1, 1, 1)
    grid += F.interpolate(knots, (28, 28), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    images = F.grid_sample(pixels.unsqueeze(1).float(), grid, align_corners=False)
    return images.squeeze(1).round().clamp(0, 255).to(torch.uint8)


class Outliers:
    """Pictures that show no digit or several, drawn once; as many as suit a split of so many digits."""

    def __init__(self, split: Split, rows: int, seed: int) -> None:
        digits, labels = split.inputs["pixels"].numpy(), split.targets.numpy()
        pairs, turned, wrong = (max(1, rows // share) for share in (7, 12, 20))
        self.pictures = torch.cat(
            [
                clutter.bank(max(1, rows - pairs - turned - wrong), seed),
                clutter.several(digits, pairs, seed),
                clutter.turned(digits, labels, turned, seed),
                clutter.mistaken(digits, wrong, seed),
            ]
        )

    def draw(self, rows: int, generator: torch.Generator) -> Tensor:
        """Some of them uint8 [rows, 28, 28], most of them moved at random as digits are."""
        return augment(self.pictures[torch.randint(len(self.pictures), (rows,), generator=generator)], generator)


def digits_of_all_hands(digits: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Images uint8 [rows, 28, 28] of the training split, and of other hands, as in training."""
    drawn, _ = hands.bank(min(hands.ROWS, len(digits)))
    others = drawn[torch.randint(len(drawn), (rows // _ODD,), generator=generator)]
    chosen = digits[torch.randint(len(digits), (rows - len(others),), generator=generator)]
    return augment(torch.cat([hands.restyled(chosen, generator), others]), generator)


def _range(default: float, least: float, most: float) -> Range:
    return Range(default=default, min=least, max=most)


class DigitTask:
    """MNIST, 10 classes; the last 5,000 training images are the validation split."""

    name = "digit"
    floor = 0.97
    recipe = TaskRecipe(
        summary="Handwritten digits 0 to 9 (MNIST), 28x28 pixels.",
        kind="image",
        default_network="cnn",
        metric="accuracy",
        metric_higher_is_better=True,
        networks={
            "cnn": NetworkRecipe(
                model="digit-cnn",
                summary="Three 3x3 convolutions, a dense layer and a head for outliers, 144,587 weights.",
                epochs=_range(24, 1, 200),
                batch_size=_range(128, 8, 1024),
                learning_rate=_range(0.004, 1e-6, 1.0),
            ),
            "mlp": NetworkRecipe(
                model="digit-mlp",
                summary="Two hidden dense layers of 512 and 256 and a head for outliers, 753,291 weights.",
                epochs=_range(20, 1, 200),
                batch_size=_range(128, 8, 1024),
                learning_rate=_range(0.003, 1e-6, 1.0),
            ),
        },
    )

    def load(self, data_dir: Path, seed: int) -> Splits:  # noqa: ARG002 (the split is frozen, whatever the seed)
        """The splits of MNIST: 55,000, 5,000 and 10,000 images uint8 [rows, 28, 28]."""
        raw = mnist.read(data_dir)
        images, labels = torch.tensor(raw.train_images), torch.tensor(raw.train_labels).long()
        cut = len(images) - mnist.VALIDATION_ROWS
        ink = images[:cut].double() / 255
        return Splits(
            train=Split({"pixels": images[:cut]}, labels[:cut]),
            validation=Split({"pixels": images[cut:]}, labels[cut:]),
            test=Split({"pixels": torch.tensor(raw.test_images)}, torch.tensor(raw.test_labels).long()),
            sources=mnist.sources(),
            assets={},
            facts={"mean": ink.mean().item(), "std": ink.std().item()},
        )

    def optimisation(self, network: str) -> Optimisation:  # noqa: ARG002 (the same for both)
        """AdamW, one cycle, averaged weights."""
        return Optimisation(weight_decay=0.01, average_decay=0.998, tolerance=0.0007, patience=10)

    def build(self, network: str, splits: Splits) -> nn.Module:
        """A fresh network."""
        return _NETS[network](splits.facts["mean"], splits.facts["std"])

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Images and labels; with a generator shuffled, moved at random, and beside digits of other hands."""
        pixels, rows = split.inputs["pixels"], len(split)
        order = torch.arange(rows) if generator is None else torch.randperm(rows, generator=generator)
        for chosen in torch.split(order, batch_size):
            if generator is None:
                yield {"pixels": pixels[chosen]}, split.targets[chosen]
                continue
            several = chosen if len(chosen) > 1 else order[[0, -1]]  # batch norm cannot learn from a single row
            drawn, labels = hands.bank(min(hands.ROWS, rows))
            others = torch.randint(len(drawn), (max(1, len(several) // _OTHERS),), generator=generator)
            seen = torch.cat([hands.restyled(pixels[several], generator), drawn[others]])
            yield {"pixels": augment(seen, generator)}, torch.cat([split.targets[several], labels[others]])

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Cross entropy in nats, against smoothed labels."""
        return F.cross_entropy(module(**inputs), targets, label_smoothing=_SMOOTHING)

    def predict(self, module: nn.Module, split: Split, batch_size: int = 256) -> Tensor:
        """Logits [rows, 10]."""
        module.eval()
        with torch.no_grad():
            return torch.cat([module(**inputs) for inputs, _ in self.batches(split, batch_size, None)])

    def metrics(self, raw: Tensor, split: Split) -> dict[str, float]:
        """Accuracy and mean cross entropy of logits."""
        accuracy = (raw.argmax(1) == split.targets).double().mean().item()
        return {"accuracy": accuracy, "loss": F.cross_entropy(raw, split.targets, label_smoothing=_SMOOTHING).item()}

    def score(self, outputs: Mapping[str, Tensor], split: Split) -> dict[str, float]:
        """Accuracy, negative log likelihood and calibration error of the graph's probabilities."""
        return classify.scores(outputs["probabilities"], split.targets)

    def losses(self, outputs: Mapping[str, Tensor], split: Split) -> Tensor:
        """Negative log likelihood of each row in nats."""
        return classify.losses(outputs["probabilities"], split.targets)

    def serving(
        self,
        module: nn.Module,
        splits: Splits,
        epochs: int | None = None,
    ) -> tuple[nn.Module, dict[str, float]]:
        """The network without its norms and a head that has learnt doubt, behind the calibrated step."""
        if not isinstance(module, DigitCnn | DigitMlp):
            raise TypeError(f"{type(module).__name__} is not a digit network")
        served = LeanCnn(module) if isinstance(module, DigitCnn) else module.folded()
        served.eval()
        pixels, rows = splits.train.inputs["pixels"], len(splits.train)
        count = doubt.steps(rows, epochs)
        outliers = Outliers(splits.train, min(_OUTLIERS, rows, count * doubt.BATCH), seed=0)
        known = functools.partial(digits_of_all_hands, pixels)
        head = doubt.head(served.seen, served.doubt_layers)
        doubt.learn(served.read, head, known, outliers.draw, count)
        return self._calibrated(served, head, splits)

    def _calibrated(
        self, served: LeanCnn | DigitMlp, head: nn.Sequential, splits: Splits
    ) -> tuple[Serving, dict[str, float]]:
        """With the temperature and the outlier line that suit the validation split and outliers of another seed."""
        raw, targets = self.predict(served, splits.validation), splits.validation.targets
        heat = classify.temperature(raw, targets)
        pixels = splits.validation.inputs["pixels"]
        others = Outliers(splits.validation, min(_HELD_OUT, len(pixels)), seed=1).pictures
        known, unknown = (self._evidence(served, head, rows) for rows in (pixels, others))
        found = calibrate(heat, known, unknown, prior=_PRIOR, warned_share=_WARNED)
        figures = {
            "ece_before": classify.calibration_error(raw.softmax(1), targets),
            "ece_after": classify.calibration_error((raw / heat).softmax(1), targets),
        }
        return Serving(served, head, found).eval(), found.figures() | figures

    def _evidence(self, served: LeanCnn | DigitMlp, head: nn.Module, pixels: Tensor) -> Tensor:
        """The outlier logits [rows] of images."""
        with torch.no_grad():
            return torch.cat([head(served.read(part)).squeeze(1) for part in torch.split(pixels, 256)])

    def spec(self, splits: Splits) -> ServingSpec:  # noqa: ARG002 (known without the data)
        """uint8 [batch, 28, 28] in, float32 [batch, 10] and [batch] out."""
        return ServingSpec(
            inputs=[TensorSpec(name="pixels", dtype="uint8", shape=["batch", 28, 28])],
            outputs=outlier_outputs(10),
            buckets=Buckets(rows=[1, 2, 4, 8, 16, 32, 64]),
            labels=[str(digit) for digit in range(10)],
        )

    def example(self, batch: int, length: int, seed: int) -> Inputs:  # noqa: ARG002 (no length axis)
        """Random pixels."""
        generator = torch.Generator().manual_seed(seed)
        return {"pixels": torch.randint(0, 256, (batch, 28, 28), generator=generator, dtype=torch.uint8)}

    def parity_lengths(self) -> list[int]:
        """The graph has no length axis."""
        return [0]


TASK: Task = DigitTask()
