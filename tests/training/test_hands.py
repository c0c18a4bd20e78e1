"""Digits of other hands: form, variety, the ways of writing that MNIST lacks, and other pens on its images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.datasets import hands
from training.datasets.strokes import by_hand, framed, smoothed, way


def test_the_bank_comes_back_with_its_seed() -> None:
    """Same seed, same digits; all ten in turn, framed like MNIST's; another seed, others."""
    pictures, labels = hands.bank(60)
    hands.bank.cache_clear()
    assert torch.equal(hands.bank(60)[0], pictures)
    assert not torch.equal(hands.bank(60, 1)[0], pictures)
    assert labels.tolist() == [*range(10)] * 6
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (60, 28, 28))
    assert (pictures.flatten(1).amax(1) == 255).all()
    assert not pictures[:, :, [0, 27]].any()


@pytest.mark.parametrize("digit", range(10))
def test_no_two_digits_are_alike(digit: int) -> None:
    """Forms, pens, slants and shakes differ from picture to picture."""
    rng = np.random.default_rng(1)
    pictures = [framed(by_hand(hands.FORMS[digit](rng), rng)) for _ in range(30)]
    assert len({picture.tobytes() for picture in pictures}) == 30
    ink = [int((picture > 127).sum()) for picture in pictures]
    assert max(ink) > 2 * min(ink)


def test_ones_have_flags_and_feet_and_a_long_flag_is_steep() -> None:
    """A 1's flag may be three quarters as long as its bar, and the longer it is, the nearer it hangs to the bar."""
    rng = np.random.default_rng(0)
    flags, feet = [], 0
    for _ in range(300):
        bar, *foot = hands._one(rng)
        feet += len(foot)
        if len(bar) == 3:
            along = bar[0] - bar[1]
            flags.append((np.hypot(*along), np.degrees(np.arctan2(-along[0], along[1]))))
    lengths, angles = np.array(flags).T
    assert 60 < feet < 200
    assert lengths.max() > 0.7
    assert angles[lengths > 0.3].max() <= 62
    assert angles[lengths > 0.6].max() < 46


def test_sevens_are_crossed_and_fours_open() -> None:
    """About half of the sevens have a bar across, and fours come as one stroke and as two."""
    rng = np.random.default_rng(0)
    crossed = np.mean([len(hands._seven(rng)) == 2 for _ in range(200)])
    assert 0.4 < crossed < 0.7
    assert {len(hands._four(rng)) for _ in range(60)} == {1, 2}


def test_cutting_corners_keeps_the_ends() -> None:
    """A smoothed way begins and ends where the points do, and tighter corners stay nearer to them."""
    corner = way((0, 0), (1, 0), (1, 1))
    near = [float(np.hypot(*(smoothed(corner, tightness) - [1, 0]).T).min()) for tightness in (1, 5)]
    assert near[1] < near[0] < 0.5
    assert smoothed(corner, 2)[[0, -1]].tolist() == [[0, 0], [1, 1]]


def test_other_pens_change_a_sixth_of_the_images() -> None:
    """Thicker, finer, coarser or slanted, by the generator's seed; the others keep every byte."""
    pixels = torch.zeros(2000, 28, 28, dtype=torch.uint8)
    pixels[:, 4:24, 12:16] = 255
    once = hands.restyled(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(once, hands.restyled(pixels, torch.Generator().manual_seed(1)))
    changed = (once != pixels).flatten(1).any(1)
    assert 0.13 < changed.float().mean().item() < 0.21
    ink = once[changed].float().mean((1, 2)) / pixels[0].float().mean()
    assert ink.min() < 0.9
    assert ink.max() > 1.2
