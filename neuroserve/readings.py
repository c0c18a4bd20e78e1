"""A CSV file of hourly readings, by the rules of the service's own page: a heading, then a row an hour.

An empty cell, and one that says NaN, NA or null, is a missing reading.
"""

from __future__ import annotations

import csv
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from neuroserve.errors import UsageError

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
_TIMES = frozenset({"date", "time", "timestamp", "datetime"})
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?)(?:[.,]\d+)?)?(?: ?(?:(Z)|([+-])(\d\d)(?::?([0-5]\d))?))?",
    re.IGNORECASE | re.ASCII,
)
"""A date, a time of day, and an offset; both readers take no other form. Parts of a second are left out."""


def read_readings(path: Path) -> tuple[datetime, list[list[float | None]]]:
    """The time of the first row, and the values [steps, 7], None where one is missing.

    UsageError names the line, OSError an unreadable file.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file in UTF-8.") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) < 2:
        raise UsageError(f"{path} has no rows below a heading.")
    mark = ";" if ";" in lines[0][1] else ","
    cells = [[cell.strip() for cell in row] for row in csv.reader((line for _, line in lines), delimiter=mark)]
    if len(cells) != len(lines):
        raise UsageError(f"{path} has a quoted cell of more than one line.")
    time, places = _places(path, cells[0])
    times, values = [], []
    for (number, _), row in zip(lines[1:], cells[1:], strict=True):
        where = f"{path}, line {number}"
        times.append(_time(row, time, where))
        if (times[-1].tzinfo is None) != (times[0].tzinfo is None):
            raise UsageError(
                f"{where} has a time with an offset where the first has none, or without where it has one."
            )
        if len(times) > 1 and times[-1] - times[-2] != timedelta(hours=1):
            raise UsageError(f"{where} is not one hour after the row before.")
        values.append([_value(row, place, name, where) for name, place in zip(COLUMNS, places, strict=True)])
    return times[0], values


def _places(path: Path, heads: list[str]) -> tuple[int, list[int]]:
    time = next((place for place, head in enumerate(heads) if head.lower() in _TIMES), None)
    missing = [name for name in COLUMNS if name not in heads]
    if time is None:
        raise UsageError(f"The heading of {path} lacks a column for the time, named date.")
    if missing:
        raise UsageError(f"The heading of {path} lacks {', '.join(missing)}.")
    return time, [heads.index(name) for name in COLUMNS]


def _time(row: list[str], place: int, where: str) -> datetime:
    """The time in a row; UTC is written in more than one way."""
    try:
        found = _TIME.fullmatch(row[place])
        if found is not None:
            day, clock, zulu, sign, hours, minutes = found.groups()
            time = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
            if zulu:
                return time.replace(tzinfo=UTC)
            if sign:
                offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
                return time.replace(tzinfo=timezone(-offset if sign == "-" else offset))
            return time
    except (IndexError, ValueError):
        pass
    raise UsageError(f"{where} has no time.")


def _value(row: list[str], place: int, name: str, where: str) -> float | None:
    cell = row[place] if place < len(row) else "missing"
    if cell.lower() in _MISSING:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where} has no number in {name}.")
    return value
