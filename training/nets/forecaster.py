"""The next steps of one column of a series: a linear map of its recent past, corrected by a network that sees all.

The map is a ridge-like linear layer over the last `LOOK_BACK` values of the target less its last value (NLinear:
A. Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023), with an offset for each hour of
the day. On small hourly data it carries most of the skill; the encoder (an LSTM, say) adds a correction from the last
`RECENT` steps of all columns and the clock. Both work in units of the series' own recent restlessness.

Series shorter than LOOK_BACK are continued to the left for the map by repeating their first day.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

LOOK_BACK = 336
RECENT = 48
DAY, WEEK, WEEKEND = 24, 168, 120
CLOCK_FEATURES = 3

_HIDDEN_COLUMNS = 0.5
"""Share of the other columns hidden from the encoder in training, a whole column of a row at a time."""
_CORRECTION = 0.3
"""The head's outputs are so much smaller than its layer gives: the correction then learns slower than the map."""
_STILLNESS = 0.01
"""Added to a series' mean hourly change, in units of the target's scale, so that a flat series has a unit too."""
_USUAL = 0.125
"""The mean hourly change, again in that unit, that makes a restlessness of 1."""


class Forecaster(nn.Module):
    """Forecasts [batch, horizon] in the target's own unit, and the series' restlessness [batch, 1] in that unit.

    Takes raw `values` float32 [batch, length, columns], padded with anything after `lengths` int64 [batch] steps, and
    `hour_of_week` int64 [batch] of each row's first step. `mean` and `std` are those of the training columns.
    `encoder(x, lengths)` maps features [batch, RECENT, columns + CLOCK_FEATURES] to a pair whose second part is
    [batch, encoder_features]. The restlessness is the square root of the mean absolute hourly change: half way between
    a fixed unit and a proportional one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        encoder_features: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        target: int,
        horizon: int,
    ) -> None:
        super().__init__()
        self.target = target
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.past = nn.Linear(LOOK_BACK, horizon)
        self.hour = nn.Embedding(DAY, horizon)
        self.encoder = encoder
        self.head = nn.Linear(encoder_features, horizon)
        for weights in (self.past.weight, self.past.bias, self.hour.weight, self.head.weight, self.head.bias):
            nn.init.zeros_(weights)  # training starts at "as the last value"

    def forward(self, values: Tensor, lengths: Tensor, hour_of_week: Tensor) -> tuple[Tensor, Tensor]:
        count = lengths.unsqueeze(1)
        past = self._past(values, count)
        last = past[:, -1:]
        scale = restlessness(past, count)
        linear = self.past((past - last) / scale) + self.hour((hour_of_week + lengths) % DAY)
        steps, used = self._recent(values, count, hour_of_week.unsqueeze(1), scale)
        correction = self.head(self.encoder(steps, used)[1])
        forecast = (linear + _CORRECTION * correction) * scale + last
        unit = self.std[self.target]
        return forecast * unit + self.mean[self.target], scale * unit

    def _past(self, values: Tensor, count: Tensor) -> Tensor:
        """The target's last LOOK_BACK values, scaled; before a shorter series its first day, over and over."""
        index = count - LOOK_BACK + torch.arange(LOOK_BACK, device=values.device)
        index = torch.where(index < 0, torch.remainder(index, count.clamp(max=DAY)), index)
        chosen = values[:, :, self.target].gather(1, index)
        return (chosen - self.mean[self.target]) / self.std[self.target]

    def _recent(self, values: Tensor, count: Tensor, hour_of_week: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the last RECENT real steps, shifted to the front of the row, and how many there are."""
        used = count.clamp(max=RECENT)
        index = torch.minimum(count - used + torch.arange(RECENT, device=values.device), count - 1)
        columns = values.shape[2]
        chosen = (values.gather(1, index.unsqueeze(2).expand(-1, -1, columns)) - self.mean) / self.std
        change = chosen - chosen[:, -1:]
        if self.training:
            kept = torch.rand(len(change), 1, columns, device=change.device) >= _HIDDEN_COLUMNS
            kept[:, :, self.target] = True
            weight = kept.to(change.dtype) / (1 - _HIDDEN_COLUMNS)
            weight[:, :, self.target] = 1.0
            change = change * weight
        target = (torch.arange(columns, device=change.device) == self.target).to(change.dtype)
        change = change / (1 + target * (scale.unsqueeze(2) - 1))
        return torch.cat([change, clock(hour_of_week + index)], dim=2), used.squeeze(1)


def clock(hours: Tensor) -> Tensor:
    """Sine and cosine of the hour of day, and 1 on Saturday and Sunday; [..., 3] of hours of the week int64 [...]."""
    hour = hours % WEEK
    angle = (hour % DAY).to(torch.float32) * (2 * math.pi / DAY)
    return torch.stack([angle.sin(), angle.cos(), (hour >= WEEKEND).to(torch.float32)], dim=-1)


def restlessness(past: Tensor, count: Tensor) -> Tensor:
    """The unit [batch, 1] of scaled rows [batch, LOOK_BACK]; only their last `count` [batch, 1] steps are real."""
    place = torch.arange(1, LOOK_BACK, device=past.device)
    real = (place > LOOK_BACK - count).to(past.dtype)
    change = ((past[:, 1:] - past[:, :-1]).abs() * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    return ((change + _STILLNESS) / _USUAL).sqrt()
