"""The job database: a synchronous client of the queue that workers serve, for threads.

All use of DBOS in the service is here, as a client; nothing runs in this process. What clients see of a job follows
from its row, the worker's snapshot and two attributes (`models/jobs.py`). Heavy: `jobs.py` imports it at first use.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
import time
import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions, WorkflowStatus
from dbos import error as dbos_error
from dbos._schemas.system_database import SystemSchema
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from models.database import add_missing_functions, address, prepare_file, workers_table
from models.jobs import (
    APPLICATION,
    APPLICATION_VERSION,
    EVENTS,
    LATE,
    QUEUE,
    SNAPSHOT,
    WORKFLOW,
    Job,
    JobSpec,
    JobStatus,
    Snapshot,
)
from service.errors import Busy, Conflict, NotFound
from service.jobview import (
    ROW_STATUSES,
    SUBMITTED,
    Place,
    begun,
    cursor_of,
    job_of,
    moment,
    place_from,
    place_of,
    spec_of,
)

DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
QUEUE_FULL_RETRY_S = 30
AGAIN_S = 2.0
_THREADS = 4
_MOST_ROWS = 2048
_ROWS = SystemSchema.workflow_status
_TURN = 0x6E6575726F
"""The number of PostgreSQL's lock that submissions take turns by."""
_KEYS = uuid.UUID("6a1c7a55-3f0e-4a6e-9d0e-8f1f6f2b7c11")
_ID = re.compile(r"[0-9a-f-]{36}")


