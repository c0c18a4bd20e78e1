"""Missing and implausible readings of a series: filled, refused or warned of.

Only the steps that the model reads are looked at. A missing reading (`null`) inside a column takes the value on the
straight line between its neighbours, at an end that of the nearest one. An outlying reading is told by the column's
range in training: more than one width of it outside is implausible, more than three is refused, and so is a known
marker for a missing value that lies outside the range.

The interval of a forecast that rests on filled readings grows: at step h by sqrt(1 + 1.5 k / h), where the last k
readings of the target were filled, and by 2 % and the largest share of filled readings in a column everywhere. Fitted
on the validation months of ETTh1; docs/warnings.md has what the interval then holds on the test months.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.manifest import SeriesSpec
from service.errors import InvalidInput, Location
from service.warnings import AnswerWarning

MOST_IN_A_ROW, MOST_SHARE = 6, 0.1
_FAR, _NEAR = 3.0, 1.0
"""Widths of the training range outside of it."""
_MARKERS = np.array([-999, -9999, -99999, 9999, 99999, -999.9, -9999.9, -999.99, 1e20, -1e20, -32768, 65535])
_DOUBTFUL_MARKERS = np.array([-99, -99.9, -99.99, 999])
"""These are readings often enough: they count as markers only more than one width outside the range."""
_MOST_NAMED = 10
_PER_STEP, _AT_LEAST = 1.5, 0.02


class Ranges:
    """The lower and the upper end float64 [columns] of what each column holds, by `source`."""

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], source: str = "the training data") -> None:
        self.low, self.high, self.source = low, high, source
        width = high - low
        self.width = np.where(width > 0, width, np.maximum(np.abs(high), 1.0))

    @classmethod
    def of(cls, spec: SeriesSpec) -> Ranges | None:
        """Those of a version's training data; None where an older manifest does not say."""
        if spec.ranges is None:
            return None
        low, high = np.array([spec.ranges[name] for name in spec.columns], np.float64).T
        return cls(low, high)

    def outside(self, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """How many widths [..., columns] each reading lies outside its range, 0 inside; None where all are inside."""
        if not ((values < self.low) | (values > self.high)).any():
            return None
        excess = np.maximum(np.maximum(self.low - values, values - self.high), 0)
        found: NDArray[np.float64] = excess / self.width
        return found


class Judged(NamedTuple):
    """Which readings [steps, columns] are to be refused, and which are warned of."""

    refused: NDArray[np.bool_]
    doubted: NDArray[np.bool_]


def judge(values: NDArray[np.float64], ranges: Ranges | None) -> Judged | None:
    """What is implausible in readings [steps, columns]; None where nothing is.

    Without the ranges of the training only markers are told, by the range of the other readings.
    """
    if ranges is None:
        return _judge_markers(values)
    outside = ranges.outside(values)
    if outside is None:
        return None
    refused = (outside > _FAR) | ((outside > 0) & np.isin(values, _MARKERS))
    doubted = outside > _NEAR
    refused |= doubted & np.isin(values, _DOUBTFUL_MARKERS)
    return Judged(refused, doubted | refused) if (doubted | refused).any() else None


def _judge_markers(values: NDArray[np.float64]) -> Judged | None:
    marked = np.isin(values, _MARKERS)
    if not marked.any():
        return None
    others = _others(values)
    outside = others.outside(values)
    if outside is None:
        return None
    refused = marked & (outside > _NEAR)
    return Judged(refused, refused) if refused.any() else None


def _others(values: NDArray[np.float64]) -> Ranges:
    """The range of the readings of each column that are no markers; 0 where all are."""
    kept = np.where(np.isin(values, _MARKERS), np.nan, values)
    low, high = np.nanmin(kept, 0, initial=np.inf), np.nanmax(kept, 0, initial=-np.inf)
    empty = low > high
    return Ranges(np.where(empty, 0.0, low), np.where(empty, 0.0, high), "the other readings")


class Steps(NamedTuple):
    """The steps that the model reads, in their request: the number and the time of the first, and where they lie."""

    spec: SeriesSpec
    first: int
    start: datetime
    loc: Location

    def name(self, row: int, column: int) -> str:
        """One reading for people."""
        time = self.start + timedelta(seconds=row * self.spec.step_s)
        return f"Row {self.first + row}, column {self.spec.columns[column]} ({time.isoformat()})"

    def location(self, row: int, column: int) -> Location:
        """One reading for programs."""
        return (*self.loc, self.first + row, column)


def check(values: NDArray[np.float64], steps: Steps, ranges: Ranges | None, *, accept: bool) -> AnswerWarning | None:
    """The warning `implausible_values` where readings [steps, columns] deserve it.

    Raises InvalidInput `implausible_values` for those that are refused, unless they are to be accepted.
    """
    judged = judge(values, ranges)
    if judged is None:
        return None
    ranges = ranges or _others(values)
    if judged.refused.any() and not accept:
        raise _refusal(values, judged.refused, steps, ranges)
    places = np.argwhere(judged.doubted)
    row, column = places[0].tolist()
    told = _told(values, steps, ranges, row, column)
    others = f" ({len(places)} readings in all)" if len(places) > 1 else ""
    return AnswerWarning("implausible_values", f"{told}{others}. The forecast rests on it; check the reading.")


def fill(missing: NDArray[np.bool_], values: NDArray[np.float64], steps: Steps) -> None:
    """Replace the missing readings [steps, columns], in place. InvalidInput where too many are missing."""
    for column in np.flatnonzero(missing.any(0)).tolist():
        gone = missing[:, column]
        places = np.flatnonzero(gone)
        _check_gaps(places, len(gone), column, steps)
        there = np.flatnonzero(~gone)
        values[places, column] = np.interp(places, there, values[there, column])


def filled(missing: NDArray[np.bool_], spec: SeriesSpec) -> AnswerWarning:
    """The warning for the readings [steps, columns] that were filled."""
    count = int(missing.sum())
    names = ", ".join(spec.columns[column] for column in np.flatnonzero(missing.any(0)).tolist())
    return AnswerWarning(
        "filled_values",
        f"{count} missing {'reading was' if count == 1 else 'readings were'} filled from the neighbouring ones "
        f"({names}), and the interval is wider for it.",
    )


def widening(missing: NDArray[np.bool_], spec: SeriesSpec) -> NDArray[np.float32]:
    """By what factor [horizon] the interval grows at each step ahead."""
    target = missing[::-1, spec.columns.index(spec.target)]
    last = int(target.argmin())
    ahead = np.arange(1, spec.horizon + 1)
    factor: NDArray[np.float64] = np.sqrt(1 + _PER_STEP * last / ahead) * (1 + _AT_LEAST + missing.mean(0).max())
    return factor.astype(np.float32)


def _check_gaps(places: NDArray[np.int64], count: int, column: int, steps: Steps) -> None:
    """InvalidInput where a column of `count` steps misses more of them, at `places`, than may be filled."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    longest = max(runs, key=len)
    if len(longest) > MOST_IN_A_ROW:
        first = int(longest[0])
        problem = f"{len(longest)} readings in a row are missing; at most {MOST_IN_A_ROW} are filled"
    elif len(places) > MOST_SHARE * count:
        first = int(places[0])
        problem = (
            f"{len(places)} of the {count} readings that the model reads are missing in this column; at most "
            f"{MOST_SHARE:.0%} are filled"
        )
    else:
        return
    detail = f"{steps.name(first, column)}: {problem}. Send a series with fewer gaps."
    raise InvalidInput(detail, code="missing_values", errors=[(steps.location(first, column), detail)])


def _refusal(values: NDArray[np.float64], refused: NDArray[np.bool_], steps: Steps, ranges: Ranges) -> InvalidInput:
    """The error for readings that are refused: each of the first few at its place."""
    places = np.argwhere(refused).tolist()
    errors = [
        (steps.location(row, column), f"{_told(values, steps, ranges, row, column)}.")
        for row, column in places[:_MOST_NAMED]
    ]
    others = len(places) - 1
    more = f" {others} more {'reading is' if others == 1 else 'readings are'} like it." if others else ""
    return InvalidInput(
        f"{errors[0][1]}{more} Send null for a missing reading, or set `accept_implausible` to true to have the "
        "values taken as they are.",
        code="implausible_values",
        errors=errors,
    )


def _told(values: NDArray[np.float64], steps: Steps, ranges: Ranges, row: int, column: int) -> str:
    value = float(values[row, column])
    marker = "is a common marker for a missing reading, and " if np.isin(value, _MARKERS) else ""
    return (
        f"{steps.name(row, column)}: {value:g} {marker}lies far outside the range of {ranges.source}, "
        f"{ranges.low[column]:g} to {ranges.high[column]:g}"
    )
