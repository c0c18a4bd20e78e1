"""What one process counts for a canary, in a small mapped file that outlives it; the totals are the sum of all files.

A file holds float64 numbers: `COUNTS` for the comparison, then for each side its `SIDE_COUNTS` and a histogram of
latencies. One process writes each file, any may read it; an order of its own has files of its own, so counts start
from zero.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Side = Literal["live", "candidate"]
SIDES: tuple[Side, ...] = ("live", "candidate")
COUNTS = ("fallbacks", "dropped_rows", "compared_rows", "agreed", "shift", "difference")
SIDE_COUNTS = ("requests", "failed_requests", "rows", "failed_rows", "latency_ms", "queue_ms", "run_ms", "certainty")

_FIRST_MS, _GROWTH, _BUCKETS = 0.05, 1.15, 110
"""Buckets of a latency, each wider than the one before: up to 200 s, quantiles right within 8 %."""
_BOUNDS = [_FIRST_MS * _GROWTH**power for power in range(_BUCKETS - 1)]
_SIDE_LENGTH = len(SIDE_COUNTS) + _BUCKETS
_LENGTH = len(COUNTS) + len(SIDES) * _SIDE_LENGTH
_BYTES = 8 * _LENGTH
_PLACE: dict[str | tuple[Side, str], int] = {name: index for index, name in enumerate(COUNTS)} | {
    (side, name): len(COUNTS) + at * _SIDE_LENGTH + index
    for at, side in enumerate(SIDES)
    for index, name in enumerate(SIDE_COUNTS)
}


class CanaryTally:
    """The counts of this process at `path`; OSError when the file cannot be made."""

    def __init__(self, path: Path) -> None:
        with path.open("x+b") as stream:
            stream.truncate(_BYTES)
            self._mapped = mmap.mmap(stream.fileno(), _BYTES)
        self._numbers = memoryview(self._mapped).cast("d")

    def count(self, what: str, number: float = 1.0) -> None:
        """Add to one of `COUNTS`."""
        self._numbers[_PLACE[what]] += number

    def answered(
        self, side: Side, rows: int, *, queue_ms: float, run_ms: float, batch_rows: int, certainty: float
    ) -> None:
        """A request that was answered; `certainty` is summed over its rows, `run_ms` is that of a whole batch."""
        numbers, at = self._numbers, _PLACE[side, "requests"]
        latency = queue_ms + run_ms
        numbers[at] += 1
        numbers[at + 2] += rows
        numbers[at + 4] += latency
        numbers[at + 5] += queue_ms
        numbers[at + 6] += run_ms / batch_rows
        numbers[at + 7] += certainty
        numbers[at + len(SIDE_COUNTS) + bisect_left(_BOUNDS, latency)] += 1

    def failed(self, side: Side, rows: int) -> None:
        """A request that this side could not answer; its rows are among the rows of the side too."""
        numbers, at = self._numbers, _PLACE[side, "requests"]
        for offset, number in enumerate((1, 1, rows, rows)):
            numbers[at + offset] += number

    def flush(self) -> None:
        """Let other machines that share the folder see it; blocks on the disk."""
        self._mapped.flush()


class CanaryTotals:
    """The sum of the files of one order."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._numbers = [0.0] * _LENGTH
        for path in paths:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            if len(content) == _BYTES:  # one that is just being made is empty
                self._numbers = [a + b for a, b in zip(self._numbers, memoryview(content).cast("d"), strict=True)]

    def __getitem__(self, what: str) -> float:
        return self._numbers[_PLACE[what]]

    def side(self, side: Side, what: str) -> float:
        return self._numbers[_PLACE[side, what]]

    def mean(self, side: Side, what: str) -> float | None:
        """A time or a certainty for each answered request or row; None where there is none."""
        per = "rows" if what == "certainty" else "requests"
        answered = self.side(side, per) - self.side(side, f"failed_{per}")
        return self.side(side, what) / answered if answered else None

    def quantile_ms(self, side: Side, share: float) -> float | None:
        """The latency that `share` of the answered requests keep; None where there are none."""
        at = _PLACE[side, "requests"] + len(SIDE_COUNTS)
        counts = self._numbers[at : at + _BUCKETS]
        wanted, seen = share * sum(counts), 0.0
        for index, count in enumerate(counts):
            if count and seen + count >= wanted:
                low = _BOUNDS[index - 1] if index else 0.0
                high = _BOUNDS[index] if index < len(_BOUNDS) else low * _GROWTH
                return low + (high - low) * (wanted - seen) / count
            seen += count
        return None
