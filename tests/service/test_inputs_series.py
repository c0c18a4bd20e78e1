"""Series in JSON: rows for the graph, or a 422 that names the place."""

import csv
import math
from datetime import datetime

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.manifest import SeriesSpec
from service.errors import InvalidInput
from service.inputs.series import LARGEST, forecast_times, parse

SPEC = SeriesSpec(columns=["load", "OT"], target="OT", horizon=3, min_length=2, look_back=5)
START = "2018-06-01T00:00:00"  # a Friday


def rows(count):
    return [[float(step), step + 0.5] for step in range(count)]


def refused(values, start=START, spec=SPEC, **options):
    with pytest.raises(InvalidInput) as caught:
        parse(values, start, spec, **options)
    (error,) = caught.value.errors
    assert error["msg"]
    return caught.value.code, error["loc"], caught.value.detail


def test_readings_become_float32_rows():
    """Values, length and hour of week as the manifest describes them; whole numbers are numbers too."""
    series = parse([[1, 2], [3.5, -4]], START, SPEC)
    assert series.values.dtype == np.float32
    assert series.values.tolist() == [[1.0, 2.0], [3.5, -4.0]]
    assert (series.length, series.hour_of_week) == (2, 96)
    assert series.times == ["2018-06-01T02:00:00", "2018-06-01T03:00:00", "2018-06-01T04:00:00"]


def test_the_reader_of_training_and_the_parser_give_the_same_array(data_dir):
    """The same rows of ETTh1, once through the training reader and once as JSON, are equal bit for bit."""
    from training.datasets import ett

    readings = ett.read(data_dir)
    spec = SeriesSpec(columns=ett.COLUMNS, target="OT", horizon=24, min_length=24, look_back=336)
    with (data_dir / "ett" / "ETTh1.csv").open(newline="") as stream:
        lines = list(csv.reader(stream))[1:]
    for first in (0, 1234, 17420 - 336):
        picked = lines[first : first + 336]
        body = "[" + ",".join("[" + ",".join(line[1:]) + "]" for line in picked) + "]"
        series = parse(orjson.loads(body), picked[0][0], spec)
        assert np.array_equal(series.values, readings.values[first : first + 336])
        assert series.hour_of_week == readings.hour_of_week(first)


def test_a_long_series_is_cropped_to_what_the_model_looks_at():
    """The last steps stay, hour of week and start are those of the first of them, the forecast times do not move."""
    whole, tail = parse(rows(12), START, SPEC), parse(rows(12)[7:], "2018-06-01T07:00:00", SPEC)
    assert whole.values.tolist() == tail.values.tolist()
    assert (whole.length, whole.hour_of_week, whole.start) == (5, 96 + 7, tail.start)
    assert whole.times == tail.times


def test_the_hour_of_week_runs_into_the_next_week_when_cropped():
    """From Sunday 22:00 three hours are dropped: Monday 01:00."""
    assert parse(rows(8), "2018-06-03T22:00:00", SPEC).hour_of_week == 1


@pytest.mark.parametrize(
    ("values", "code", "place"),
    [
        (None, "invalid_series", ()),
        ({"0": [1.0, 2.0]}, "invalid_series", ()),
        ("1,2", "invalid_series", ()),
        ([], "series_too_short", ()),
        ([[1.0, 2.0]], "series_too_short", ()),
        (rows(31), "series_too_long", ()),
        ([[1.0, 2.0], [1.0]], "invalid_series", (1,)),
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], "invalid_series", (1,)),
        ([[1.0, 2.0], []], "invalid_series", (1,)),
        ([1.0, 2.0], "invalid_series", (0,)),
        ([[1.0, 2.0], None], "invalid_series", (1,)),
        ([[1.0, 2.0], "12"], "invalid_series", (1,)),
        ([[1.0, 2.0], {"load": 1.0, "OT": 2.0}], "invalid_series", (1,)),
        ([[1.0, 2.0], [1.0, None]], "missing_values", (1, 1)),
        ([[None, None], [1.0, math.nan]], "invalid_series", (1, 1)),
        ([[None, 2.0], [1.0, "NaN"]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [True, 2.0]], "invalid_series", (1, 0)),
        ([[1.0, 2.0], [1.0, "NaN"]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [1.0, "3.5"]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [1.0, [2.0]]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [math.nan, 2.0]], "invalid_series", (1, 0)),
        ([[1.0, 2.0], [1.0, math.inf]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [1.0, -math.inf]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [1.0, 1e39]], "invalid_series", (1, 1)),
        ([[1.0, 2.0], [10**400, 2.0]], "invalid_series", (1, 0)),
        ([[1.0, 2.0], [2**100 * 10**6, 2.0]], "invalid_series", (1, 0)),
    ],
)
def test_bad_values_are_refused_with_their_place(values, code, place):
    """Ragged, empty, of the wrong type, not finite or out of float32's reach: one 422 with the exact location."""
    assert refused(values, max_steps=30)[:2] == (code, ["body", "values", *place])


