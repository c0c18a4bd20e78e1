"""A series in JSON to the rows the graph takes: readings float32, oldest first, and the hour of week of the first.

Steps are equally spaced, `spec.step_s` seconds apart, from `start` on. The hour of week is read off the clock digits of
`start` as they stand, whatever the offset: the model has learnt days and weekends by the local clock of the readings.
A start between two full hours counts as its hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import SeriesSpec
from service.errors import InvalidInput, Location
from service.inputs import readings
from service.inputs.readings import Ranges
from service.warnings import NOTHING, Findings

MAX_STEPS = 4096
LARGEST = 1e30
"""Larger readings, of either sign, are refused: sums of them would leave the range of float32 inside the graph."""

_EXAMPLE = "2018-06-01T00:00:00"
_NUMBERS_OR_NONE = {int, float, type(None)}


@dataclass(frozen=True, eq=False)
class Series:
    """The last steps of what a client sent, as many as the model looks back on.

    `values` float32 [length, columns]; `hour_of_week` (0 = Monday 00:00) and `start` are those of its first step,
    `times` those of the forecast, in the client's own notation of offsets. `findings` are its warnings, and how much
    wider the interval is where readings were filled.
    """

    values: NDArray[np.float32]
    length: int
    hour_of_week: int
    start: datetime
    times: list[str]
    findings: Findings = NOTHING


def parse(
    values: object,
    start: object,
    spec: SeriesSpec,
    *,
    max_steps: int = MAX_STEPS,
    loc: Location = ("body",),
    ranges: Ranges | None = None,
    accept_implausible: bool = False,
) -> Series:
    """The series of a body whose fields `values` and `start` lie at `loc`; every step is checked, then the last kept.

    `values` are lists, as JSON gives them, or an array float64 [steps, columns]; None is a missing reading. Of the
    steps that are kept, missing readings are filled, and all are compared with `ranges`.

    Raises InvalidInput, with the exact place in `errors`: `series_too_short`, `series_too_long`, `invalid_series` for
    rows that are not `spec.columns` finite numbers, `invalid_start`, `missing_values`, `implausible_values`.
    """
    place = (*loc, "values")
    rows, missing = _readings(values, spec, max_steps, place)
    begin, zulu = _moment(start, (*loc, "start"))
    length = min(len(rows), spec.look_back)
    try:
        times = forecast_times(begin, len(rows), spec, zulu=zulu)
        kept = begin + timedelta(seconds=(len(rows) - length) * spec.step_s)
    except OverflowError:
        raise _invalid(
            (*loc, "start"), "invalid_start", "The forecast would lie beyond the year 9999; give an earlier start."
        ) from None
    first = len(rows) - length
    read, steps = rows[first:], readings.Steps(spec, first, kept, place)
    findings = NOTHING
    if missing is not None and (lacking := missing[first:]).any():
        readings.fill(lacking, read, steps)
        findings = Findings((readings.filled(lacking, spec),), widening=readings.widening(lacking, spec))
    warning = readings.check(read, steps, ranges, accept=accept_implausible)
    if warning is not None:
        findings = findings._replace(warnings=(*findings.warnings, warning))
    return Series(
        values=read.astype(np.float32),
        length=length,
        hour_of_week=kept.weekday() * 24 + kept.hour,
        start=kept,
        times=times,
        findings=findings,
    )


def forecast_times(start: datetime, length: int, spec: SeriesSpec, *, zulu: bool = False) -> list[str]:
    """The times of the `horizon` steps after a series of `length` that begins at `start`, as RFC 3339 writes them.

    A start without an offset gives times without one; `zulu` writes UTC as `Z`. OverflowError after the year 9999.
    """
    first = start + timedelta(seconds=length * spec.step_s)
    return list(_times(first, first.utcoffset(), spec.horizon, spec.step_s, zulu=zulu))


@lru_cache(maxsize=1024)
def _times(first: datetime, offset: timedelta | None, horizon: int, step_s: int, *, zulu: bool) -> tuple[str, ...]:  # noqa: ARG001
    """So many times from `first` on; kept, as most clients of an hour ask for the same.

    `offset` is that of `first`: without it the same moment on another clock would be taken for it.
    """
    times = [first + timedelta(seconds=ahead * step_s) for ahead in range(horizon)]
    texts = (time.isoformat() for time in times)
    return tuple(text.removesuffix("+00:00") + "Z" if zulu else text for text in texts)


def _readings(
    values: object, spec: SeriesSpec, max_steps: int, loc: Location
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """The readings [steps, columns], and which of them are missing (and 0 for now); None where none is."""
    if not isinstance(values, list | np.ndarray):
        raise _invalid(loc, "invalid_series", f"A list of rows is expected, one row of {_row(spec)} for each step.")
    steps = len(values)
    if steps < spec.min_length:
        detail = f"The series has {_count(steps, 'step')}; the model needs {spec.min_length} or more."
        raise _invalid(loc, "series_too_short", detail)
    if steps > max_steps:
        detail = f"The series has {steps:,} steps; the limit is {max_steps:,}. Only the last {spec.look_back} matter."
        raise _invalid(loc, "series_too_long", detail)
    width = len(spec.columns)
    numbers, missing = _array(values, width) if isinstance(values, list) else (values, None)
    if numbers is None or numbers.shape != (steps, width) or not (np.abs(numbers) <= LARGEST).all():
        raise _fault(values if isinstance(values, list) else values.tolist(), spec, loc)
    return numbers, missing


def _array(rows: list[Any], width: int) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None]:
    """Rows of numbers as an array, and where None stands in their place; a few passes at the speed of C tell.

    None in place of the array where something is wrong with them.
    """
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {width}:
        return None, None
    kinds = set(map(type, chain.from_iterable(rows)))
    if not kinds <= _NUMBERS_OR_NONE:
        return None, None
    count = len(rows) * width
    missing = None
    flat: Iterator[Any] = chain.from_iterable(rows)
    if type(None) in kinds:
        missing = np.fromiter((each is None for each in chain.from_iterable(rows)), bool, count).reshape(-1, width)
        flat = (0.0 if each is None else each for each in chain.from_iterable(rows))
    try:
        return np.fromiter(flat, np.float64, count).reshape(-1, width), missing
    except OverflowError:  # a whole number beyond float64
        return None, None


def _fault(rows: list[object], spec: SeriesSpec, loc: Location) -> InvalidInput:
    """The error for the first row or number that is not as it should be."""
    for step, row in enumerate(rows):
        place = (*loc, step)
        if not isinstance(row, list):
            return _invalid(place, "invalid_series", f"Step {step} is not a row; {_row(spec)} are expected.")
        if len(row) != len(spec.columns):
            detail = f"Step {step} has {_count(len(row), 'number')}; {_row(spec)} are expected."
            return _invalid(place, "invalid_series", detail)
        for column, number in enumerate(row):
            wrong = _wrong(number)
            if wrong:
                detail = f"Step {step}, {spec.columns[column]}: {wrong}."
                return _invalid((*place, column), "invalid_series", detail)
    raise AssertionError("a series was refused that has no fault")


def _wrong(number: object) -> str | None:
    """What is wrong with a reading, None for a good or a missing one."""
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float):
        names = {str: "a string", bool: "true or false", list: "a list", dict: "an object"}
        return f"{names.get(type(number), type(number).__name__)} is not a number"
    if isinstance(number, float) and math.isnan(number):
        return "NaN is not a reading; send null for a missing one"
    return None if abs(number) <= LARGEST else f"the number is too large, at most {LARGEST:g} is taken"


def _moment(start: object, loc: Location) -> tuple[datetime, bool]:
    """The time of the first step, and whether it was written with a `Z`."""
    if start is None:
        detail = f"Give `start`, the time of the first row (such as {_EXAMPLE}): the forecast depends on the hour."
        raise _invalid(loc, "invalid_start", detail)
    if not isinstance(start, str):
        raise _invalid(loc, "invalid_start", f"`start` must be a string such as {_EXAMPLE!r}.")
    zulu = start[-1:] in {"Z", "z"}
    try:
        return datetime.fromisoformat(start[:-1] + "+00:00" if zulu else start), zulu
    except ValueError:
        shown = start if len(start) <= 40 else start[:40] + "…"
        detail = f"`start` must be an RFC 3339 time such as {_EXAMPLE!r}; {shown!r} is none."
        raise _invalid(loc, "invalid_start", detail) from None


def _row(spec: SeriesSpec) -> str:
    return f"{_count(len(spec.columns), 'number')} ({', '.join(spec.columns)})"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _invalid(loc: Location, code: str, detail: str) -> InvalidInput:
    return InvalidInput(detail, code=code, errors=[(loc, detail)])
