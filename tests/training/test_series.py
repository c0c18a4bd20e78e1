"""The encoders of a forecaster: how the transformer reads a series, and which one a name gives."""

import pytest
import torch

from training.nets.recurrent import Recurrent
from training.nets.series import SeriesTransformer, encoder_of

INPUTS, LENGTH = 4, 12


def transformer():
    torch.manual_seed(0)
    return SeriesTransformer(INPUTS, LENGTH).eval()


def test_every_name_gives_its_own_encoder():
    """The three recurrent kinds and the transformer, each with the width it says."""
    x, lengths = torch.zeros(3, LENGTH, INPUTS), torch.tensor([LENGTH, 1, 5])
    for name in ("rnn", "gru", "lstm", "transformer"):
        encoder = encoder_of(name, INPUTS, LENGTH)
        assert isinstance(encoder, SeriesTransformer if name == "transformer" else Recurrent)
        assert getattr(encoder, "kind", "transformer") == name
        assert encoder(x, lengths)[1].shape == (3, encoder.features)


def test_the_transformer_knows_the_order_of_steps():
    """Two steps that change places change what it says of the row."""
    encoder, lengths = transformer(), torch.tensor([LENGTH])
    x = torch.randn(1, LENGTH, INPUTS, generator=torch.Generator().manual_seed(0))
    swapped = x[:, [0, 2, 1, *range(3, LENGTH)]]
    with torch.no_grad():
        assert not torch.allclose(encoder(x, lengths)[1], encoder(swapped, lengths)[1], atol=1e-3)


@pytest.mark.parametrize("length", [1, 6, LENGTH - 1])
def test_the_transformer_never_sees_padding(length):
    """The same steps with and without junk behind them are read alike: positions count from the last real one."""
    encoder = transformer()
    x = torch.randn(1, LENGTH, INPUTS, generator=torch.Generator().manual_seed(1))
    x[:, length:] = 1e4
    with torch.no_grad():
        padded, alone = (encoder(rows, torch.tensor([length])) for rows in (x, x[:, :length]))
    torch.testing.assert_close(padded[1], alone[1])
    torch.testing.assert_close(padded[0][:, :length], alone[0])


def test_a_row_in_short_is_its_last_step_and_the_mean():
    """What is said of a row holds its last real step apart, beside the mean of all its real steps."""
    encoder, lengths = transformer(), torch.tensor([7])
    x = torch.randn(1, LENGTH, INPUTS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        steps, short = encoder(x, lengths)
    last, mean = short.chunk(2, dim=1)
    torch.testing.assert_close(last, steps[:, 6])
    torch.testing.assert_close(mean, steps[:, :7].mean(1))
