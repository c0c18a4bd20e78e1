"""Missing and implausible readings: what is filled, what is refused at its place, what is warned of."""

import json
import math

import numpy as np
import pytest

from models.manifest import SeriesSpec
from service.errors import InvalidInput
from service.inputs.readings import Ranges
from service.inputs.series import parse
from tests.server import EXAMPLES

RANGES = {"load": (0.0, 10.0), "OT": (-5.0, 45.0)}
SPEC = SeriesSpec(columns=["load", "OT"], target="OT", horizon=24, min_length=2, look_back=100, ranges=RANGES)
START = "2018-06-01T00:00:00"


def rows(count=100):
    """Plausible readings: a load that rises, an oil at twenty degrees."""
    return [[step % 10 / 2, 20.0] for step in range(count)]


def changed(*changes, count=100):
    found = rows(count)
    for row, column, value in changes:
        found[row][column] = value
    return found


def read(values, spec=SPEC, **options):
    return parse(values, START, spec, ranges=Ranges.of(spec), **options)


def codes(series):
    return [warning.code for warning in series.findings.warnings]


def refused(values, **options):
    with pytest.raises(InvalidInput) as caught:
        read(values, **options)
    assert caught.value.errors[0]["msg"]
    return caught.value.code, [error["loc"] for error in caught.value.errors], caught.value.detail


# ---------------------------------------------------------------------- missing


def test_a_missing_reading_lies_on_the_line_between_its_neighbours():
    """At an end it has the value of the nearest reading; the others stay as they are."""
    values = changed((0, 0, None), (40, 1, None), (41, 1, None), (99, 1, None), (42, 1, 26.0))
    series = read(values)
    assert codes(series) == ["filled_values"]
    assert series.values[[0, 40, 41, 99], [0, 1, 1, 1]].tolist() == [0.5, 22.0, 24.0, 20.0]
    untouched = np.array(rows(), np.float32)
    untouched[[0, 40, 41, 42], [0, 1, 1, 1]] = [0.5, 22.0, 24.0, 26.0]
    assert np.array_equal(series.values, untouched)
    assert "4 missing readings were filled" in series.findings.warnings[0].detail
    assert "load, OT" in series.findings.warnings[0].detail


def test_readings_without_gaps_have_no_findings():
    """No warning, and the graph's own interval."""
    series = read(rows())
    assert (series.findings.warnings, series.findings.widening) == ((), None)


@pytest.mark.parametrize("first", [0, 47, 94])
def test_six_in_a_row_are_filled_and_seven_are_refused(first):
    """Wherever they lie; the refusal names the first of them and its column."""
    gap = [(first + step, 1, None) for step in range(6)]
    assert codes(read(changed(*gap))) == ["filled_values"]
    begin = min(first, 93)
    code, places, detail = refused(changed(*((begin + step, 1, None) for step in range(7))))
    assert (code, places) == ("missing_values", [["body", "values", begin, 1]])
    assert f"Row {begin}, column OT (" in detail
    assert "7 readings in a row" in detail


def test_a_tenth_of_a_column_is_filled_and_more_is_refused():
    """Ten single gaps in a hundred steps, then eleven; another column has a tenth of its own."""
    tenth = [(step * 9, 1, None) for step in range(10)]
    assert codes(read(changed(*tenth))) == ["filled_values"]
    assert codes(read(changed(*tenth, *((step * 9, 0, None) for step in range(10))))) == ["filled_values"]
    code, places, detail = refused(changed(*tenth, (95, 1, None)))
    assert (code, places) == ("missing_values", [["body", "values", 0, 1]])
    assert "11 of the 100 readings" in detail


def test_gaps_before_what_the_model_reads_do_not_matter():
    """Only the last hundred steps count: gaps before them are neither filled nor warned of."""
    values = changed(*((step, column, None) for step in range(20) for column in (0, 1)), count=120)
    assert codes(read(values)) == []
    values[20][0] = None
    assert codes(read(values)) == ["filled_values"]


def test_the_interval_widens_most_where_the_last_readings_are_missing():
    """Next hour most, a day ahead little; a gap in the past widens it a little everywhere, more gaps more."""
    old = read(changed((50, 1, None))).findings.widening
    many = read(changed(*((step * 9, 1, None) for step in range(10)))).findings.widening
    last = read(changed((99, 1, None), (98, 1, None))).findings.widening
    assert old.shape == (24,)
    assert (old > 1.02).all()
    assert (old < many).all()
    assert last[0] == pytest.approx(2 * 1.04)
    assert (np.diff(last) < 0).all()
    assert (last > old).all()


# ---------------------------------------------------------------------- implausible


