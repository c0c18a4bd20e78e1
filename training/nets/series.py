"""The encoders a forecaster can have: recurrent layers, or a transformer that reads the same steps all at once.

All of them have about the same number of units, so that what differs between two forecasts is how the past is read.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from training.nets.recurrent import Kind, Recurrent
from training.nets.transformer import Encoder, masked_mean, sinusoids

_HIDDEN, _LAYERS, _DROPOUT = 50, 2, 0.3
_WIDTH, _HEADS, _FORWARD = 32, 4, 64


class SeriesTransformer(nn.Module):
    """A transformer encoder over the first `lengths` of the steps [batch, length <= `max_length`, inputs].

    Returns what it read at each step [batch, length, width], junk in the padding, and the row in short
    [batch, 2 * width]: its last real step beside the mean of all. Positions (Vaswani et al., section 3.5) count
    backwards from the last real step, as a forecast asks how long ago something was.
    """

    def __init__(self, inputs: int, max_length: int, width: int = _WIDTH, layers: int = _LAYERS) -> None:
        super().__init__()
        self.entry = nn.Linear(inputs, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(max_length, width), persistent=False)
        self.encoder = Encoder(width, layers, heads=_HEADS, hidden=_FORWARD, dropout=_DROPOUT)
        self.features = 2 * width

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ago = lengths.unsqueeze(1) - 1 - torch.arange(x.shape[1], device=x.device)
        real = ago >= 0
        read = self.encoder(self.entry(x) + self.positions[ago.clamp(min=0)], real)
        last = masked_mean(read, ago == 0)
        return read, torch.cat([last, masked_mean(read, real)], dim=1)


def encoder_of(network: str, inputs: int, length: int) -> Recurrent | SeriesTransformer:
    """A fresh encoder of rows [batch, `length`, `inputs`] for one of `rnn`, `gru`, `lstm` and `transformer`."""
    if network == "transformer":
        return SeriesTransformer(inputs, length)
    return Recurrent(cast("Kind", network), inputs, _HIDDEN, layers=_LAYERS, dropout=_DROPOUT)
