"""Prometheus metrics of the service: one set of names, right totals with one worker or several.

With several workers `PROMETHEUS_MULTIPROC_DIR` must be set before this module is imported (the supervisor does);
a scrape of any worker then sums all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

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

from service.batch import BatchReport
from service.canary_metrics import CanaryMetrics
from service.oip.statistics import Totals, aliases
from service.tally import Tally

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        at = self._registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "neuroserve_request_seconds",
            "Time to the answer; `_count` is the number of requests",
            ["route", "status"],
            buckets=_SECONDS,
            registry=at,
        )
        self.queue_seconds = Histogram(
            "neuroserve_queue_seconds",
            "Longest wait of a batch for the device",
            ["model"],
            buckets=_SECONDS,
            registry=at,
        )
        self.run_seconds = Histogram(
            "neuroserve_run_seconds", "Time the device took for a batch", ["model"], buckets=_SECONDS, registry=at
        )
        self.batch_rows = Histogram("neuroserve_batch_rows", "Rows of a batch", ["model"], buckets=_ROWS, registry=at)
        self.rows = Counter("neuroserve_rows", "Rows run", ["model", "version"], registry=at)
        self.failed_rows = Counter(
            "neuroserve_failed_rows", "Rows whose batch failed", ["model", "version"], registry=at
        )
        self.steps = Counter("neuroserve_steps", "Sequence steps run, without padding", ["model"], registry=at)
        self.padded_steps = Counter(
            "neuroserve_padded_steps", "Sequence steps run, with padding", ["model"], registry=at
        )
        self.queue_rows = Gauge(
            "neuroserve_queue_rows", "Rows waiting now", ["model"], multiprocess_mode="livesum", registry=at
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
            buckets=_SECONDS,
            registry=at,
        )
        self.refused_version = Gauge(
            "neuroserve_refused_version",
            "1 for a version that was refused",
            ["model", "version"],
            multiprocess_mode="livemax",
            registry=at,
        )
        self.tally = Tally(at)
        self.canaries = CanaryMetrics(at)
        self._request_children: dict[tuple[str, int], Histogram] = {}
        self._batch_children: dict[tuple[str, int], _BatchChildren] = {}

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        child = self._request_children.get((route, status))
        if child is None:
            child = self._request_children[route, status] = self.request_seconds.labels(route, str(status))
        child.observe(seconds)

    def batch(self, model: str, report: BatchReport) -> None:
        """Count one finished batch."""
        key = (model, report.engine.version)
        children = self._batch_children.get(key)
        if children is None:
            children = self._batch_children[key] = _BatchChildren(self, *key)
        children.observe(report)
        self.tally.batch(model, report)

    def totals(self) -> Totals:
        """The figures of the models, of all workers where there are several."""
        return Totals(self._families())

    def render(self) -> bytes:
        """The text exposition, of all workers where there are several; Triton's names stand beside our own."""
        families = self._families()
        return generate_latest(_Collected([*families, *aliases(families)]))

    def _families(self) -> list[Metric]:
        self.tally.write()
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return list(registry.collect())


class _Collected(CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._found = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


class _BatchChildren:
    """The labelled children of one model version, looked up once."""

    def __init__(self, metrics: Metrics, model: str, version: int) -> None:
        self._queue = metrics.queue_seconds.labels(model)
        self._run = metrics.run_seconds.labels(model)
        self._batch_rows = metrics.batch_rows.labels(model)
        self._rows = metrics.rows.labels(model, str(version))
        self._failed = metrics.failed_rows.labels(model, str(version))
        self._steps = metrics.steps.labels(model)
        self._padded = metrics.padded_steps.labels(model)

    def observe(self, report: BatchReport) -> None:
        self._queue.observe(max(report.queue_seconds))
        self._run.observe(report.run_seconds)
        self._batch_rows.observe(report.rows)
        (self._failed if report.failed else self._rows).inc(report.rows)
        if report.padded_steps:
            self._steps.inc(report.steps)
            self._padded.inc(report.padded_steps)


def forget_process(pid: int) -> None:
    """Drop the live gauges of a worker that has ended."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
