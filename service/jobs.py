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
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from models.database import has_rows, is_sqlite
from models.jobs import (
    JOB_EVENT,
    DoneEvent,
    Job,
    JobEvent,
    JobSpec,
    JobStatus,
    JobWarning,
    StatusEvent,
    WarningsEvent,
)
from models.manifest import now
from service.attendance import Attendance
from service.errors import Unavailable
from service.jobcounts import Counts, JobCounts
from service.settings import Settings

if TYPE_CHECKING:
    from service.jobdb import JobDatabase

THREADS = 4
POLL_S = 0.25
LOOK_S = 2.0
"""So often a stream looks whether a worker has come for its job."""

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
        self._attendance = Attendance(settings, trainer)
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
        return await self._run(lambda database: self._warned(database, [database.submit(spec, key)])[0])

    async def get(self, job_id: str) -> Job:
        """The job, or NotFound."""
        return await self._run(lambda database: self._warned(database, [database.get(job_id)])[0])

    async def page(
        self, status: JobStatus | None = None, task: str | None = None, limit: int = 20, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, and the cursor of the next page if there is one; InvalidInput for a wrong cursor."""

        def read(database: JobDatabase) -> tuple[list[Job], str | None]:
            jobs, following = database.page(status, task, limit, cursor)
            return self._warned(database, jobs), following

        return await self._run(read)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job: at once if it waits, within seconds if it runs; Conflict if it had ended."""
        return await self._run(lambda database: database.cancel(job_id))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[tuple[int, JobEvent | WarningsEvent] | None]:
        """The job's events with their places 1, 2, ... in order, those beyond `after`; None when there is no news.

        The first is its `queued`, the last `done`; the iterator ends with it, or when the board hangs up. Place 0 is
        that of warnings: they are true now, and are not told again. NotFound for an unknown job.
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

    async def _events(self, job_id: str, after: int) -> AsyncGenerator[tuple[int, JobEvent | WarningsEvent] | None]:
        job = await self.get(job_id)
        if after < 1:
            yield 1, StatusEvent(at=job.created_at, status=JobStatus.QUEUED)
        told = max(0, after - 3)  # values of the stream; at most two closing events follow the last
        over = False
        watch = _WarningsWatch()
        while not over:
            values, over = await self._run(functools.partial(_read, job_id, told))
            if (change := await watch.change(self, job_id, waits=not (told or values or over))) is not None:
                yield 0, change
            for value in values:
                told += 1
                if told + 1 > after:
                    yield told + 1, JOB_EVENT.validate_python(value)
            if not over:
                yield None
                await asyncio.sleep(POLL_S)
        async for each in self._ending(job_id, told + 1):
            if each is None or each[0] > after:
                yield each

    async def _ending(self, job_id: str, place: int) -> AsyncGenerator[tuple[int, JobEvent] | None]:
        """The events behind the stream's last value, which stands at `place`: that it is being cancelled, its end."""
        job = await self.get(job_id)
        if job.status in {JobStatus.CANCELLING, JobStatus.CANCELLED} and job.started_at is not None:
            place += 1
            yield place, StatusEvent(at=job.finished_at or now(), status=JobStatus.CANCELLING)
        while not job.status.ended:
            yield None
            await asyncio.sleep(POLL_S)
            job = await self.get(job_id)
        end = DoneEvent(at=job.finished_at or now(), status=job.status, result=job.result, error=job.error)
        yield place + 1, end

    # ------------------------------------------------------------------ on the board's threads

    def _warned(self, database: JobDatabase, jobs: list[Job]) -> list[Job]:
        """The jobs, those that wait with what keeps them waiting."""
        if all(job.status is not JobStatus.QUEUED for job in jobs):
            return jobs
        beats = database.beats()
        with self._lock:
            found = self._attendance.warnings(beats)
        return [job.model_copy(update={"warnings": found}) if job.status is JobStatus.QUEUED else job for job in jobs]

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


class _WarningsWatch:
    """What a stream has told of a job's warnings, and when to look again."""

    def __init__(self) -> None:
        self._told: list[JobWarning] = []
        self._look_at = 0.0

    async def change(self, board: JobBoard, job_id: str, *, waits: bool) -> WarningsEvent | None:
        """The event to tell now, if there is any; a job that does not wait has no warnings."""
        if waits and time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + LOOK_S
        found = (await board.get(job_id)).warnings if waits else []
        if found == self._told:
            return None
        self._told = found
        return WarningsEvent(at=now(), warnings=found)


def _read(job_id: str, offset: int, database: JobDatabase) -> tuple[list[Any], bool]:
    return database.read(job_id, offset)
