"""What the outputs of a model say of themselves, and how far those of two versions agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.manifest import Manifest
from service.answers import place_of_probabilities
from service.batch import Answer
from service.engine import Array


class Reading:
    """Reads the outputs of one version by their names; each output is [rows, …]."""

    def __init__(self, manifest: Manifest) -> None:
        names = [spec.name for spec in manifest.outputs]
        self._forecasts = manifest.series is not None
        self._places = [names.index(name) for name in ("mean", "lower", "upper")] if self._forecasts else []
        self._probabilities = 0 if self._forecasts else place_of_probabilities(manifest)

    def certainty(self, outputs: Sequence[Array]) -> float:
        """Summed over the rows: the largest probability, or the mean width of a forecast's interval."""
        if not self._forecasts:
            return float(outputs[self._probabilities].max(1).sum())
        _, lower, upper = (outputs[place] for place in self._places)
        return float((upper - lower).mean(1).sum())

    def compare(
        self, live: Sequence[Array], candidate: Sequence[Array], candidates: Reading | None = None
    ) -> tuple[float, float, float]:
        """Summed over the rows: agreement, shift of the probability of the live answer, difference of the forecasts.

        A row agrees when its label is the same; a forecast by the share of its points within the live interval.
        `candidates` reads the outputs of the candidate; None where they are in the same order.
        """
        candidates = candidates or self
        if not self._forecasts:
            mine, theirs = live[self._probabilities], candidate[candidates._probabilities]
            best = mine.argmax(1)
            rows = np.arange(len(best))
            shift = float((theirs[rows, best] - mine[rows, best]).sum())
            return float((theirs.argmax(1) == best).sum()), shift, 0.0
        mean, lower, upper = (live[place] for place in self._places)
        theirs = candidate[candidates._places[0]]
        inside = ((theirs >= lower) & (theirs <= upper)).mean(1).sum()
        return float(inside), 0.0, float(np.abs(theirs - mean).mean(1).sum())


def is_finite(answer: Answer) -> bool:
    """Whether an answer is numbers throughout."""
    return all(bool(np.isfinite(output).all()) for output in answer.outputs)
