"""What is counted of a canary: totals of all processes, and how two answers are compared."""

from types import SimpleNamespace

import numpy as np
import pytest

from service.agreement import Reading
from service.canary_schemas import CanaryFigures
from service.canary_tally import CanaryTally, CanaryTotals


def test_the_totals_are_those_of_all_processes(tmp_path):
    """Sums, means, rates and quantiles over every file, also one whose process has died, and none for no rows."""
    empty = CanaryFigures.of(CanaryTotals([]), "image")
    assert (empty.live.error_rate, empty.live.latency_ms_p99, empty.agreement) == (None, None, None)
    paths = [tmp_path / "tally-1-a", tmp_path / "tally-1-b"]
    tallies = [CanaryTally(path) for path in paths]
    for index in range(1000):
        tallies[index % 2].answered("candidate", 2, queue_ms=1.0, run_ms=float(index + 1), batch_rows=4, certainty=1.5)
    tallies[0].failed("candidate", 3)
    tallies[1].count("compared_rows", 10)
    tallies[0].count("agreed", 9)
    del tallies
    (tmp_path / "tally-1-c").touch()
    side = CanaryFigures.of(CanaryTotals([*paths, tmp_path / "tally-1-c", tmp_path / "gone"]), "image")
    told = side.candidate
    assert (told.requests, told.failed_requests, told.rows, told.failed_rows) == (1001, 1, 2003, 3)
    assert told.error_rate == pytest.approx(3 / 2003)
    assert told.latency_ms_mean == pytest.approx(501.5)
    assert told.latency_ms_p50 == pytest.approx(501, rel=0.08)
    assert told.latency_ms_p99 == pytest.approx(991, rel=0.08)
    assert (told.queue_ms_mean, told.run_ms_per_row) == (1.0, pytest.approx(125.125))
    assert told.mean_confidence == pytest.approx(0.75)
    assert side.agreement == pytest.approx(0.9)


def test_forecasts_are_compared_by_their_interval():
    """The share of points within the live interval, the mean distance, the width; no confidence."""
    outputs = [SimpleNamespace(name=name) for name in ("mean", "lower", "upper")]
    reading = Reading(SimpleNamespace(outputs=outputs, series=object()))
    mean = np.zeros((2, 4), np.float32)
    live = [mean, mean - 1, mean + 1]
    candidate = [np.array([[0, 0.5, 2, -3], [0, 0, 0, 0]], np.float32), mean - 2, mean + 2]
    assert reading.compare(live, candidate) == (1.5, 0.0, pytest.approx(5.5 / 4))
    assert (reading.certainty(live), reading.certainty(candidate)) == (4.0, 8.0)
