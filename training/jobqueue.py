"""The queue as a worker sees it: jobs come as durable workflows, and go back when the worker stops or another dies.

All use of DBOS in training is here. What is recorded of a job is repeated by no worker, and of two that run the same
job, one thawed after it was given up for dead, the engine refuses every record of the one that lost it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error
from sqlalchemy.exc import SQLAlchemyError

from models.database import prepare_file
from models.jobs import (
    APPLICATION,
    APPLICATION_VERSION,
    BEGUN,
    EVENTS,
    LATE,
    QUEUE,
    SNAPSHOT,
    STOPPED,
    TRIES,
    WORKFLOW,
    JobEvent,
    JobSpec,
    Snapshot,
)
from models.manifest import now
from training.job import JobRun, JobSettings
from training.shift import Shift

RECOVERIES = 50
"""The engine's own bound on taking a job up again; `job.TRIES` is the one that matters: it forgives after progress."""
QUEUE_POLL_S = 0.5
_AGAIN_S = 2.0
_IDLE_LOOKS = 3
_IDLE_TRANSACTION_S = 10.0  # a frozen worker must not hold a row longer than others wait for its heartbeat

log = logging.getLogger("training.worker")
T = TypeVar("T")


class DbosLedger:
    """A job's record in DBOS: steps, the event stream and the snapshot of the workflow that runs."""

    def __init__(self, job_id: str) -> None:
        self._id, self._tries, self._stepping = job_id, 0, False

    async def step(self, name: str, work: Callable[[], Awaitable[Any]], *, preemptible: bool = True) -> Any:
        async def call() -> Any:
            self._stepping = True
            try:
                return await work()
            finally:
                self._stepping = False

        return await DBOS.run_step_async({"name": name, "preemptible": preemptible}, call)

    async def tell(self, event: JobEvent) -> None:
        await self._write(lambda: DBOS.write_stream_async(EVENTS, event.model_dump(mode="json")))

    async def save(self, snapshot: Snapshot) -> None:
        await self._write(lambda: DBOS.set_event_async(SNAPSHOT, snapshot.model_dump(mode="json")))

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write; in a step as often as it takes, or a full disk would be recorded as the step's own failure.

        Outside a step each call counts in the replay, so there the error goes up and the workflow begins again.
        """
        told = False
        while True:
            try:
                return await write()
            except SQLAlchemyError as exc:
                if not self._stepping:
                    raise
                if not told:
                    log.error("job %s waits for its database: %s", self._id, _first_line(exc))
                told = True
                await asyncio.sleep(_AGAIN_S)

    async def count_try(self) -> int:
        return await _aside(lambda: self._note_try(1 + self._tries_so_far()))

    async def count_progress(self) -> None:
        if self._tries != 1:
            await _aside(lambda: self._note_try(1))

    def _tries_so_far(self) -> int:
        row = DBOS.get_workflow_status(self._id)
        return int((row.attributes or {}).get(TRIES, 0)) if row is not None else 0

    def _note_try(self, tries: int) -> int:
        self._tries = tries
        DBOS.update_workflow_attributes(self._id, {TRIES: tries}, merge=True)
        return tries


async def _aside(call: Callable[[], T]) -> T:
    """What `call` gives on a bare thread, outside the workflow: not recorded, so not replayed."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


