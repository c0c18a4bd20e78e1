"""The metrics of canaries."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge


class CanaryCounts(NamedTuple):
    """The labelled children of one canary."""

    percent: Gauge
    rows: Counter
    failed_rows: Counter
    fallbacks: Counter
    dropped_rows: Counter
    compared_rows: Counter
    agreed_rows: Counter


class CanaryMetrics:
    """What is counted of candidates; in `outcomes`, how their canaries ended."""

    def __init__(self, at: CollectorRegistry) -> None:
        labels = ["model", "version", "mode"]
        self._percent = Gauge(
            "neuroserve_canary_percent",
            "Share of the requests that a running canary gets; 0 when it has ended",
            labels,
            multiprocess_mode="livemax",
            registry=at,
        )
        self._counters = [
            Counter(f"neuroserve_canary_{name}", text, labels, registry=at)
            for name, text in (
                ("rows", "Rows that a candidate ran"),
                ("failed_rows", "Rows of requests that a candidate could not answer"),
                ("fallbacks", "Requests that the live version answered in a candidate's place"),
                ("dropped_rows", "Rows not shadowed, for the candidate was too far behind"),
                ("compared_rows", "Rows that both versions answered"),
                ("agreed_rows", "Compared rows with the same label, or the share of a forecast within the interval"),
            )
        ]
        self.outcomes = Counter("neuroserve_canary_outcomes", "Canaries ended", ["model", "outcome"], registry=at)

    def of(self, model: str, version: int, mode: str) -> CanaryCounts:
        """The children for one candidate."""
        labels = (model, str(version), mode)
        return CanaryCounts(self._percent.labels(*labels), *(each.labels(*labels) for each in self._counters))
