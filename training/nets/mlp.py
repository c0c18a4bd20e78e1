"""The plain digit network: two hidden dense layers, 535,818 weights when served.

Batch norm and dropout serve training only: `folded` writes the norms into the weights before them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.nets.cnn import fold


class DigitMlp(nn.Module):
    """Logits [batch, 10] of images uint8 [batch, 28, 28]; `mean` and `std` are those of the training pixels in 0..1."""

    seen, doubt_layers = 784, (256, 64)
    """How many values `read` gives a row, and the widths of the hidden layers of the head that tells outliers by it."""

    def __init__(self, mean: float, std: float, dropout: float = 0.1) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, 512),
            nn.BatchNorm1d(512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 10),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.layers((pixels.to(torch.float32) / 255.0 - self.mean) / self.std)
        return logits

    @property
    def last_layer(self) -> nn.Module:
        """What gives the logits."""
        return self.layers[-1]

    def read(self, pixels: Tensor) -> Tensor:
        """The image itself [batch, 784], in units of the training pixels' deviation."""
        return torch.flatten((pixels.to(torch.float32) / 255.0 - self.mean) / self.std, 1)

    def logits(self, seen: Tensor) -> Tensor:
        """The logits from that."""
        logits: Tensor = self.layers(seen)
        return logits

    def folded(self) -> DigitMlp:
        """The same function in inference, without norms and dropout."""
        twin = DigitMlp(self.mean, self.std)
        twin.layers = fold(self.layers)
        return twin.eval()
