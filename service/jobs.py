"""The job board: submits, lists, cancels and follows training jobs, on threads of its own.

The job database behind it is loaded and connected when training is first spoken of: a service that only predicts
starts sooner and stays smaller.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from models.database import has_rows, is_sqlite
from models.jobs import JOB_EVENT, DoneEvent, Job, JobEvent, JobSpec, JobStatus, StatusEvent
from models.manifest import now
from service.errors import Unavailable
from service.jobcounts import Counts, JobCounts
from service.settings import Settings

if TYPE_CHECKING:
    from service.jobdb import JobDatabase

THREADS = 4
POLL_S = 0.25

log = logging.getLogger(__name__)
T = TypeVar("T")


class JobBoard:
    """The client side of the queue; every method raises Unavailable while the job database cannot be reached."""

    def __init__(self, settings: Settings, trainer: str) -> None:
        self._settings, self._trainer = settings, trainer
        self._pool = ThreadPoolExecutor(THREADS, "jobs")
        self._lock = threading.Lock()
        self._database: JobDatabase | None = None
        self._counts = JobCounts()
        self._hung_up = False

    async def close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            await self._run(lambda database: database.close())
        self._pool.shutdown()

    def hang_up(self) -> None:
        """End every event stream at its next look, so that followers do not hold up a shutdown; they may reconnect."""
        self._hung_up = True

    async def submit(self, spec: JobSpec, key: str | None = None) -> Job:
        """Queue a job; the same key gives the same job. Busy when the queue is full, Conflict for another spec."""
        if self._trainer == "off":
            detail = "Training is switched off here (NEUROSERVE_TRAINER=off)."
            raise Unavailable(detail, code="training_off", retry_after_s=3600)
        return await self._run(lambda database: database.submit(spec, key))

    async def get(self, job_id: str) -> Job:
        """The job, or NotFound."""
        return await self._run(lambda database: database.get(job_id))

    async def page(
        self, status: JobStatus | None = None, task: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, and the cursor of the next page if there is one; InvalidInput for a wrong cursor."""
        return await self._run(lambda database: database.page(status, task, limit, cursor))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job: at once if it waits, within seconds if it runs; Conflict if it had ended."""
        return await self._run(lambda database: database.cancel(job_id))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[tuple[int, JobEvent] | None]:
        """The job's events with their places 1, 2, ... in order, those beyond `after`; None when there is no news.

        The first is its `queued`, the last `done`; the iterator ends with it, or when the board hangs up. NotFound for
        an unknown job.
        """
        async with contextlib.aclosing(self._events(job_id, after)) as events:
            async for event in events:
                if event is None and self._hung_up:
                    return
                yield event

    async def counts(self) -> Counts | None:
        """How many jobs there are in each state; None where no job was ever submitted, without connecting."""
        if not await asyncio.get_running_loop().run_in_executor(self._pool, self._is_used):
            return None
        return await self._run(self._counts.read)

    def _is_used(self) -> bool:
        if self._database is not None:
            return True
        url = self._settings.jobs_url
        return has_rows(url, "workflow_status") if is_sqlite(url) else self._trainer != "off"

    async def _events(self, job_id: str, after: int) -> AsyncGenerator[tuple[int, JobEvent] | None]:
        job = await self.get(job_id)
        if after < 1:
            yield 1, StatusEvent(at=job.created_at, status=JobStatus.QUEUED)
        told = max(0, after - 3)  # values of the stream; at most two closing events follow the last
        over = False
        while not over:
            values, over = await self._run(functools.partial(_read, job_id, told))
            for value in values:
                told += 1
                if told + 1 > after:
                    yield told + 1, JOB_EVENT.validate_python(value)
            if not over:
                yield None
                await asyncio.sleep(POLL_S)
        place = told + 1
        job = await self.get(job_id)
        if job.status in {JobStatus.CANCELLING, JobStatus.CANCELLED} and job.started_at is not None:
            place += 1
            if place > after:
                yield place, StatusEvent(at=job.finished_at or now(), status=JobStatus.CANCELLING)
        while not job.status.ended:
            yield None
            await asyncio.sleep(POLL_S)
            job = await self.get(job_id)
        if place + 1 > after:
            yield (
                place + 1,
                DoneEvent(at=job.finished_at or now(), status=job.status, result=job.result, error=job.error),
            )

    # ------------------------------------------------------------------ on the board's threads

    async def _run(self, call: Callable[[JobDatabase], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, call)

    def _call(self, call: Callable[[JobDatabase], T]) -> T:
        from service.jobdb import DATABASE_ERRORS, JobDatabase

        with self._lock:
            if self._database is None:
                self._database = JobDatabase(self._settings.jobs_url, self._settings.max_queued_jobs)
        try:
            return call(self._database)
        except DATABASE_ERRORS as exc:
            log.error("the job database failed: %s", exc)
            raise Unavailable("The job database cannot be reached.", code="jobs_unavailable", retry_after_s=5) from exc


def _read(job_id: str, offset: int, database: JobDatabase) -> tuple[list[Any], bool]:
    return database.read(job_id, offset)
