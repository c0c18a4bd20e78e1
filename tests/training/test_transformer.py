"""The transformer: padding and company change nothing, and no row gives a number that is none."""

from __future__ import annotations

import math

import pytest
import torch

from training.nets.transformer import Attention, Encoder, TopicTransformer, masked_mean, sinusoids


def network(vocabulary: int = 50, max_length: int = 32) -> TopicTransformer:
    torch.manual_seed(0)
    return TopicTransformer(vocabulary, 4, max_length, pairs=97).eval()


def test_padding_at_the_end_changes_nothing() -> None:
    """A row padded to a longer batch gives the logits it gives alone."""
    row = torch.tensor([[5, 9, 3, 12]])
    padded = torch.cat([row, torch.zeros(1, 20, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(network()(padded), network()(row), atol=1e-5, rtol=0)


def test_company_changes_nothing() -> None:
    """A row in a mixed batch gives the logits it gives alone."""
    rows = torch.tensor([[5, 9, 3, 12, 7], [8, 0, 0, 0, 0], [4, 4, 2, 0, 0]])
    together = network()(rows)
    for row, logits in zip(rows, together, strict=True):
        torch.testing.assert_close(network()(row[row != 0].unsqueeze(0))[0], logits, atol=1e-5, rtol=0)


def test_row_without_a_token_is_finite() -> None:
    """Nothing but padding gives plain numbers, also beside a real row."""
    rows = torch.tensor([[0, 0, 0], [4, 5, 6]])
    assert torch.isfinite(network()(rows)).all()
    assert torch.isfinite(network()(rows[:1])).all()


def test_order_of_tokens_matters() -> None:
    """The same words in another order give other logits: positions reach the encoder."""
    one, other = torch.tensor([[5, 9, 3, 12]]), torch.tensor([[12, 3, 9, 5]])
    assert (network()(one) - network()(other)).abs().max() > 1e-5


def test_longest_row_is_taken_and_a_longer_one_refused() -> None:
    """`max_length` is the last length with a position."""
    assert network()(torch.ones(1, 32, dtype=torch.int64)).shape == (1, 4)
    with pytest.raises(IndexError):
        network()(torch.ones(1, 33, dtype=torch.int64))


def test_encoder_ignores_what_lies_in_padding() -> None:
    """Junk behind a row's end does not reach its real steps."""
    torch.manual_seed(0)
    encoder = Encoder(16, 2, 4, 32, 0.1).eval()
    x, real = torch.randn(2, 6, 16), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    before = encoder(x, real)
    x[1, 4:] = 1e3
    torch.testing.assert_close(encoder(x, real)[1, :4], before[1, :4])


def test_attention_equals_torch() -> None:
    """The written-out attention is that of torch's own layer with the same weights."""
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.project.weight.data, ours.project.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.out.weight.data, ours.out.bias.data
    x = torch.randn(3, 5, 16)
    expected, _ = theirs(x, x, x, need_weights=False)
    torch.testing.assert_close(ours(x, torch.zeros(3, 1, 1, 5)), expected, atol=1e-5, rtol=1e-4)


def test_heads_must_divide_the_width() -> None:
    """A width that heads cannot share is refused at once."""
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        Attention(16, 3)


def test_sinusoids_are_those_of_the_paper() -> None:
    """Even columns are sines, odd ones cosines, of the position over 10000^(2i/width)."""
    table = sinusoids(8, 6)
    assert table.shape == (8, 6)
    assert table[5, 2].item() == pytest.approx(math.sin(5 / 10000 ** (2 / 6)), abs=1e-5)
    assert table[5, 3].item() == pytest.approx(math.cos(5 / 10000 ** (2 / 6)), abs=1e-5)


def test_masked_mean_leaves_padding_out() -> None:
    """The mean is over real steps, and zero where there are none."""
    x = torch.tensor([[[1.0], [3.0], [99.0]], [[7.0], [7.0], [7.0]]])
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(x, real).tolist() == [[2.0], [0.0]]
