"""The queue as a worker sees it: jobs come as durable workflows, and go back when the worker stops or another dies.

All use of DBOS in training is here and in `ledger.py`. What is recorded of a job is repeated by no worker, and of two
that run the same job, one thawed after it was given up for dead, the engine refuses every record of the one that lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, cast

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from models.database import add_missing_functions, prepare_file
from models.jobs import (
    APPLICATION,
    APPLICATION_VERSION,
    BEGUN,
    LATE,
    QUEUE,
    STOPPED,
    TRIES,
    WORKFLOW,
    JobSpec,
)
from models.manifest import now
from training.job import JobRun, JobSettings
from training.ledger import AGAIN_S, DbosLedger, aside, first_line
from training.shift import Shift

RECOVERIES = 50
"""The engine's own bound on taking a job up again; `job.TRIES` is the one that matters: it forgives after progress."""
QUEUE_POLL_S = 0.5
_IDLE_S = 6.0
_IDLE_TRANSACTION_S = 10.0  # a frozen worker must not hold a row longer than others wait for its heartbeat

log = logging.getLogger("training.worker")


class JobQueue:
    """Jobs for the worker `executor_id` from the database at `url`, `concurrency` of them at a time."""

    def __init__(self, url: str, executor_id: str, jobs: JobSettings, concurrency: int) -> None:
        self._url, self._name, self._jobs, self._concurrency = url, executor_id, jobs, concurrency
        self.shift = Shift()
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._idle: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: DBOSClient | None = None
        self._registered = False

    # ------------------------------------------------------------------ for the process

    def start(self) -> None:
        """Make the database if it is not there, and begin to take jobs, those first that an earlier worker of this
        name left. SQLAlchemyError or OSError when it cannot be reached: nothing has begun then.
        """
        prepare(self._url)
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

    def soon(self, call: Callable[[], None]) -> None:
        """Call it from the loop that runs the jobs, or here while there is none."""
        if self._loop is None or self._loop.is_closed():
            call()
            return
        with contextlib.suppress(RuntimeError):  # closed just now
            self._loop.call_soon_threadsafe(call)

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
        at = time.monotonic()
        self._idle = {job_id: self._idle.get(job_id, at) for job_id in idle}
        for job_id, since in list(self._idle.items()):
            if at - since >= _IDLE_S:  # one that has just come or gone is no such job
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
            if await aside(lambda: _acknowledge(run)):
                await run.clear()
            raise
        except SQLAlchemyError as exc:
            log.error("job %s goes back to the queue when its database takes it: %s", job_id, first_line(exc))
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
                return await aside(lambda: self._give_back(job_id))
            except SQLAlchemyError:
                await asyncio.sleep(AGAIN_S)


def prepare(url: str) -> None:
    """Make the job database if it is not there. SQLAlchemyError or OSError when it cannot be reached."""
    prepare_file(url)
    event.listen(Engine, "connect", add_missing_functions)
    logging.getLogger("dbos").setLevel(logging.ERROR)
    DBOS.migrate(url)


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
