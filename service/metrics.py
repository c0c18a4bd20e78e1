"""Prometheus metrics of the service: one set of names, right totals with one worker or several.

With several workers `PROMETHEUS_MULTIPROC_DIR` must be set before this module is imported (the supervisor does);
a scrape of any worker then sums all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service import metric_files
from service.batch import BatchReport
from service.canary_metrics import CanaryMetrics
from service.drift import DriftMetrics
from service.metric_folder import VARIABLE
from service.oip.statistics import Totals, aliases
from service.tally import SECONDS, Tally
from service.tracing import BatchSpans
from service.warnings import Warned

CONTENT_TYPE = CONTENT_TYPE_LATEST

metric_files.install()


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        at = self._registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "neuroserve_request_seconds",
            "Time to the answer; `_count` is the number of requests",
            ["route", "status"],
            buckets=SECONDS,
            registry=at,
        )
        self.queue_rows = Gauge(
            "neuroserve_queue_rows", "Rows waiting now", ["model"], multiprocess_mode="livesum", registry=at
        )
        self.decode_queue = Gauge(
            "neuroserve_decode_queue",
            "Requests that wait to be decoded off the event loop or are being decoded",
            ["lane"],
            multiprocess_mode="livesum",
            registry=at,
        )
        self.decode_rejected = Counter(
            "neuroserve_decode_rejected", "Requests refused because that queue was full", ["lane"], registry=at
        )
        self.bodies_bytes = Gauge(
            "neuroserve_bodies_bytes", "Bytes of large bodies held now", multiprocess_mode="livesum", registry=at
        )
        self.live_version = Gauge(
            "neuroserve_live_version", "Version that answers", ["model"], multiprocess_mode="livemin", registry=at
        )
        self.provider = Gauge(
            "neuroserve_provider",
            "1 for the execution provider in use",
            ["model", "provider"],
            multiprocess_mode="livemax",
            registry=at,
        )
        self.swaps = Counter("neuroserve_swaps", "Version changes, by result", ["model", "result"], registry=at)
        self.swap_seconds = Histogram(
            "neuroserve_swap_seconds",
            "Load, warm-up and self-test of a version",
            ["model"],
            buckets=SECONDS,
            registry=at,
        )
        self.refused_version = Gauge(
            "neuroserve_refused_version",
            "1 for a version that was refused",
            ["model", "version"],
            multiprocess_mode="livemax",
            registry=at,
        )
        self.warnings = Counter(
            "neuroserve_warnings", "Warnings that answers carried, once a row", ["model", "code"], registry=at
        )
        self.tally = Tally(at)
        self.spans: BatchSpans | None = None  # where requests are traced
        self.canaries = CanaryMetrics(at)
        self.drift = DriftMetrics(at)
        self._request_children: dict[tuple[str, int], Histogram] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        child = self._request_children.get((route, status))
        if child is None:
            child = self._request_children[route, status] = self.request_seconds.labels(route, str(status))
        child.observe(seconds)

    def warned(self, warned: Iterable[Warned]) -> None:
        """Count the warnings of an answer that was sent."""
        for model, code in warned:
            self.warnings.labels(model, code).inc()

    def batch(self, model: str, report: BatchReport) -> None:
        """Count one finished batch."""
        self.tally.batch(model, report)

    def totals(self) -> Totals:
        """The figures of the models, of all workers where there are several."""
        return Totals(self._families())

    def drifted(self, model: str, version: int) -> dict[str, list[float]]:
        """The present counts of a version's signals, in the bins of its manifest, of all workers."""
        return self.drift.counts(self._families(), model, version)

    def render(self, more: Iterable[Metric] = ()) -> bytes:
        """The text exposition, of all workers where there are several; Triton's names stand beside our own.

        `more` are families that hold for the whole service, whoever is asked.
        """
        families = self._families()
        return generate_latest(_Collected([*families, self.drift.index(families), *aliases(families), *more]))

    def _families(self) -> list[Metric]:
        self.tally.write()
        self.drift.write()
        registry = self._registry
        if VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return [*registry.collect(), metric_files.in_memory()]


class _Collected(CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._found = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


def forget_process(pid: int) -> None:
    """Drop the live gauges of a worker that has ended."""
    if VARIABLE in os.environ:
        metric_files.forget_links(pid)
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