class JobDatabase:
    """The queue's tables at `url`; connects at the first call and again after `close`.

    Raises DATABASE_ERRORS while it cannot be reached.
    """

    def __init__(self, url: str, most_queued: int) -> None:
        self._url, self._most_queued = address(url), most_queued
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None
        self._refused: Exception | None = None
        self._again_at = 0.0
        self._has_workers = False

    def _connected(self) -> DBOSClient:
        with self._lock:
            if self._client is None:
                # One caller in a while waits for a server that does not answer; the others are told at once.
                if self._refused is not None and time.monotonic() < self._again_at:
                    raise self._refused.with_traceback(None)
                try:
                    self._client = self._connect()
                except DATABASE_ERRORS as exc:
                    self._refused, self._again_at = exc, time.monotonic() + AGAIN_S
                    raise
            return self._client

    def _connect(self) -> DBOSClient:
        prepare_database(self._url)
        return DBOSClient(
            system_database_url=self._url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            system_database_pool_size=_THREADS,
            system_database_polling_concurrency=0,
            retry_connection_errors=False,
        )

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.destroy()
            self._client = None

    def _row(self, job_id: str) -> WorkflowStatus:
        known = _ID.fullmatch(job_id) is not None
        rows = self._connected().list_workflows(workflow_ids=[job_id], name=WORKFLOW) if known else []
        if not rows:
            raise NotFound(f"There is no job {job_id!r}.", code="job_not_found")
        return rows[0]

    def get(self, job_id: str) -> Job:
        return self._job(self._row(job_id))

    def _job(self, row: WorkflowStatus) -> Job:
        return job_of(row, self._snapshot(row))

    def _snapshot(self, row: WorkflowStatus) -> Snapshot | None:
        """What the worker last said of the job."""
        value = row.output if row.status == "SUCCESS" else (row.attributes or {}).get(LATE)
        if value is None and begun(row):
            value = self._connected().get_event(row.workflow_id, SNAPSHOT, 0)
        return None if value is None else Snapshot.model_validate(value)

    def submit(self, spec: JobSpec, key: str | None) -> Job:
        job_id = str(uuid.uuid4() if key is None else uuid.uuid5(_KEYS, key))
        client = self._connected()
        with client._sys_db.engine.begin() as connection:
            _wait_for_turn(connection)
            if not _count(connection, _ROWS.c.workflow_uuid == job_id):
                waiting = _count(connection, _ROWS.c.queue_name == QUEUE, _ROWS.c.status == "ENQUEUED")
                if waiting >= self._most_queued:
                    detail = f"{waiting} training jobs are waiting already; come back later."
                    raise Busy(detail, code="job_queue_full", retry_after_s=QUEUE_FULL_RETRY_S)
                client.enqueue_in_transaction(connection, _options(job_id, spec), spec.model_dump(mode="json"))
        job = self.get(job_id)
        if job.spec != spec:  # also when two requests with one key came at the same time
            detail = f"The Idempotency-Key was used for another request, job {job_id}."
            raise Conflict(detail, code="idempotency_key_reused")
        return job

    def cancel(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job.status is JobStatus.CANCELLING:
            return job
        if not job.status.ended:
            self._connected().cancel_workflow(job_id)
            job = self.get(job_id)
            if job.status in {JobStatus.CANCELLING, JobStatus.CANCELLED}:
                return job
        raise Conflict(f"The job has ended already: {job.status}.", code="job_ended")

    def jobs(self, since: datetime | None, ids: list[str]) -> list[Job]:
        """The jobs submitted then or later, and those with these ids; in no order."""
        client = self._connected()
        rows = client.list_workflows(name=WORKFLOW, start_time=None if since is None else since.isoformat())
        if ids and since is not None:
            rows += client.list_workflows(name=WORKFLOW, workflow_ids=ids)
        return [self._job(row) for row in {row.workflow_id: row for row in rows}.values()]

    def page(
        self, status: JobStatus | None, task: str | None, limit: int, cursor: str | None
    ) -> tuple[list[Job], str | None]:
        place = None if cursor is None else place_from(cursor)
        jobs: list[Job] = []
        scanned = 0
        while scanned < _MOST_ROWS:
            rows, last = self._rows(place, status, limit + 1)
            for row in rows:
                if task is None or spec_of(row).task == task:
                    job = self._job(row)
                    if status is None or job.status is status:
                        if len(jobs) == limit:
                            return jobs, cursor_of(place)
                        jobs.append(job)
                place = place_of(row)
            if last:
                return jobs, None
            scanned += len(rows)
        return jobs, cursor_of(place)

    def _rows(self, place: Place | None, status: JobStatus | None, about: int) -> tuple[list[WorkflowStatus], bool]:
        """The next rows after `place`, newest first, and whether there are no more.

        The engine sorts by the row's creation alone, which many jobs may share: a group is taken whole or not at all.
        """
        while True:
            rows = self._connected().list_workflows(
                name=WORKFLOW,
                status=None if status is None else ROW_STATUSES[status],
                end_time=None if place is None else moment(place[0] + 1).isoformat(),  # the engine rounds down
                limit=about,
                sort_desc=True,
            )
            last = len(rows) < about
            fresh = [row for row in rows if place is None or place_of(row) < place]
            if not last:
                fresh = [row for row in fresh if row.created_at != rows[-1].created_at]
            if fresh or last:
                return sorted(fresh, key=place_of, reverse=True), last
            about *= 2

    def beats(self) -> dict[str, int]:
        """The training workers that have said they run, and how often; none where none ever did."""
        engine = self._connected()._sys_db.engine
        schema, name = workers_table(self._url)
        if not self._has_workers:
            self._has_workers = sa.inspect(engine).has_table(name, schema)
        if not self._has_workers:
            return {}
        table = sa.table(name, sa.column("name"), sa.column("beat"), schema=schema)
        with engine.connect() as connection:
            return {row.name: row.beat for row in connection.execute(sa.select(table.c.name, table.c.beat))}

    def read(self, job_id: str, offset: int) -> tuple[list[Any], bool]:
        """The stream's values from `offset` that are there now, and whether it will have no more."""
        values: list[Any] = []
        try:
            for value in self._connected().read_stream(job_id, EVENTS, offset=offset, timeout_seconds=0):
                values.append(value)  # noqa: PERF402 (what came before the exception counts)
        except dbos_error.DBOSStreamTimeoutError:
            return values, False
        except dbos_error.DBOSNonExistentWorkflowError:
            raise NotFound(f"There is no job {job_id!r}.", code="job_not_found") from None
        return values, True


def _wait_for_turn(connection: sa.Connection) -> None:
    """Hold up every other submission, of any process, until this transaction ends: what it counts must not change."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver itself would begin at the first change only
    else:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))


def _count(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(_ROWS).where(*conditions)).scalar_one()


def _options(job_id: str, spec: JobSpec) -> EnqueueOptions:
    return {
        "workflow_name": WORKFLOW,
        "queue_name": QUEUE,
        "workflow_id": job_id,
        "app_version": APPLICATION_VERSION,
        "priority": spec.priority,
        "attributes": {SUBMITTED: int(time.time() * 1000)},
    }


def prepare_database(url: str) -> None:
    """Make the job database and its tables if they are not there; safe while others do the same."""
    prepare_file(url)
    event.listen(Engine, "connect", add_missing_functions)
    logging.getLogger("dbos").setLevel(logging.ERROR)
    DBOS.migrate(url)
