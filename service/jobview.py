"""What clients see of a job: derived from the engine's row, the worker's last snapshot and two attributes.

Pure functions; `jobs.py` does the reading.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from dbos import WorkflowStatus

from models.jobs import STOPPED, Job, JobSpec, JobStatus, Snapshot
from models.manifest import now
from service.errors import InvalidInput

SILENT_STOP_S = 10.0
"""A cancelled job counts as stopped after this time even if its worker does not say so: it died as well."""
Place = tuple[int, str]
"""Where a job stands in the list: its creation in milliseconds since 1970, then its id."""
_CURSOR = re.compile(r"(\d{1,14})\.(\S{1,64})")
_ENDINGS = ["SUCCESS", "CANCELLED"]
ROW_STATUSES: dict[JobStatus, list[str]] = {
    JobStatus.QUEUED: ["ENQUEUED", "DELAYED"],
    JobStatus.RUNNING: ["ENQUEUED", "PENDING"],
    JobStatus.CANCELLING: ["CANCELLED"],
    JobStatus.CANCELLED: ["CANCELLED"],
    JobStatus.SUCCEEDED: _ENDINGS,
    JobStatus.REJECTED: _ENDINGS,
    JobStatus.FAILED: [*_ENDINGS, "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
}
"""The engine's statuses that a job of each status may have."""


def job_of(row: WorkflowStatus, snapshot: Snapshot | None) -> Job:
    """The job as clients see it, from the engine's row and what the worker last said."""
    status, error = _status(row, snapshot)
    finished = None
    if status.ended:
        stopped = (row.attributes or {}).get(STOPPED)
        finished = snapshot.finished_at if snapshot else None
        if finished is None:
            finished = datetime.fromisoformat(stopped) if stopped else moment(row.completed_at or row.updated_at or 0)
    started = snapshot.started_at if snapshot else None
    if started is None and row.dequeued_at is not None:
        started = moment(row.dequeued_at)
    return Job(
        id=row.workflow_id,
        status=status,
        spec=spec_of(row),
        created_at=moment(row.created_at or 0),
        started_at=started,
        finished_at=finished,
        progress=snapshot.progress if snapshot else None,
        history=snapshot.history if snapshot else [],
        result=snapshot.result if snapshot else None,
        error=error,
    )


def _status(row: WorkflowStatus, snapshot: Snapshot | None) -> tuple[JobStatus, str | None]:
    if snapshot is not None and snapshot.status.ended:
        return snapshot.status, snapshot.error
    match row.status:
        case "ENQUEUED" | "DELAYED":  # a job that lost its worker waits in the queue again, but has begun
            return (JobStatus.QUEUED if snapshot is None else JobStatus.RUNNING), None
        case "PENDING":
            return JobStatus.RUNNING, None
        case "CANCELLED":
            begun = snapshot is not None or bool(row.recovery_attempts)
            silent = now() - moment(row.completed_at or 0) > timedelta(seconds=SILENT_STOP_S)
            stopped = not begun or silent or STOPPED in (row.attributes or {})
            return (JobStatus.CANCELLED if stopped else JobStatus.CANCELLING), None
        case "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
            return JobStatus.FAILED, "the worker process died again and again while it ran this job"
    return JobStatus.FAILED, f"the worker failed unexpectedly: {row.error}"


def spec_of(row: WorkflowStatus) -> JobSpec:
    return JobSpec.model_validate((row.input or {"args": [{}]})["args"][0])


def moment(epoch_ms: int) -> datetime:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def place_of(row: WorkflowStatus) -> Place:
    return row.created_at or 0, row.workflow_id


def cursor_of(place: Place | None) -> str | None:
    return None if place is None else f"{place[0]}.{place[1]}"


def place_from(cursor: str) -> Place:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidInput(
            "The cursor is not one that GET /train gave.",
            code="invalid_cursor",
            errors=[(["query", "cursor"], "not a cursor of this list")],
        )
    return int(found[1]), found[2]
