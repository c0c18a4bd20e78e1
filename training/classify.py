"""What classifiers share: figures of their probabilities and the temperature that makes these honest."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_BINS = 15
_GOLDEN = (math.sqrt(5) - 1) / 2


def scores(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    """`accuracy`, `nll` (nats) and `ece` of probabilities [rows, classes] against class numbers [rows]."""
    return {
        "accuracy": (probabilities.argmax(1) == targets).double().mean().item(),
        "nll": losses(probabilities, targets).mean().item(),
        "ece": calibration_error(probabilities, targets),
    }


def losses(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Negative log likelihood [rows], nats in float64, of probabilities [rows, classes] and class numbers [rows]."""
    picked = probabilities.gather(1, targets.unsqueeze(1)).squeeze(1)
    return -picked.double().clamp_min(1e-12).log()


def calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al., ICML 2017)."""
    confidence, guess = probabilities.double().max(1)
    right = (guess == targets).double()
    bins = (confidence * _BINS).long().clamp_max(_BINS - 1)
    gap = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return gap.abs().sum().item() / len(targets)


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The divisor of logits with the least cross entropy, between 0.2 and 5 (Guo et al., ICML 2017).

    The loss is convex in the divisor's inverse, so a golden-section search over that finds it.
    """
    logits = logits.double()

    def loss(inverse: float) -> float:
        return F.cross_entropy(logits * inverse, targets).item()

    low, high = 0.2, 5.0
    for _ in range(40):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return 2 / (low + high)
