"""The convolutional digit network: three 3x3 convolutions and a dense layer, 93,322 weights, and a head for outliers.

The shape is the introductory network of F. Chollet, "Deep Learning with Python" (2nd edition, section 8.1). Batch
norm (Ioffe and Szegedy, 2015) and dropout serve training only: `folded` writes the norms into the layers next to them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_SEEN = 26
"""Rows and columns of an image, from the first, that any logit depends on."""


class DigitCnn(nn.Module):
    """Logits [batch, 10] of images uint8 [batch, 28, 28]; `mean` and `std` are those of the training pixels in 0..1."""

    def __init__(self, mean: float, std: float, dropout: float = 0.3) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        # a norm behind the pool sees a quarter of the values and goes into the convolution after it instead
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3),  # 26
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.BatchNorm2d(32),  # 13
            nn.Conv2d(32, 64, 3),  # 11
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.BatchNorm2d(64),  # 5
            nn.Conv2d(64, 64, 3),  # 3
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),  # 576
        )
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(576, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        # twice as fast on a CPU as the usual order
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.read(pixels))
        return logits

    def read(self, pixels: Tensor) -> Tensor:
        """What the convolutions see [batch, 576]; the head answers from it."""
        x = (pixels.to(torch.float32) / 255.0 - self.mean) / self.std
        seen: Tensor = self.features(x.unsqueeze(1))
        return seen

    def folded(self) -> DigitCnn:
        """The same function in inference, without norms and dropout."""
        twin = DigitCnn(self.mean, self.std)
        twin.features = fold(self.features)
        twin.head = fold(self.head)
        return twin.eval()


class LeanCnn(nn.Module):
    """What `network.folded()` computes, in fewer operations: logits [batch, 10] of images uint8 [batch, 28, 28].

    The pools drop the last row and column of what the second convolution sees, and so no logit depends on the last two
    rows and columns of an image: they are cut off before anything is computed from them. Scaling the pixels is left to
    the first convolution, which is exact as it has no padding, and a ReLU right behind its convolution comes for free.
    """

    seen, doubt_layers = 1600, (32,)
    """How many values `read` gives a row, and the widths of the hidden layers of the head that tells outliers by it."""

    def __init__(self, network: DigitCnn) -> None:
        super().__init__()
        twin = network.folded()
        first, pool, relu, *rest = twin.features
        if not isinstance(first, nn.Conv2d):
            raise TypeError("the first layer is no convolution")
        layers = nn.Sequential(_on_raw_pixels(first, network.mean, network.std), relu, pool)
        for layer in rest:
            behind_pool = isinstance(layer, nn.ReLU) and isinstance(layers[-1], nn.MaxPool2d)
            layers.insert(len(layers) - behind_pool, layer)
        second_pool = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][1]
        self.first, self.last = layers[: second_pool + 1], layers[second_pool + 1 :]
        self.head = twin.head

    @property
    def last_layer(self) -> nn.Module:
        """What gives the logits."""
        return self.head[-1]

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits(self.read(pixels))

    def read(self, pixels: Tensor) -> Tensor:
        """What the first two convolutions see [batch, 64, 5, 5]."""
        maps: Tensor = self.first(pixels[:, :_SEEN, :_SEEN].to(torch.float32).unsqueeze(1))  # 26, then 24, 12, 10 and 5
        return maps

    def logits(self, seen: Tensor) -> Tensor:
        """The logits from that."""
        logits: Tensor = self.head(self.last(seen))
        return logits


def _on_raw_pixels(conv: nn.Conv2d, mean: float, std: float) -> nn.Conv2d:
    """The convolution for pixels 0..255 that gives what `conv` gives for (pixels / 255 - mean) / std."""
    twin = copy.deepcopy(conv).double()
    if twin.bias is None:
        raise TypeError("the first convolution has no bias")
    with torch.no_grad():
        twin.bias -= twin.weight.sum((1, 2, 3)) * mean / std
        twin.weight /= 255 * std
    return twin.float()


def fold(layers: nn.Sequential) -> nn.Sequential:
    """A copy in which each batch norm is written into the layer before or behind it, and dropout is gone.

    A norm goes into the convolution or dense layer it follows, else into the convolution it precedes; the second is
    exact as these convolutions have no padding.
    """
    kept: list[nn.Module] = []
    waiting: nn.BatchNorm2d | None = None
    for layer in layers.eval():
        last = kept[-1] if kept else None
        if isinstance(layer, nn.BatchNorm1d) and isinstance(last, nn.Linear):
            kept[-1] = fuse_linear_bn_eval(last, layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            kept[-1] = fuse_conv_bn_eval(last, layer)
        elif isinstance(layer, nn.BatchNorm2d):
            waiting = layer
        elif isinstance(layer, nn.Conv2d) and waiting is not None:
            kept.append(_behind_norm(waiting, layer))
            waiting = None
        elif not isinstance(layer, nn.Dropout):
            kept.append(copy.deepcopy(layer))
    if waiting is not None:
        raise ValueError("a batch norm has no layer to go into")
    return nn.Sequential(*kept)


def _behind_norm(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """One convolution for a norm and the unpadded convolution behind it: w(s x + t) = (w s) x + sum(w t)."""
    if conv.padding != (0, 0) or conv.bias is None or norm.running_mean is None or norm.running_var is None:
        raise ValueError("only an unpadded convolution with a bias behind a norm with statistics can take it")
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        twin = copy.deepcopy(conv)
        twin.weight.mul_(scale.view(1, -1, 1, 1))
        twin.bias = nn.Parameter(conv.bias + (conv.weight.sum((2, 3)) @ shift))
    return twin