def test_a_refusal_stands_under_the_location_it_is_given():
    """In a batch the place begins with the item's index."""
    _, place, _ = refused([[1.0, 2.0], [1.0]], loc=("body", "inputs", 3))
    assert place == ["body", "inputs", 3, "values", 1]
    _, place, _ = refused(rows(3), "soon", loc=("body", "inputs", 3))
    assert place == ["body", "inputs", 3, "start"]


def test_refusals_tell_the_columns_and_limits():
    """A reader of the message knows what to send instead."""
    assert "2 numbers (load, OT)" in refused([[1.0, 2.0], [1.0]])[2]
    assert "1 step;" in refused([[1.0, 2.0]])[2]
    assert "needs 2" in refused([[1.0, 2.0]])[2]
    assert "the limit is 4,096" in refused(rows(4097))[2]
    assert "Step 1, OT" in refused([[1.0, 2.0], [1.0, "2"]])[2]
    assert "column OT (2018-06-01T01:00:00): 1 of the 2 readings" in refused([[1.0, 2.0], [1.0, None]])[2]


def test_a_fault_in_steps_that_would_be_cropped_is_still_a_fault():
    """Nothing a client sends is passed over in silence."""
    values = rows(12)
    values[0][1] = "1"
    assert refused(values)[1] == ["body", "values", 0, 1]


def test_the_largest_series_and_reading_are_taken():
    """The limits themselves are inside."""
    series = parse([[LARGEST, -LARGEST]] * 4096, START, SPEC)
    assert np.isfinite(series.values).all()
    assert series.length == 5


@pytest.mark.parametrize(
    "start",
    [None, 0, 1527811200, True, ["2018-06-01"], "", "tomorrow", "2018-13-01T00:00:00", "2018-06-01T25:00:00", "Z"],
)
def test_a_missing_or_unreadable_start_is_refused(start):
    """A guessed start would be a silent lie: the forecast depends on hour and weekday."""
    assert refused(rows(3), start)[:2] == ("invalid_start", ["body", "start"])


def test_an_endless_start_is_not_echoed_whole():
    """The message stays short."""
    assert len(refused(rows(3), "x" * 100_000)[2]) < 200


@pytest.mark.parametrize(
    ("start", "hour_of_week", "first"),
    [
        ("2018-06-04T00:00:00", 0, "2018-06-04T03:00:00"),
        ("2018-06-04 05:00:00", 5, "2018-06-04T08:00:00"),
        ("2018-06-04", 0, "2018-06-04T03:00:00"),
        ("2018-06-04T05:59:30", 5, "2018-06-04T08:59:30"),
        ("2018-06-04T05:00:00Z", 5, "2018-06-04T08:00:00Z"),
        ("2018-06-04T05:00:00z", 5, "2018-06-04T08:00:00Z"),
        ("2018-06-04T05:00:00+00:00", 5, "2018-06-04T08:00:00+00:00"),
        ("2018-06-04T05:00:00+02:00", 5, "2018-06-04T08:00:00+02:00"),
        ("2018-06-04T03:00:00+00:00", 3, "2018-06-04T06:00:00+00:00"),
        ("2018-06-10T23:00:00-05:00", 167, "2018-06-11T02:00:00-05:00"),
    ],
)
def test_times_keep_the_clock_and_the_offset_of_the_client(start, hour_of_week, first):
    """Hour of week by the digits as they stand; forecast times in the notation of the start."""
    series = parse(rows(3), start, SPEC)
    assert (series.hour_of_week, series.times[0]) == (hour_of_week, first)


@pytest.mark.parametrize("start", ["9999-12-31T20:00:00", "9999-12-31T20:00:00+14:00", "9999-12-31T23:00:00Z"])
def test_a_forecast_beyond_the_calendar_is_refused(start):
    """The year 10000 has no RFC 3339 time."""
    assert refused(rows(3), start)[:2] == ("invalid_start", ["body", "start"])


def test_steps_of_other_widths_are_counted():
    """Half-hourly readings give half-hourly times."""
    spec = SPEC.model_copy(update={"step_s": 1800})
    begin = datetime(2018, 6, 1)  # noqa: DTZ001 (a client may leave the offset out)
    assert forecast_times(begin, 2, spec) == ["2018-06-01T01:00:00", "2018-06-01T01:30:00", "2018-06-01T02:00:00"]
    assert parse(rows(7), START, spec).hour_of_week == 97


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(values=_JSON, start=_JSON | st.datetimes().map(str))
def test_whatever_is_sent_is_either_taken_or_refused(values, start):
    """No JSON value leads to another exception, and what is taken is finite and of the promised shape."""
    try:
        series = parse(values, start, SPEC)
    except InvalidInput:
        return
    assert series.values.shape == (series.length, 2)
    assert np.isfinite(series.values).all()
    assert 0 <= series.hour_of_week < 168
    assert len(series.times) == 3
