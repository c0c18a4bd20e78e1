"""What a classifier answers where a row may show none of its labels: one calibrated step behind its logits.

A network gives logits of the labels and one outlier logit. A logistic map, fitted on validation rows and on rows
without any of the labels (J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999), makes the outlier logit
a probability o, and the answer is the mixture (1 - o) * softmax + o / classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.manifest import Doubt, TensorSpec

THRESHOLD, UNKNOWN_SHARE = "outlier_threshold", "unknown_share"
_STEPS, _EDGE = 200, 1e-6


@dataclass(frozen=True)
class Calibration:
    """The temperature of the logits, the line through the outlier logit, and the limit of the warning."""

    temperature: float
    outlier_slope: float
    outlier_intercept: float
    outlier_threshold: float

    def figures(self) -> dict[str, float]:
        """As they stand in a manifest's `calibration`; `doubt` reads them there."""
        return asdict(self)


class Answer(nn.Module):
    """Probabilities [batch, classes] and outlier probability [batch] of logits [batch, classes], outlier logit [batch].

    A task's serving module calls this last: it takes its own inputs, and a graph's outputs come in this order.
    """

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration

    def forward(self, logits: Tensor, outlier_logit: Tensor) -> tuple[Tensor, Tensor]:
        found = self.calibration
        if found.temperature != 1:
            logits = logits / found.temperature
        if found.outlier_slope != 1:
            outlier_logit = outlier_logit * found.outlier_slope
        if found.outlier_intercept:
            outlier_logit = outlier_logit + found.outlier_intercept
        outlier, known = torch.sigmoid(outlier_logit), torch.softmax(logits, dim=1)
        share = outlier.unsqueeze(1)
        return known + share * (1 / logits.shape[1] - known), outlier  # (1 - o) * known + o / classes in fewer steps


def outputs(classes: int) -> list[TensorSpec]:
    """The outputs of such a graph, for `ServingSpec`."""
    return [
        TensorSpec(name="probabilities", dtype="float32", shape=["batch", classes]),
        TensorSpec(name=Doubt.model_fields["output"].default, dtype="float32", shape=["batch"]),
    ]


def line(known: Tensor, unknown: Tensor, prior: float) -> tuple[float, float]:
    """Slope and intercept of the logistic map of outlier logits [rows] that has the least cross entropy.

    `known` are rows with a label, `unknown` rows without one, which count as the share `prior` of all. Platt's targets
    keep the slope finite where the two do not overlap.
    """
    x = torch.cat([known, unknown]).double()
    centre, width = x.mean(), x.std().clamp_min(1e-12)
    rows = torch.stack([(x - centre) / width, torch.ones_like(x)], 1)
    low, high = 1 / (len(known) + 2), (len(unknown) + 1) / (len(unknown) + 2)
    targets = torch.cat([torch.full((len(known),), low), torch.full((len(unknown),), high)]).double()
    shares = (1 - prior) / len(known), prior / len(unknown)
    weights = torch.cat([torch.full((len(known),), shares[0]), torch.full((len(unknown),), shares[1])]).double()
    found = _least(rows, targets, weights)
    slope = found[0] / width
    return slope.item(), (found[1] - slope * centre).item()


def _least(rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The place [columns] of the least loss of a weighted logistic regression, which is convex."""
    place = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [place], max_iter=_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(rows @ place, targets, weight=weights, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return place.detach()


def calibrate(temperature: float, known: Tensor, unknown: Tensor, *, prior: float, warned_share: float) -> Calibration:
    """The calibration of outlier logits of validation rows, `known`, and of rows without a label, `unknown`.

    `prior` is the share of rows without a label to be expected, `warned_share` that of the validation rows which are
    to carry a warning.
    """
    slope, intercept = line(known, unknown, prior)
    chances = torch.sigmoid(known.double() * slope + intercept)
    limit = torch.quantile(chances, 1 - warned_share).clamp(_EDGE, 1 - _EDGE).item()
    return Calibration(temperature, slope, intercept, limit)


def doubt(calibration: Mapping[str, float]) -> Doubt | None:
    """What a manifest says of a graph with an outlier output, from its calibration; None for any other graph."""
    if THRESHOLD not in calibration:
        return None
    return Doubt(threshold=calibration[THRESHOLD], unknown_share=calibration.get(UNKNOWN_SHARE))
