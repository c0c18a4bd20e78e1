"""What a manifest promises to clients, and what it refuses to say."""

import pytest
from pydantic import ValidationError

from models.manifest import Doubt, SeriesSpec, TensorSpec
from tests.artifacts import DIGIT_OUTPUTS, DOUBT, OUTLIER_OUTPUT, draft

SERIES = {"columns": ["load", "OT"], "target": "OT", "horizon": 3, "min_length": 2, "look_back": 5}


def test_another_output_keeps_the_contract():
    """A version may give more than the one before; it may not give less, or another shape."""
    plain, doubting = draft(), draft(outputs=[OUTLIER_OUTPUT, *DIGIT_OUTPUTS], doubt=DOUBT)
    wider = draft(outputs=[TensorSpec(name="probabilities", dtype="float32", shape=["batch", 11])])
    assert plain.keeps_contract_of(plain)
    assert doubting.keeps_contract_of(plain)
    assert not plain.keeps_contract_of(doubting)
    assert not wider.keeps_contract_of(plain)
    assert not draft(labels=[f"digit {number}" for number in range(10)]).keeps_contract_of(plain)


def test_the_output_of_the_doubt_must_be_one_of_the_graphs():
    """A manifest that names another is refused when it is read."""
    with pytest.raises(ValidationError, match="no output 'strange'"):
        draft(doubt=Doubt(output="strange", threshold=0.5))


@pytest.mark.parametrize(
    "ranges",
    [
        {"load": (0.0, 1.0)},
        {"load": (0.0, 1.0), "OT": (0.0, 1.0), "more": (0.0, 1.0)},
        {"load": (1.0, 0.0), "OT": (0.0, 1.0)},
        {"load": (0.0, float("nan")), "OT": (0.0, 1.0)},
        {"load": (0.0, float("inf")), "OT": (0.0, 1.0)},
    ],
)
def test_ranges_are_for_each_column_from_low_to_high(ranges):
    """Anything else is a mistake of who wrote it."""
    with pytest.raises(ValidationError):
        SeriesSpec(**SERIES, ranges=ranges)


def test_ranges_are_no_part_of_the_contract():
    """A retrained version may have seen other readings, and answers the same clients."""
    assert SeriesSpec(**SERIES, ranges={"load": (0, 1), "OT": (5, 5)}).ranges == {"load": (0, 1), "OT": (5, 5)}
    seen = set(draft(series=SeriesSpec(**SERIES)).contract["series"])
    assert seen == {"columns", "target", "horizon", "step_s"}
