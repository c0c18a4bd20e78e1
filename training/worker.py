"""The worker process: takes jobs from the queue and runs each as one durable workflow.

All use of DBOS in training is here. A worker that comes back repeats no step that is recorded; a worker that is asked
to stop gives its jobs back to the queue. It never imports torch: training runs in a child (`attempt.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error

from models.jobs import (
    APPLICATION,
    APPLICATION_VERSION,
    BEGUN,
    EVENTS,
    LATE,
    QUEUE,
    SNAPSHOT,
    STOPPED,
    WORKFLOW,
    JobEvent,
    JobSpec,
    Snapshot,
)
from models.lifeline import signal_when_parent_dies
from models.manifest import now
from training.job import FIT, JobRun, JobSettings

RECOVERIES = 3
"""How often a job is taken up again after its worker died before it is given up as the cause of it."""
LOCK_WAIT_S = 20.0
QUEUE_POLL_S = 0.5

log = logging.getLogger("training.worker")


@dataclass(frozen=True)
class WorkerSettings:
    """Which queue the worker serves, under which name, and how its jobs run."""

    database_url: str
    executor_id: str
    jobs: JobSettings
    concurrency: int = 1
    die_with: int | None = None


class DbosLedger:
    """A job's record in DBOS: steps, the event stream and the snapshot of the workflow that runs."""

    async def step(self, name: str, work: Callable[[], Awaitable[Any]], *, preemptible: bool = True) -> Any:
        async def call() -> Any:
            return await work()

        return await DBOS.run_step_async({"name": name, "preemptible": preemptible}, call)

    async def tell(self, event: JobEvent) -> None:
        await DBOS.write_stream_async(EVENTS, event.model_dump(mode="json"))

    async def save(self, snapshot: Snapshot) -> None:
        await DBOS.set_event_async(SNAPSHOT, snapshot.model_dump(mode="json"))


def main(argv: Sequence[str], fit: Sequence[str] = FIT) -> int:
    """`python -m training worker`: run until SIGTERM or SIGINT; 0 after a clean stop, 75 when the name is taken."""
    settings = _settings(argv, fit)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s worker: %(message)s")
    if settings.die_with is not None:
        signal_when_parent_dies(settings.die_with, signal.SIGTERM)
    settings.jobs.state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_only_one(settings))
        except BlockingIOError:
            log.error(
                "another worker named %s runs in %s; give this one another --executor-id",
                settings.executor_id,
                settings.jobs.state,
            )
            return os.EX_TEMPFAIL
        serve(settings)
    return 0


def serve(settings: WorkerSettings) -> None:
    """Take jobs until a signal says stop; then end the children and give their jobs back to the queue."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _launch(settings)
    log.info("%s takes jobs from %s", settings.executor_id, _shown(settings.database_url))
    stop.wait()
    log.info("%s stops", settings.executor_id)
    # The running workflows are cancelled like any task of a loop that ends, and each closes its child.
    DBOS.destroy()
    _hand_back(settings)


def _launch(settings: WorkerSettings) -> None:
    if settings.database_url.startswith("sqlite:///"):
        path = Path(settings.database_url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # kept in the file: readers and the writer no longer block
    DBOS(
        config=DBOSConfig(
            name=APPLICATION,
            application_version=APPLICATION_VERSION,
            executor_id=settings.executor_id,
            system_database_url=settings.database_url,
            serializer=DBOSPortableJSONSerializer(),
            log_level="WARNING",
        )
    )

    async def train(spec: dict[str, Any]) -> dict[str, Any]:
        return await _train(spec, settings.jobs)

    logging.getLogger("dbos").addFilter(_is_news)
    DBOS.workflow(name=WORKFLOW, max_recovery_attempts=RECOVERIES)(train)
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.concurrency,
        polling_interval_sec=QUEUE_POLL_S,
        on_conflict="always_update",
    )


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of the engine's log is worth a look: the trace of a cancelled job is not."""
    cancelled = (dbos_error.DBOSWorkflowCancelledError, dbos_error.DBOSAwaitedWorkflowCancelledError)
    return not (record.exc_info and isinstance(record.exc_info[1], cancelled))


async def _train(spec: dict[str, Any], settings: JobSettings) -> dict[str, Any]:
    """The workflow: what `JobRun` makes of the spec, as JSON."""
    job_id = str(DBOS.workflow_id)
    run = JobRun(job_id, JobSpec.model_validate(spec), settings, DbosLedger())
    log.info("job %s: %s", job_id, spec)
    try:
        return (await run.run()).model_dump(mode="json")
    except (dbos_error.DBOSWorkflowCancelledError, dbos_error.DBOSWorkflowConflictIDError):
        # Cancelled, or another worker's by now: the workflow may write no more, so a bare thread looks and notes.
        await run.close()
        if await asyncio.get_running_loop().run_in_executor(None, _acknowledge, run):
            await run.clear()
        raise
    finally:
        await run.close()


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


def _hand_back(settings: WorkerSettings) -> None:
    """Put this worker's unfinished jobs back at the head of the queue, with none of their recoveries used up."""
    client = DBOSClient(
        system_database_url=settings.database_url,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
    )
    try:
        for row in client.list_workflows(
            name=WORKFLOW, status="PENDING", executor_id=settings.executor_id, load_input=False, load_output=False
        ):
            client.update_workflow_attributes(row.workflow_id, {BEGUN: True}, merge=True)
            client.resume_workflow(row.workflow_id, queue_name=QUEUE)
            log.info("job %s waits for the next worker", row.workflow_id)
    finally:
        client.destroy()


@contextlib.contextmanager
def _only_one(settings: WorkerSettings) -> Iterator[None]:
    """Hold the executor's name: two workers of one name would take each other's jobs for lost ones."""
    with (settings.jobs.state / f"worker-{settings.executor_id}.lock").open("a") as handle:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _settings(argv: Sequence[str], fit: Sequence[str]) -> WorkerSettings:
    given = _parser().parse_args(argv)
    state = Path(given.state).resolve()
    url = given.database_url or f"sqlite:///{state / 'jobs.sqlite'}"
    # A SQLite file belongs to one machine whatever its name is today; on PostgreSQL the host tells workers apart.
    name = given.executor_id or ("local" if url.startswith("sqlite") else socket.gethostname())
    return WorkerSettings(
        database_url=url,
        executor_id=name,
        concurrency=given.concurrency,
        die_with=given.die_with,
        jobs=JobSettings(
            state=state,
            store=Path(given.store).resolve() if given.store else state / "models",
            time_limit_s=given.time_limit_s,
            fit=fit,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    env = os.environ.get
    parser = argparse.ArgumentParser(prog="python -m training worker", description="Take training jobs from the queue.")
    parser.add_argument("--state", default=env("NEUROSERVE_STATE", "var"), help="checkpoints and the job database")
    parser.add_argument("--database-url", default=env("NEUROSERVE_DATABASE_URL"), help="default: STATE/jobs.sqlite")
    parser.add_argument("--store", default=None, help="where versions are published; default: STATE/models")
    parser.add_argument("--concurrency", type=_positive(int), default=1, help="jobs at the same time")
    parser.add_argument("--executor-id", default=None, help="a name that stays; default: local, or the host's name")
    parser.add_argument(
        "--time-limit-s",
        type=_positive(float),
        default=env("NEUROSERVE_JOB_TIME_LIMIT_S", "21600"),
        help="a job that takes longer has failed",
    )
    parser.add_argument("--die-with", type=int, default=None, metavar="PID", help="stop when this parent process ends")
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def _shown(url: str) -> str:
    """A database URL without its password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
