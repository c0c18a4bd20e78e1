"""Pictures without a digit: form, variety and that they come back with their seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.datasets import clutter, glyphs, letters
from training.datasets.clutter import _SHAPES, KINDS, UNFRAMED, bank, mistaken, several, turned
from training.datasets.strokes import framed


def test_the_bank_comes_back_with_its_seed() -> None:
    """Same seed, same pictures, however many are asked for; another seed, others."""
    pictures = bank(64)
    assert pictures.shape == (64, 28, 28)
    assert pictures.dtype == torch.uint8
    bank.cache_clear()
    assert torch.equal(bank(64), pictures)
    assert torch.equal(bank(32), pictures[:32])
    assert not torch.equal(bank(64, 1), pictures)


@pytest.mark.parametrize(
    "kind",
    [*dict.fromkeys((*KINDS[:-4], *_SHAPES))],
    ids=lambda kind: f"{kind.__module__.rpartition('.')[2]} {kind.__name__.strip('_')}",
)
def test_each_kind_fills_the_frame_like_a_digit_and_hardly_repeats(kind: clutter.Kind) -> None:
    """20 pixels along the longer side, full contrast, ink about the middle, and hardly two alike."""
    rng = np.random.default_rng(3)
    pictures = [framed(kind(rng)) for _ in range(20)]
    for picture in pictures:
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert max(np.ptp(rows), np.ptp(columns)) < 20
        assert picture.max() == 255
        mass = picture / picture.sum()
        assert abs(mass.sum(1) @ np.arange(28) - 14) < 4.6
        assert abs(mass.sum(0) @ np.arange(28) - 14) < 4.6
    assert len({picture.tobytes() for picture in pictures}) >= 18


def test_framing_keeps_the_shape_and_centres_by_mass() -> None:
    """A bar twice as high as wide stays so, its middle in the middle; an empty sheet stays empty."""
    sheet = np.zeros((80, 80), np.uint8)
    sheet[0:40, 60:80] = 255
    frame = framed(sheet)
    assert frame[4:24, 10:20].min() == 255
    assert int((frame > 0).sum()) == 200
    assert not framed(np.zeros((80, 80), np.uint8)).any()


@pytest.mark.parametrize("kind", [*dict.fromkeys(UNFRAMED)], ids=lambda kind: kind.__name__.strip("_"))
def test_what_no_frame_made_has_the_networks_form(kind: clutter.Kind) -> None:
    """Noise, plain levels, waves and pictures out of place are uint8 [28, 28] too."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        picture = kind(rng)
        assert (picture.shape, picture.dtype) == ((28, 28), np.uint8)


def test_several_digits_stand_together_in_one_frame() -> None:
    """Two bars give pictures with more ink than one has in the frame's height or width, and repeat with their seed."""
    bar = np.zeros((1, 28, 28), np.uint8)
    bar[0, 4:24, 12:16] = 255
    pictures = several(bar, 40, 2)
    assert pictures.shape == (40, 28, 28)
    assert torch.equal(pictures, several(bar, 40, 2))
    pieces = [np.unique(np.flatnonzero(np.diff((row > 100).any(0).numpy().astype(int)) == 1)).size for row in pictures]
    assert np.mean(np.array(pieces) > 1) > 0.4


def test_turned_digits_are_none_that_is_another_digit_then() -> None:
    """A 3 lies on a side or is mirrored, a 9 is only mirrored, and a 0 or 8, which would stay one, never comes."""
    digits = np.zeros((3, 28, 28), np.uint8)
    digits[0, 4:24, 4:14], digits[1, 4:24, 4:9], digits[2] = 255, 128, 77
    pictures = turned(digits, np.array([3, 9, 0]), 60)
    tops = pictures.flatten(1).amax(1)
    assert set(tops.tolist()) == {255, 128}
    assert (pictures[tops == 128, :, :14] == 0).all()
    assert {tuple(rows.tolist()) for rows in (pictures[tops == 255] > 0).sum((1, 2)).unsqueeze(1)} == {(200,)}
    assert torch.equal(pictures, turned(digits, np.array([3, 9, 0]), 60))


def test_mistaken_pictures_are_digits_on_another_scale() -> None:
    """Near black (0..1, 0..16, up to 60) or dark on light: never what a digit looks like to the network."""
    digit = np.zeros((1, 28, 28), np.uint8)
    digit[0, 4:24, 12:16] = 255
    pictures = mistaken(digit, 60)
    tops = {int(top) for top in pictures.flatten(1).amax(1)}
    assert tops == {1, 16, 60, 255}
    dark_on_light = pictures[pictures.flatten(1).amax(1) == 255]
    assert (dark_on_light[:, 0, 0] == 255).all()
    assert (dark_on_light[:, 10, 13] == 0).all()


def test_no_letter_or_sign_is_one_that_hands_write_as_a_digit() -> None:
    """I l O o S s Z z B b G g q and the ten digits are in no list, by hand or in print, of any script."""
    hands = {name for text in (letters._LETTERS, letters._SIGNS) for name, _ in letters._forms(text)}
    for taken in "IlOoSsZzBbGgq0123456789|/":
        assert taken not in hands
        assert taken not in glyphs.LETTERS + glyphs.SIGNS + glyphs.SCRIPTS
    assert set(glyphs.LETTERS) <= hands


def test_several_digits_take_pictures_without_ink_and_full_of_it():
    """A data set may hold empty frames and frames that are all ink; the pictures are made all the same."""
    frames = np.zeros((3, 28, 28), np.uint8)
    frames[1:] = 255
    made = clutter.several(frames, 60)
    assert made.shape == (60, 28, 28)
    assert made.flatten(1).any(1).float().mean() > 0.8
