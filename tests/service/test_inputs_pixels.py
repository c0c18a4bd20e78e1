"""Pixel lists in JSON: given to the model as they are, refused by the place that is wrong."""

import numpy as np
import pytest

from service.errors import InvalidInput
from service.inputs import image


def grid(value=0):
    """A valid grid with one inked pixel, as JSON gives it."""
    rows = [[value] * 28 for _ in range(28)]
    rows[5][6] = 200
    return rows


def refused(call, value):
    """The error's first place and its sentence."""
    with pytest.raises(InvalidInput) as caught:
        call(value)
    return caught.value.errors[0]["loc"], caught.value.errors[0]["msg"]


def test_pixels_reach_the_model_as_they_are():
    """No centring, no scaling, on one grid or many."""
    rows = np.random.default_rng(3).integers(0, 256, (4, 28, 28))
    assert np.array_equal(image.from_pixels(rows[0].tolist()), rows[0])
    batch = image.from_pixels_batch(rows.tolist())
    assert batch.dtype == np.uint8
    assert np.array_equal(batch, rows)


@pytest.mark.parametrize(
    "bad", [True, False, 3.5, 1.0, float("nan"), float("inf"), -1, 256, 10**400, None, "7", [], [1], {}]
)
def test_wrong_pixel_is_named_by_row_and_column(bad):
    """Anything but an integer 0..255 is refused where it stands, in one grid and in a batch."""
    rows = grid()
    rows[3][17] = bad
    place, message = refused(image.from_pixels, rows)
    assert place == ["body", "pixels", 3, 17]
    assert message.startswith("must be an integer 0..255, not ")
    assert refused(image.from_pixels_batch, [grid(), rows])[0] == ["body", "pixels", 1, 3, 17]


@pytest.mark.parametrize("bad", [[], [0] * 27, [0] * 29, None, 28, "0" * 28, {}])
def test_wrong_row_is_named(bad):
    """A ragged, missing or foreign row is refused by its number."""
    rows = grid()
    rows[9] = bad
    assert refused(image.from_pixels, rows)[0] == ["body", "pixels", 9]


@pytest.mark.parametrize("bad", [None, 5, "pixels", {}, [], [[0] * 28] * 27, [[0] * 28] * 29])
def test_wrong_grid_is_named(bad):
    """What is not 28 rows is refused as a whole."""
    assert refused(image.from_pixels, bad)[0] == ["body", "pixels"]
    assert refused(image.from_pixels_batch, [grid(), bad])[0] == ["body", "pixels", 1]


@pytest.mark.parametrize("bad", [None, [], {}, "text", 3])
def test_batch_must_be_a_list_of_grids(bad):
    """An empty or foreign batch is refused."""
    assert refused(image.from_pixels_batch, bad)[0] == ["body", "pixels"]


def test_many_faults_are_listed_but_not_all():
    """A client sees several faults at once, and never a megabyte of them."""
    with pytest.raises(InvalidInput) as caught:
        image.from_pixels([[-1] * 28 for _ in range(28)])
    assert len(caught.value.errors) == 8


@pytest.mark.parametrize("value", [0, 255])
def test_blank_grid_is_refused(value):
    """All pixels equal is no digit; in a batch its index is named."""
    blank = [[value] * 28 for _ in range(28)]
    with pytest.raises(InvalidInput) as caught:
        image.from_pixels(blank)
    assert caught.value.code == "blank_image"
    with pytest.raises(InvalidInput) as caught:
        image.from_pixels_batch([grid(), blank])
    assert caught.value.code == "blank_image"
    assert caught.value.errors[0]["loc"] == ["body", "pixels", 1]
