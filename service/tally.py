"""What Triton counts of every model version: requests, rows and batches, and the times they took.

Its figures cost too much to be written to the metrics for every batch, as each worker's lie in a shared file: they are
gathered in memory and written ten times a second, and before this worker is asked for them. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.batch import BatchReport

_EVERY_S = 0.1
_LABELS = ["model", "version"]


class _Version:
    """The figures of one version since they were written last."""

    __slots__ = ("last", "queue_s", "requests", "run_s", "sizes")

    def __init__(self) -> None:
        self.requests = 0
        self.queue_s = self.run_s = self.last = 0.0
        self.sizes: dict[int, tuple[int, float]] = {}


class Tally:
    """The counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = self._counter(
            registry, "model_requests", "Requests answered by a batch; one that took several counts for each"
        )
        self._queue_s = self._counter(registry, "model_queue_seconds", "Time those requests waited")
        self._run_s = self._counter(registry, "model_run_seconds", "Time the batches of those requests ran")
        self._batches = self._counter(registry, "model_batches", "Batches answered, by their rows", "rows")
        self._batches_s = self._counter(registry, "model_batch_seconds", "Time those batches ran", "rows")
        self._failures = self._counter(
            registry, "model_failures", "Requests not answered; REJECTED and CANCELED only of /v2", "reason"
        )
        self._failures_s = self._counter(registry, "model_failure_seconds", "Time those requests took", "reason")
        self._last = Gauge(
            "neuroserve_last_inference_timestamp_seconds",
            "When a batch ended last",
            _LABELS,
            multiprocess_mode="max",
            registry=registry,
        )
        self._news: dict[tuple[str, int], _Version] = defaultdict(_Version)
        self._planned = False

    def batch(self, model: str, report: BatchReport) -> None:
        """Count one finished batch."""
        if report.failed:
            for waited in report.queue_seconds:
                self.failure(model, report.engine.version, "BACKEND", waited + report.run_seconds)
            return
        news = self._news[model, report.engine.version]
        news.requests += report.items
        news.queue_s += sum(report.queue_seconds)
        news.run_s += report.items * report.run_seconds
        count, seconds = news.sizes.get(report.rows, (0, 0.0))
        news.sizes[report.rows] = (count + 1, seconds + report.run_seconds)
        news.last = time.time()
        if not self._planned:
            self._plan()

    def failure(self, model: str, version: int, reason: str, seconds: float) -> None:
        """Count a request that a model did not answer, with Triton's word for the reason."""
        self._failures.labels(model, str(version), reason).inc()
        self._failures_s.labels(model, str(version), reason).inc(seconds)

    def write(self) -> None:
        """Write to the metrics what is news."""
        self._planned = False
        found, self._news = self._news, defaultdict(_Version)
        for (model, number), news in found.items():
            version = str(number)
            self._requests.labels(model, version).inc(news.requests)
            self._queue_s.labels(model, version).inc(news.queue_s)
            self._run_s.labels(model, version).inc(news.run_s)
            self._last.labels(model, version).set(news.last)
            for rows, (count, seconds) in news.sizes.items():
                self._batches.labels(model, version, str(rows)).inc(count)
                self._batches_s.labels(model, version, str(rows)).inc(seconds)

    def _plan(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nobody would come back to it
            self.write()
            return
        self._planned = True
        loop.call_later(_EVERY_S, self.write)

    @staticmethod
    def _counter(registry: CollectorRegistry, name: str, text: str, *more: str) -> Counter:
        return Counter(f"neuroserve_{name}", text, [*_LABELS, *more], registry=registry)
