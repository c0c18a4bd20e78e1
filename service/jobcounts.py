"""How many training jobs there are in each state, and what the gate said of those that got so far."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from prometheus_client import Metric

from models.jobs import Job, JobStatus

_OVERLAP = timedelta(minutes=5)
"""So much may the clocks of those who submit jobs differ."""


class Counts(NamedTuple):
    """Jobs by task and status, and by task and whether they passed the gate."""

    jobs: Counter[tuple[str, JobStatus]]
    verdicts: Counter[tuple[str, bool]]


class Database(Protocol):
    """Where the jobs are."""

    def jobs(self, since: datetime | None, ids: list[str]) -> list[Job]:
        """The jobs that were submitted then or later, and those with these ids."""


class JobCounts:
    """Counts the jobs of a database; those that have ended are read once only. For one thread at a time."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[str, JobStatus, bool | None]] = {}
        self._running: list[str] = []
        self._newest: datetime | None = None

    def read(self, database: Database) -> Counts:
        """The counts of now."""
        found = database.jobs(self._newest and self._newest - _OVERLAP, self._running)
        running = [job for job in found if not job.status.ended]
        self._ended.update((job.id, _facts(job)) for job in found if job.status.ended)
        self._running = [job.id for job in running]
        self._newest = max((job.created_at for job in found), default=self._newest)
        facts = [*self._ended.values(), *map(_facts, running)]
        return Counts(
            Counter((task, status) for task, status, _ in facts),
            Counter((task, passed) for task, _, passed in facts if passed is not None),
        )


def _facts(job: Job) -> tuple[str, JobStatus, bool | None]:
    return job.spec.task, job.status, job.result.gate.passed if job.result is not None else None


def families(counts: Counts | None) -> list[Metric]:
    """Gauges and counters; none where nothing was ever trained."""
    if counts is None:
        return []
    jobs = Metric("neuroserve_jobs", "Training jobs in each state", "gauge")
    for task in sorted({task for task, _ in counts.jobs}):
        for status in JobStatus:
            jobs.add_sample(jobs.name, {"task": task, "status": status}, counts.jobs[task, status])
    verdicts = Metric("neuroserve_gate_verdicts", "Verdicts of the gate", "counter")
    for task in sorted({task for task, _ in counts.jobs}):
        for passed in (True, False):
            labels = {"task": task, "verdict": "passed" if passed else "refused"}
            verdicts.add_sample(f"{verdicts.name}_total", labels, counts.verdicts[task, passed])
    return [jobs, verdicts]
