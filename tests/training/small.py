"""The digit task on a few hundred real images, so that whole trainings fit into a test."""

from __future__ import annotations

from pathlib import Path

from training.tasks.base import Optimisation, Split, Splits
from training.tasks.digit import DigitTask

ROWS = (640, 200, 200)


def head(split: Split, rows: int) -> Split:
    return Split({name: values[:rows] for name, values in split.inputs.items()}, split.targets[:rows])


class SmallDigit(DigitTask):
    """640 training, 200 validation and 200 test images of MNIST, and a floor that suits them."""

    floor = 0.5
    patience = 5

    def load(self, data_dir: Path, seed: int) -> Splits:
        whole = super().load(data_dir, seed)
        train, validation, test = (
            head(split, rows) for split, rows in zip((whole.train, whole.validation, whole.test), ROWS, strict=True)
        )
        return Splits(train, validation, test, whole.sources, whole.assets, whole.facts)

    def optimisation(self, network: str) -> Optimisation:
        return Optimisation(weight_decay=0.01, average_decay=0.9, patience=self.patience)
