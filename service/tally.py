"""What is counted of every batch: of a model, and what Triton counts of each version.

These figures cost too much to be written to the metrics for every batch, as each worker's lie in a shared file: they
are gathered in memory and written ten times a second, and before this worker is asked for them. Lives on the event
loop.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import defaultdict
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.batch import BatchReport

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_EVERY_S = 0.1
_LABELS = ["model", "version"]


class _Spread:
    """The observations of one histogram since they were written last."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def write(self, child: Any) -> None:
        """What `child.observe` would have made of each; it would be as slow as it is for every one."""
        child._sum.inc(self.total)
        for bucket, count in zip(child._buckets, self.counts, strict=True):
            if count:
                bucket.inc(count)


class _Version:
    """The figures of one version since they were written last."""

    __slots__ = ("failed_rows", "last", "queue_s", "requests", "rows", "run_s", "sizes")

    def __init__(self) -> None:
        self.requests = self.rows = self.failed_rows = 0
        self.queue_s = self.run_s = self.last = 0.0
        self.sizes: dict[int, tuple[int, float]] = {}


class _Model:
    """The figures of one model since they were written last."""

    __slots__ = ("batch_rows", "padded_rows", "padded_steps", "queue", "reasons", "run", "steps")

    def __init__(self) -> None:
        self.queue, self.run, self.batch_rows = _Spread(SECONDS), _Spread(SECONDS), _Spread(_ROWS)
        self.padded_rows = self.steps = self.padded_steps = 0
        self.reasons: dict[str, int] = {}

    def batch(self, report: BatchReport) -> None:
        add = self.queue.add
        for waited in report.queue_seconds:
            add(waited)
        self.run.add(report.run_seconds)
        self.batch_rows.add(report.rows)
        self.padded_rows += report.padded_rows
        self.steps += report.steps
        self.padded_steps += report.padded_steps
        self.reasons[report.reason] = self.reasons.get(report.reason, 0) + 1


class Tally:
    """The counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._at = registry
        self._of_models()
        self._of_versions()
        self._last = Gauge(
            "neuroserve_last_inference_timestamp_seconds",
            "When a batch ended last",
            _LABELS,
            multiprocess_mode="max",
            registry=registry,
        )
        self._news: dict[tuple[str, int], _Version] = defaultdict(_Version)
        self._models: dict[str, _Model] = defaultdict(_Model)
        self._planned = False

    def _of_models(self) -> None:
        self._queue = self._histogram("queue_seconds", "Time a request waited for the device", SECONDS)
        self._run = self._histogram("run_seconds", "Time the device took for a batch", SECONDS)
        self._batch_rows = self._histogram("batch_rows", "Rows of a batch", _ROWS)
        self._dispatches = self._counter("dispatches", "Batches, by why they were sent off", ["model", "reason"])
        self._padded_rows = self._counter("padded_rows", "Rows run, with the padding of batches", ["model"])
        self._steps = self._counter("steps", "Sequence steps run, without padding", ["model"])
        self._padded_steps = self._counter("padded_steps", "Sequence steps run, with padding", ["model"])

    def _of_versions(self) -> None:
        self._rows = self._counter("rows", "Rows run")
        self._failed_rows = self._counter("failed_rows", "Rows whose batch failed")
        self._requests = self._counter(
            "model_requests", "Requests answered by a batch; one that took several counts for each"
        )
        self._queue_s = self._counter("model_queue_seconds", "Time those requests waited")
        self._run_s = self._counter("model_run_seconds", "Time the batches of those requests ran")
        self._batches = self._counter("model_batches", "Batches answered, by their rows", [*_LABELS, "rows"])
        self._batches_s = self._counter("model_batch_seconds", "Time those batches ran", [*_LABELS, "rows"])
        self._failures = self._counter(
            "model_failures", "Requests not answered; REJECTED and CANCELED only of /v2", [*_LABELS, "reason"]
        )
        self._failures_s = self._counter("model_failure_seconds", "Time those requests took", [*_LABELS, "reason"])

    def batch(self, model: str, report: BatchReport) -> None:
        """Count one finished batch."""
        self._models[model].batch(report)
        news = self._news[model, report.engine.version]
        if report.failed:
            news.failed_rows += report.rows
            for waited in report.queue_seconds:
                self.failure(model, report.engine.version, "BACKEND", waited + report.run_seconds)
        else:
            news.rows += report.rows
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
        versions, self._news = self._news, defaultdict(_Version)
        models, self._models = self._models, defaultdict(_Model)
        for model, found in models.items():
            self._write_model(model, found)
        for (model, number), news in versions.items():
            version = str(number)
            for counter, value in (
                (self._rows, news.rows),
                (self._failed_rows, news.failed_rows),
                (self._requests, news.requests),
                (self._queue_s, news.queue_s),
                (self._run_s, news.run_s),
            ):
                if value:
                    counter.labels(model, version).inc(value)
            if news.last:
                self._last.labels(model, version).set(news.last)
            for rows, (count, seconds) in news.sizes.items():
                self._batches.labels(model, version, str(rows)).inc(count)
                self._batches_s.labels(model, version, str(rows)).inc(seconds)

    def _write_model(self, model: str, found: _Model) -> None:
        found.queue.write(self._queue.labels(model))
        found.run.write(self._run.labels(model))
        found.batch_rows.write(self._batch_rows.labels(model))
        self._padded_rows.labels(model).inc(found.padded_rows)
        if found.padded_steps:
            self._steps.labels(model).inc(found.steps)
            self._padded_steps.labels(model).inc(found.padded_steps)
        for reason, count in found.reasons.items():
            self._dispatches.labels(model, reason).inc(count)

    def _plan(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nobody would come back to it
            self.write()
            return
        self._planned = True
        loop.call_later(_EVERY_S, self.write)

    def _counter(self, name: str, text: str, labels: list[str] = _LABELS) -> Counter:
        return Counter(f"neuroserve_{name}", text, labels, registry=self._at)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"neuroserve_{name}", text, ["model"], buckets=bounds, registry=self._at)
