"""CSV files of hourly readings: times on one clock, or instants over a change of it; the page reads them alike."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from neuroserve.cli import main
from neuroserve.client import Client
from neuroserve.errors import UsageError
from neuroserve.readings import COLUMNS, read_readings
from tests.service.sample_series import PATH as SAMPLE

HEAD = f"date,{','.join(COLUMNS)}"
CET, CEST = timezone(timedelta(hours=1)), timezone(timedelta(hours=2))
CEST_DAY = datetime(2018, 3, 25, 0, tzinfo=CET)
NEPAL = timezone(timedelta(hours=5, minutes=45))


def local(start, hours, clock):
    """So many hours from `start` on as a local clock shows them: `clock` gives the offset of an instant."""
    instants = [start + timedelta(hours=hour) for hour in range(hours)]
    return [instant.astimezone(clock(instant)).isoformat(" ") for instant in instants]


def spring(instant):
    return CEST if instant >= datetime(2018, 3, 25, 1, tzinfo=UTC) else CET


def autumn(instant):
    return CET if instant >= datetime(2018, 10, 28, 1, tzinfo=UTC) else CEST


GOOD = {
    "summer time begins": (local(CEST_DAY, 6, spring), "2018-03-25T00:00:00+01:00"),
    "summer time ends": (local(datetime(2018, 10, 28, 0, tzinfo=CEST), 6, autumn), "2018-10-28T00:00:00+02:00"),
    "UTC": (["2018-03-25T00:00:00Z", "2018-03-25 01:00:00z", "2018-03-25T02:00Z"], "2018-03-25T00:00:00+00:00"),
    "mixed offsets": (
        ["2018-03-25 00:00:00Z", "2018-03-25 02:00:00+0100", "2018-03-25 04:00+02"],
        "2018-03-25T00:00:00+00:00",
    ),
    "no offset": ([f"2018-03-25 0{hour}:00:00" for hour in range(6)], "2018-03-25T00:00:00"),
    "quarters of an hour": (
        local(datetime(2018, 3, 25, 0, 15, tzinfo=NEPAL), 3, lambda _: NEPAL),
        "2018-03-25T00:15:00+05:45",
    ),
    "west of Greenwich": (["2018-03-25 00:30:00-03:30", "2018-03-25 01:30:00 -03:30"], "2018-03-25T00:30:00-03:30"),
    "over midnight": (["2018-12-31 23:00:00+00:00", "2019-01-01 00:00:00+00:00"], "2018-12-31T23:00:00+00:00"),
    "days and parts of a second": (
        ["2018-12-31 23:00:00.000", "2019-01-01", "2019-01-01 01:00:00.000000000"],
        "2018-12-31T23:00:00",
    ),
}
WRONG = {
    "a gap on one clock": (["2018-03-25 01:00:00", "2018-03-25 03:00:00"], 3, "one hour after"),
    "an hour told twice": (["2018-10-28 02:00:00", "2018-10-28 02:00:00"], 3, "one hour after"),
    "two hours as instants": (["2018-03-25 01:00:00+02:00", "2018-03-25 02:00:00+01:00"], 3, "one hour after"),
    "an offset in one row only": (["2018-03-25 01:00:00", "2018-03-25 02:00:00+01:00"], 3, "with an offset where"),
    "an offset that is missing": (["2018-03-25 01:00:00+01:00", "2018-03-25 02:00:00"], 3, "with an offset where"),
    "no day of the calendar": (["2018-02-30 01:00:00"], 2, "has no"),
    "no hour of the day": (["2018-02-28 24:00:00"], 2, "has no"),
    "no minute": (["2018-02-28 23:60:00"], 2, "has no"),
    "no offset of the earth": (["2018-02-28 23:00:00+24:00"], 2, "has no"),
    "no minute of an offset": (["2018-02-28 23:00:00+01:60"], 2, "has no"),
    "words": (["yesterday"], 2, "has no"),
    "another order": (["25.03.2018 01:00"], 2, "has no"),
    "nothing": ([""], 2, "has no"),
}


def table(times):
    """A file with these times; HUFL counts its rows."""
    return "\n".join([HEAD, *(f"{time},{row},0,0,0,0,0,0" for row, time in enumerate(times))]) + "\n"


@pytest.mark.parametrize("case", GOOD)
def test_hours_are_read_as_instants_where_they_have_an_offset(tmp_path, case):
    """The start keeps its own offset; what has none stays without one."""
    times, start = GOOD[case]
    file = tmp_path / "a.csv"
    file.write_text(table(times))
    found, values = read_readings(file)
    assert found.isoformat() == start
    assert [row[0] for row in values] == list(range(len(times)))


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_row_an_hour_is_told_by_its_line(tmp_path, case):
    """And why."""
    times, line, says = WRONG[case]
    file = tmp_path / "a.csv"
    file.write_text(table(times))
    with pytest.raises(UsageError, match=f"line {line} .*{says}"):
        read_readings(file)


def test_a_file_over_a_clock_change_is_forecast_by_the_command(tmp_path, service, capsys):
    """A week of readings with offsets, the clock put forward in it: the forecast follows the last row's instant."""
    times = local(datetime(2018, 3, 20, tzinfo=CET), 168, spring)
    sample = [line.partition(",")[2] for line in SAMPLE.read_text().splitlines()[1:169]]
    file = tmp_path / "offsets.csv"
    file.write_text("\n".join([HEAD, *(f"{time},{row}" for time, row in zip(times, sample, strict=True))]))
    assert main(["predict", "forecast", str(file), "--url", service.url]) == 0
    first = capsys.readouterr().out.splitlines()[1].partition(",")[0]
    assert datetime.fromisoformat(first) == datetime.fromisoformat(times[-1]) + timedelta(hours=1)
    start, values = read_readings(file)
    with Client(service.url) as client:
        assert client.forecast(values, start).times[0] == datetime.fromisoformat(first)