class JobQueue:
    """Jobs for the worker `executor_id` from the database at `url`, `concurrency` of them at a time."""

    def __init__(self, url: str, executor_id: str, jobs: JobSettings, concurrency: int) -> None:
        self._url, self._name, self._jobs, self._concurrency = url, executor_id, jobs, concurrency
        self.shift = Shift()
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._idle: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: DBOSClient | None = None
        self._registered = False

    # ------------------------------------------------------------------ for the process

    def start(self) -> None:
        """Make the database if it is not there, and begin to take jobs, those first that an earlier worker of this
        name left. SQLAlchemyError or OSError when it cannot be reached: nothing has begun then.
        """
        prepare_file(self._url)
        logging.getLogger("dbos").setLevel(logging.ERROR)
        DBOS.migrate(self._url)
        try:
            self._launch()
        except BaseException:
            DBOS.destroy()
            if self._client is not None:
                self._client.destroy()
            raise

    def _launch(self) -> None:
        DBOS(
            config=DBOSConfig(
                name=APPLICATION,
                application_version=APPLICATION_VERSION,
                executor_id=self._name,
                system_database_url=self._url,
                sys_db_idle_transaction_timeout_sec=_IDLE_TRANSACTION_S,
                serializer=DBOSPortableJSONSerializer(),
                log_level="WARNING",
            )
        )
        if not self._registered:
            self._registered = True

            async def train(spec: dict[str, Any]) -> dict[str, Any]:
                return await self._train(spec)

            logging.getLogger("dbos").addFilter(_is_news)
            DBOS.workflow(name=WORKFLOW, max_recovery_attempts=RECOVERIES)(train)
        self._client = DBOSClient(
            system_database_url=self._url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            system_database_pool_size=1,
            retry_connection_errors=False,
        )
        DBOS.launch()
        self._agree_on_concurrency()

    def stop(self) -> None:
        """End the running jobs' children and put the jobs back at the head of the queue, no try used up."""
        # The running workflows are cancelled like any task of a loop that ends, and each closes its child.
        DBOS.destroy()
        if self._client is None:
            return
        try:
            for row in self._client.list_workflows(
                name=WORKFLOW, status="PENDING", executor_id=self._name, load_input=False, load_output=False
            ):
                self._give_back(row.workflow_id)
                log.info("job %s waits for the next worker", row.workflow_id)
        except SQLAlchemyError as exc:
            log.error("the job database does not answer; another worker will notice and take the jobs: %s", exc)
        finally:
            self._client.destroy()

    def _give_back(self, job_id: str) -> None:
        if self._client is not None:
            self._client.update_workflow_attributes(job_id, {BEGUN: True, TRIES: 0}, merge=True)
            self._client.resume_workflow(job_id, queue_name=QUEUE)

    def _agree_on_concurrency(self) -> None:
        """The limit belongs to the queue: what the last worker brings counts for all of its database."""
        before = DBOS.retrieve_queue(QUEUE)
        if before is not None and before.worker_concurrency not in {None, self._concurrency}:
            log.warning(
                "every worker of this database now runs %d jobs at a time, not %s",
                self._concurrency,
                before.worker_concurrency,
            )
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=self._concurrency,
            polling_interval_sec=QUEUE_POLL_S,
            on_conflict="always_update",
        )

    # ------------------------------------------------------------------ for the watchdog

    def holders(self) -> list[str]:
        """Names of the workers that hold unfinished jobs."""
        return [str(name) for name in self._pending().values()]

    def take_from(self, name: str) -> list[str]:
        """Put the jobs that this worker still holds back in the queue, each once whoever asks; their ids.

        Their count of recoveries stays: a job that kills its workers comes to an end.
        """
        return [handle.workflow_id for handle in DBOS._recover_pending_workflows([name])]

    def drop_lost(self) -> None:
        """End what runs here of jobs that are no longer ours: this worker was frozen or cut off."""
        here = dict(self._running)  # before the rows are read: what it holds was ours by then
        if not here or self._client is None or self._loop is None:
            return
        pending = self._pending()
        doubtful = [job_id for job_id in here if pending.get(job_id) != self._name]
        for row in self._client.list_workflows(workflow_ids=doubtful, load_output=False) if doubtful else []:
            if row.status == "ENQUEUED" or (row.status == "PENDING" and row.executor_id != self._name):
                log.warning("job %s is another worker's now", row.workflow_id)
                self._loop.call_soon_threadsafe(here[row.workflow_id].cancel)

    def give_back_idle(self) -> None:
        """Put back in the queue what is ours by its row and runs nowhere: its end could not be written, say."""
        ours = {job_id for job_id, name in self._pending().items() if name == self._name}
        idle = ours - set(self._running)
        self._idle = Counter({job_id: self._idle[job_id] + 1 for job_id in idle})
        for job_id, looks in list(self._idle.items()):
            if looks >= _IDLE_LOOKS:  # one that has just come or gone is no such job
                log.warning("job %s had stopped without an end; it goes back to the queue", job_id)
                self._give_back(job_id)
                del self._idle[job_id]

    def _pending(self) -> dict[str, str | None]:
        if self._client is None:
            return {}
        rows = self._client.list_workflows(name=WORKFLOW, status="PENDING", load_input=False, load_output=False)
        return {row.workflow_id: row.executor_id for row in rows}

    # ------------------------------------------------------------------ in the engine's loop

    async def _train(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The workflow: what `JobRun` makes of the spec, as JSON."""
        job_id = str(DBOS.workflow_id)
        self._loop = asyncio.get_running_loop()
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        earlier = self._running.get(job_id)
        self._running[job_id] = task
        if earlier is not None:  # lost while this worker was frozen, and won back
            earlier.cancel()
            await asyncio.wait([earlier])
        run = JobRun(job_id, JobSpec.model_validate(spec), self._jobs, DbosLedger(job_id))
        log.info("job %s: %s", job_id, spec)
        try:
            with self.shift.on(run):
                return (await run.run()).model_dump(mode="json")
        except (dbos_error.DBOSWorkflowCancelledError, dbos_error.DBOSWorkflowConflictIDError):
            # Cancelled, or another worker's by now: the workflow may write no more, so a bare thread looks and notes.
            await run.close()
            if await _aside(lambda: _acknowledge(run)):
                await run.clear()
            raise
        except SQLAlchemyError as exc:
            log.error("job %s goes back to the queue when its database takes it: %s", job_id, _first_line(exc))
            await run.close()
            await self._give_back_in_time(job_id)
            raise
        finally:
            await run.close()
            if self._running.get(job_id) is task:
                del self._running[job_id]

    async def _give_back_in_time(self, job_id: str) -> None:
        while True:
            try:
                return await _aside(lambda: self._give_back(job_id))
            except SQLAlchemyError:
                await asyncio.sleep(_AGAIN_S)


def _first_line(exc: BaseException) -> str:
    return str(exc).partition("\n")[0]


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the engine's log is worth a look: the trace of a job cancelled or lost is not."""
    expected = (
        dbos_error.DBOSWorkflowCancelledError,
        dbos_error.DBOSAwaitedWorkflowCancelledError,
        dbos_error.DBOSWorkflowConflictIDError,
    )
    return not (record.exc_info and isinstance(record.exc_info[1], expected))


def _acknowledge(run: JobRun) -> bool:
    """Note on a cancelled job that its child is gone or, if its version was published first, how it ended."""
    status = DBOS.get_workflow_status(run.id)
    if status is None or status.status != "CANCELLED":
        log.warning("job %s is another worker's now", run.id)
        return False
    ended = run.ended().model_dump(mode="json") if run.result is not None else None
    attributes = {STOPPED: now().isoformat()} if ended is None else {LATE: ended}
    DBOS.update_workflow_attributes(run.id, attributes, merge=True)
    log.info("job %s was cancelled%s", run.id, "" if ended is None else ", too late")
    return True