@pytest.mark.parametrize("value", [-9999, -999.0, 9999, 1e20, -1e20, -99, 65535, 196, -156])
def test_a_marker_or_a_value_far_outside_the_training_range_is_refused(value):
    """The place is that of the reading, and the sentence names row, column, value and what to do."""
    code, places, detail = refused(changed((97, 1, value)))
    assert (code, places) == ("implausible_values", [["body", "values", 97, 1]])
    assert "Row 97, column OT (2018-06-05T01:00:00)" in detail
    assert f"{value:g}" in detail
    assert "null" in detail
    assert "accept_implausible" in detail


@pytest.mark.parametrize("value", [96, 194, -56, -150])
def test_a_value_between_one_and_three_widths_outside_is_warned_of(value):
    """It is read as it is."""
    series = read(changed((97, 1, value)))
    assert codes(series) == ["implausible_values"]
    assert series.values[97, 1] == value
    assert "Row 97, column OT" in series.findings.warnings[0].detail


@pytest.mark.parametrize("value", [45, 46, 94, -5, -54])
def test_a_value_up_to_one_width_outside_is_taken(value):
    """Tomorrow may be warmer than any day of training."""
    assert codes(read(changed((97, 1, value)))) == []


def test_a_marker_inside_the_training_range_is_a_reading():
    """A column that held 9999 in training may hold it."""
    spec = SPEC.model_copy(update={"ranges": {"load": (0.0, 20000.0), "OT": (-1000.0, 45.0)}})
    assert codes(read(changed((3, 0, 9999), (4, 1, -999)), spec)) == []


def test_accepted_implausible_values_are_warned_of():
    """The refusal becomes the warning, and the values are read as they are."""
    series = read(changed((97, 1, -9999)), accept_implausible=True)
    assert codes(series) == ["implausible_values"]
    assert series.values[97, 1] == -9999


def test_many_implausible_values_are_counted_and_the_first_are_named():
    """A sensor that failed for a day is one refusal."""
    code, places, detail = refused(changed(*((step, column, -9999) for step in range(70, 94) for column in (0, 1))))
    assert code == "implausible_values"
    assert places == [["body", "values", 70 + at // 2, at % 2] for at in range(10)]
    assert "47 more" in detail


def test_implausible_values_before_what_the_model_reads_do_not_matter():
    """Nothing of them reaches the forecast."""
    assert codes(read(changed((0, 1, -9999), count=101))) == []


def test_a_filled_series_may_be_implausible_too():
    """Both warnings stand in the answer."""
    assert codes(read(changed((50, 1, None), (60, 1, 100)))) == ["filled_values", "implausible_values"]


def test_a_column_that_never_changed_in_training_has_a_width_all_the_same():
    """Another value a little away is no reason to refuse a series."""
    spec = SPEC.model_copy(update={"ranges": {"load": (2.0, 2.0), "OT": (-5.0, 45.0)}})
    assert codes(read([[2.5, 20.0]] * 100, spec)) == []
    assert codes(read([[5.0, 20.0]] * 100, spec)) == ["implausible_values"]


def test_an_older_version_tells_markers_by_the_other_readings():
    """Without ranges in the manifest -9999 among twenties is refused, and large plain values are not."""
    spec = SPEC.model_copy(update={"ranges": None})
    with pytest.raises(InvalidInput) as caught:
        read(changed((97, 1, -9999)), spec)
    assert caught.value.code == "implausible_values"
    assert "-9999" in caught.value.detail
    assert codes(read([[9999 if step % 2 else 9998.0, 500.0] for step in range(100)], spec)) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, "7", True])
def test_what_is_no_number_is_refused_beside_a_gap(bad):
    """A null does not let anything else pass."""
    code, places, _ = refused(changed((3, 0, None), (50, 1, bad)))
    assert (code, places) == ("invalid_series", [["body", "values", 50, 1]])


def test_every_shipped_forecast_knows_its_training_ranges(shipped_series):
    """The example series is inside them, and both cases of -9999 are not."""
    week = json.loads((EXAMPLES / "week.json").read_text("utf-8"))
    for manifest in shipped_series:
        spec = manifest.series
        assert spec.ranges is not None
        ranges = Ranges.of(spec)
        assert parse(week["values"], week["start"], spec, ranges=ranges).findings.warnings == ()
        week["values"][100][6], kept = -9999, week["values"][100][6]
        with pytest.raises(InvalidInput):
            parse(week["values"], week["start"], spec, ranges=ranges)
        week["values"][100][6] = kept


@pytest.fixture
def shipped_series():
    from tests.server import SHIPPED

    return [SHIPPED.manifest(name, SHIPPED.live(name)) for name in SHIPPED.names() if name.startswith("forecast-")]
