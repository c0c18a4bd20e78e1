"""One backward pass of each family agrees with central finite differences, in float64.

A derivative is (f(w + e) - f(w - e)) / 2e up to terms of e squared (GBC section 11.5 recommends the check).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from training.nets.cnn import DigitCnn
from training.nets.forecaster import CLOCK_FEATURES, Forecaster
from training.nets.mlp import DigitMlp
from training.nets.reader import TopicRecurrent
from training.nets.recurrent import Recurrent
from training.nets.series import SeriesTransformer
from training.nets.transformer import TopicTransformer

STEP = 1e-6
WEIGHTS_EACH = 3
"""Of each parameter tensor: the one with the largest derivative, and some at random."""
FLOOR = 1e-9
"""Derivatives this small are zero: a bias in front of a batch norm, the bias of a softmax's keys."""

Loss = Callable[[], Tensor]
Place = tuple[int, ...]


def in_double(module: nn.Module) -> nn.Module:
    """The module in float64 and training mode; pixels, which it makes float32, are float64 from its first layer on."""
    first = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    first.register_forward_pre_hook(lambda _, inputs: inputs[0].double())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in module.double().parameters():
            inputs = weights[0].numel() if weights.ndim > 1 else 100
            weights.add_(torch.randn(weights.shape, generator=generator, dtype=torch.float64) * inputs**-0.5)
    return module.train()


def digit(kind: type[DigitCnn | DigitMlp]) -> tuple[nn.Module, Loss]:
    """Cross entropy of 4 random pictures; batch norms take the statistics of these 4."""
    torch.manual_seed(0)
    module = in_double(kind(0.13, 0.31, dropout=0.0))
    pixels, targets = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8), torch.tensor([3, 1, 4, 1])
    return module, lambda: nn.functional.cross_entropy(module(pixels), targets)


def topic(module: nn.Module) -> tuple[nn.Module, Loss]:
    """Cross entropy of 3 rows, two of which end early."""
    module = in_double(module).eval()
    ids, targets = torch.tensor([[3, 7, 1, 5, 9], [2, 2, 8, 0, 0], [4, 0, 0, 0, 0]]), torch.tensor([0, 1, 1])
    return module, lambda: nn.functional.cross_entropy(module(ids), targets)


def series(encoder: nn.Module, features: int) -> tuple[nn.Module, Loss]:
    """Squared error of 3 series of 20, 9 and 2 steps; in inference mode, as training hides columns at random."""
    module = in_double(Forecaster(encoder, features, mean=[1.0, 2.0], std=[2.0, 3.0], target=1, horizon=3)).eval()
    values = torch.randn(3, 20, 2, dtype=torch.float64).cumsum(1)
    lengths, hours, targets = torch.tensor([20, 9, 2]), torch.tensor([5, 0, 167]), torch.randn(3, 3)
    return module, lambda: (module(values, lengths, hours)[0] - targets).square().mean()


FAMILIES: dict[str, Callable[[], tuple[nn.Module, Loss]]] = {
    "mlp": lambda: digit(DigitMlp),
    "cnn": lambda: digit(DigitCnn),
    "rnn": lambda: series(Recurrent("rnn", 2 + CLOCK_FEATURES, 4, layers=2), 4),
    "gru": lambda: series(Recurrent("gru", 2 + CLOCK_FEATURES, 4, layers=2), 4),
    "lstm": lambda: series(Recurrent("lstm", 2 + CLOCK_FEATURES, 4, layers=2), 4),
    "reader": lambda: topic(TopicRecurrent("lstm", 12, 2, width=6, hidden=4)),
    "series transformer": lambda: series(SeriesTransformer(2 + CLOCK_FEATURES, 48, width=8, layers=1), 16),
    "transformer": lambda: topic(TopicTransformer(12, 2, 8, width=8, pairs=11)),
}


def chosen(gradient: Tensor) -> list[Place]:
    """The weights to try."""
    some = torch.randint(0, gradient.numel(), (WEIGHTS_EACH - 1,), generator=torch.Generator().manual_seed(2))
    places = [gradient.abs().argmax(), *some]
    return [tuple(int(axis) for axis in torch.unravel_index(place, gradient.shape)) for place in places]


def slope(loss: Loss, weights: Tensor, place: Place) -> float:
    """The central difference of the loss along one weight, which is left as it was."""
    before, found = weights.data[place].item(), []
    for moved in (before + STEP, before - STEP):
        weights.data[place] = moved
        found.append(loss().item())
    weights.data[place] = before
    return (found[0] - found[1]) / (2 * STEP)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backward_pass_agrees_with_finite_differences(family: str) -> None:
    """A handful of weights of every parameter, to a relative error below 1e-5."""
    torch.manual_seed(0)
    module, loss = FAMILIES[family]()
    loss().backward()
    alive = []
    for name, weights in module.named_parameters():
        assert weights.dtype == torch.float64
        assert weights.grad is not None, name
        alive.append(bool(weights.grad.abs().max() > 1e-4))
        for place in chosen(weights.grad):
            exact, measured = weights.grad[place].item(), slope(loss, weights, place)
            assert measured == pytest.approx(exact, rel=1e-5, abs=FLOOR), f"{name}[{place}]"
    assert sum(alive) > 0.75 * len(alive), "most gradients vanish: nothing was checked"
