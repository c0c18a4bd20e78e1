"""The reader of outliers: padding, order and length of a row of tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from training.nets.outlier import OutlierReader


def reader() -> OutlierReader:
    torch.manual_seed(0)
    network = OutlierReader(50).eval()
    with torch.no_grad():
        network.vectors.weight.mul_(20)  # values below the least that a row's largest may be
    return network


def test_padding_does_not_count() -> None:
    """A row has the same logit alone, in a longer row of zeros, and beside other rows."""
    row = torch.tensor([[7, 8, 9]])
    alone = reader()(row)
    torch.testing.assert_close(reader()(F.pad(row, (0, 9))), alone)
    torch.testing.assert_close(reader()(torch.tensor([[7, 8, 9, 0], [1, 2, 3, 4]]))[:1], alone)


def test_order_and_beginning_count() -> None:
    """The same tokens in another order, and with another one first, give another logit."""
    logits = reader()(torch.tensor([[7, 8, 9], [9, 8, 7], [8, 9, 7]]))
    assert len(set(logits.tolist())) == 3


def test_a_row_without_tokens_has_a_finite_logit() -> None:
    """Nothing but padding is no error."""
    assert bool(torch.isfinite(reader()(torch.zeros(2, 5, dtype=torch.int64))).all())


def test_training_moves_every_weight() -> None:
    """Gradients reach both tables and both layers."""
    network = reader().train()
    network(torch.tensor([[7, 8, 9], [1, 2, 0]])).sum().backward()
    assert all(weights.grad is not None and bool(weights.grad.any()) for weights in network.parameters())
