"""What clients see of a job: derived from the engine's row, the worker's last snapshot and two attributes.

Pure functions; `jobs.py` does the reading.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from models.jobs import BEGUN, STOPPED, Job, JobSpec, JobStatus, Snapshot
from models.manifest import now
from service.errors import InvalidInput

if TYPE_CHECKING:
    from dbos import WorkflowStatus

SILENT_STOP_S = 10.0
"""A cancelled job counts as stopped after this time even if its worker does not say so: it died as well."""
SUBMITTED = "submitted"
"""Attribute of a job: when it was submitted, in milliseconds since 1970; SQLite's own clock may show only seconds."""
Place = tuple[int, int, str]
"""Where a job stands in the list: the row's creation, its submission, its id."""
_CURSOR = re.compile(r"(\d{1,14})\.(\d{1,14})\.(\S{1,64})")
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
    created = moment(place_of(row)[1])
    started = snapshot.started_at if snapshot else None
    if started is None and row.dequeued_at is not None:
        started = moment(row.dequeued_at)
    if started is not None:
        started = max(started, created)
    finished = None
    if status.ended:
        stopped = (row.attributes or {}).get(STOPPED)
        finished = snapshot.finished_at if snapshot else None
        if finished is None:
            finished = datetime.fromisoformat(stopped) if stopped else moment(row.completed_at or row.updated_at or 0)
        finished = max(finished, started or created)
    return Job(
        id=row.workflow_id,
        status=status,
        spec=spec_of(row),
        created_at=created,
        started_at=started,
        finished_at=finished,
        progress=snapshot.progress if snapshot else None,
        history=snapshot.history if snapshot else [],
        result=snapshot.result if snapshot else None,
        error=error,
    )


def begun(row: WorkflowStatus) -> bool:
    """Whether a worker ever took the job; who puts a job back in the queue by hand resets the engine's own count."""
    return bool(row.recovery_attempts) or BEGUN in (row.attributes or {})


def _status(row: WorkflowStatus, snapshot: Snapshot | None) -> tuple[JobStatus, str | None]:
    if snapshot is not None and snapshot.status.ended:
        return snapshot.status, snapshot.error
    match row.status:
        case "ENQUEUED" | "DELAYED":  # a job that lost its worker waits in the queue again, but has begun
            return (JobStatus.RUNNING if begun(row) else JobStatus.QUEUED), None
        case "PENDING":
            return JobStatus.RUNNING, None
        case "CANCELLED":
            silent = now() - moment(row.completed_at or 0) > timedelta(seconds=SILENT_STOP_S)
            stopped = not begun(row) or silent or STOPPED in (row.attributes or {})
            return (JobStatus.CANCELLED if stopped else JobStatus.CANCELLING), None
        case "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
            return JobStatus.FAILED, "the worker process died again and again while it ran this job"
    return JobStatus.FAILED, f"the worker failed unexpectedly: {row.error}"


def spec_of(row: WorkflowStatus) -> JobSpec:
    """What was asked."""
    return JobSpec.model_validate((row.input or {"args": [{}]})["args"][0])


def moment(epoch_ms: int) -> datetime:
    """Milliseconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(epoch_ms / 1000, UTC)


def place_of(row: WorkflowStatus) -> Place:
    """Sorts as jobs came."""
    created = row.created_at or 0
    return created, int((row.attributes or {}).get(SUBMITTED, created)), row.workflow_id


def cursor_of(place: Place | None) -> str | None:
    """A place as text for the client."""
    return None if place is None else ".".join(map(str, place))


def place_from(cursor: str) -> Place:
    """The place that a client gives back, or InvalidInput."""
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidInput(
            "The cursor is not one that GET /train gave.",
            code="invalid_cursor",
            errors=[(["query", "cursor"], "not a cursor of this list")],
        )
    return int(found[1]), int(found[2]), found[3]
