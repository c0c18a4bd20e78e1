"""Doubt: a finished digit network learns to tell pictures that show no digit, or more than one.

Outlier exposure (D. Hendrycks, M. Mazeika and T. Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
2019) with a head of its own: one outlier logit from what the first layers see, trained on digits and on pictures drawn
in code (`datasets.clutter`). The network itself stays as the digits have made it: pictures without a digit throughout
the training cost a tenth of a percent of test accuracy, whichever layers learnt from them, and this costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 96
"""Outliers in a batch, and as many digits."""
STEPS = 1400
"""Batches for a full data set, under a minute of one core; fewer rows have one step to `_ROWS_A_STEP`."""
_ROWS_A_STEP, _STEPS_AN_EPOCH = 39, 150
"""A network that was trained for one epoch, to try something out, waits for a head no longer than for the epoch."""
_RATE, _DECAY, _SMOOTHING = 0.002, 0.01, 0.02

Read = Callable[[Tensor], Tensor]
Draw = Callable[[int, torch.Generator], Tensor]


def head(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """A fresh head, always the same: an outlier logit [batch, 1] from what a network sees [batch, …], `width` values.

    `hidden` are the widths of its hidden layers. Torch's global generator is put back afterwards.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for before, units in pairwise((width, *hidden)):
            layers += [nn.Linear(before, units), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear((width, *hidden)[-1], 1))


def steps(rows: int, epochs: int | None = None) -> int:
    """How many batches a head learns from beside a training split of so many rows, gone through so many times."""
    most = STEPS if epochs is None else min(STEPS, epochs * _STEPS_AN_EPOCH)
    return max(1, min(most, rows // _ROWS_A_STEP))


def learn(read: Read, module: nn.Module, digits: Draw, outliers: Draw, count: int) -> None:
    """Train a head, in place, over `count` batches; `digits` and `outliers` draw rows uint8 [rows, 28, 28] of them.

    `read(pixels)` gives what the network sees [rows, …] and is not trained. The same draws and the same beginning
    give the same head; nothing is taken from torch's global generator.
    """
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(module.parameters(), lr=_RATE, weight_decay=_DECAY)
    for step in range(count):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / count)
        known, unknown = digits(BATCH, generator), outliers(BATCH, generator)
        targets = torch.cat([torch.full((len(known),), _SMOOTHING), torch.full((len(unknown),), 1 - _SMOOTHING)])
        with torch.no_grad():
            seen = read(torch.cat([known, unknown]))
        loss = F.binary_cross_entropy_with_logits(module(seen).squeeze(1), targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    module.eval()
