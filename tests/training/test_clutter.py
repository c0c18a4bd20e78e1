"""Pictures without a digit: form, variety and that they come back with their seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.datasets import clutter
from training.datasets.clutter import KINDS, bank, framed


def test_the_bank_comes_back_with_its_seed() -> None:
    """Same seed, same pictures, however many are asked for; another seed, others."""
    pictures = bank(64)
    assert pictures.shape == (64, 28, 28)
    assert pictures.dtype == torch.uint8
    bank.cache_clear()
    assert torch.equal(bank(64), pictures)
    assert torch.equal(bank(32), pictures[:32])
    assert not torch.equal(bank(64, 1), pictures)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.strip("_"))
def test_each_kind_fills_the_frame_like_a_digit_and_never_repeats(kind: clutter.Kind) -> None:
    """20 pixels along the longer side, full contrast, ink about the middle, and no two alike."""
    rng = np.random.default_rng(3)
    pictures = [framed(kind(rng)) for _ in range(20)]
    for picture in pictures:
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) < 20
        assert picture.max() == 255
        mass = picture / picture.sum()
        assert abs(mass.sum(1) @ np.arange(28) - 14) < 4.6
        assert abs(mass.sum(0) @ np.arange(28) - 14) < 4.6
    assert len({picture.tobytes() for picture in pictures}) == 20


def test_framing_keeps_the_shape_and_centres_by_mass() -> None:
    """A bar twice as high as wide stays so, its middle in the middle; an empty sheet stays empty."""
    sheet = np.zeros((80, 80), np.uint8)
    sheet[0:40, 60:80] = 255
    frame = framed(sheet)
    assert frame[4:24, 10:20].min() == 255
    assert int((frame > 0).sum()) == 200
    assert not framed(np.zeros((80, 80), np.uint8)).any()
