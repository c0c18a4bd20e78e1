"""Doubt: a finished digit network learns to answer pictures without a digit with low confidence.

Outlier exposure (D. Hendrycks, M. Mazeika and T. Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
2019) of the dense head alone, for a short while behind the training: digits keep their labels, strangers
(`datasets.clutter`) get equal shares for all classes. The convolutions stay as the digits have made them. Strangers
throughout the training cost a tenth of a percent of test accuracy, whichever layers learnt from them; this costs a
hundredth, and tells strangers from digits as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from training.fit import moving_average
from training.nets.cnn import DigitCnn

STEPS = 430
"""Batches of digits that are gone through: one epoch of MNIST in batches of 128, about 20 seconds of one core."""
STRANGERS, WEIGHT = 8, 0.1
"""Strangers beside each batch of digits, and the weight of their loss. More of both did no better."""
_RATE, _DECAY, _AVERAGE, _DROPOUT = 0.0005, 0.01, 0.998, 0.3


Draw = Callable[[Tensor, int], Tensor]


def learn(
    network: DigitCnn, batches: Iterable[tuple[Tensor, Tensor]], draw: Draw, smoothing: float, steps: int = STEPS
) -> None:
    """Train the head of a network without norms on batches of digits uint8 [rows, 28, 28] and labels; in place.

    `draw(digits, count)` gives strangers uint8 [count, 28, 28] by torch's global generator, which begins at 0 here and
    is put back afterwards. The rate falls to nothing, and the head's moving average is what stays.
    """
    network.eval()
    averaged, average = copy.deepcopy(network.head), moving_average(_AVERAGE)
    optimiser = torch.optim.AdamW(network.head.parameters(), lr=_RATE, weight_decay=_DECAY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step, (digits, labels) in enumerate(islice(batches, steps)):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            loss = _loss(network, digits, draw(digits, STRANGERS), labels, smoothing)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            with torch.no_grad():
                for mine, theirs in zip(averaged.parameters(), network.head.parameters(), strict=True):
                    mine.copy_(average(mine, theirs, step + 1))
    network.head = averaged


def _loss(network: DigitCnn, digits: Tensor, others: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    with torch.no_grad():
        seen = network.read(torch.cat([digits, others]))
    known, unknown = network.head(F.dropout(seen, _DROPOUT)).tensor_split([len(digits)])
    certain = F.cross_entropy(known, labels, label_smoothing=smoothing)
    loss: Tensor = certain - WEIGHT * unknown.log_softmax(1).mean()
    return loss
