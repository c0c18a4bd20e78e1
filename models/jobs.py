"""The job contract: what a training job is asked, the states it goes through and the events it tells.

Both wings speak it: the service enqueues a `JobSpec` and reads events; the worker and its child write them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer

APPLICATION = "neuroserve"
APPLICATION_VERSION = "1"
QUEUE = "train"
WORKFLOW = "train"
EVENTS = "events"  # the stream of a job's events
SNAPSHOT = "snapshot"  # the key of a running job's latest Snapshot
BEGUN = "begun"  # attribute of a job that was given back to the queue: it has a snapshot
STOPPED = "stopped"  # attribute of a cancelled job: its child is gone
LATE = "late"  # attribute of a job cancelled too late: the Snapshot it ended with
TRIES = "tries"  # attribute of a job: how many workers in a row took it and died before anything of it was finished
MIDDLE_PRIORITY = 5

Promote = Literal["if_better", "manual", "always"]


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # accepted, durable, waiting for a worker
    RUNNING = "running"  # a worker has it
    CANCELLING = "cancelling"  # the client said stop, the child still lives
    SUCCEEDED = "succeeded"  # a version is in the store
    REJECTED = "rejected"  # trained, and the gate refused it
    FAILED = "failed"  # ended by an error, see `error`
    CANCELLED = "cancelled"  # ended by the client

    @property
    def ended(self) -> bool:
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.CANCELLING, JobStatus.SUCCEEDED, JobStatus.REJECTED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    # A cancellation that arrives while the version is being published comes too late.
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED, JobStatus.SUCCEEDED, JobStatus.REJECTED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.REJECTED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


class JobRecord(BaseModel):
    """Frozen, closed records, as everywhere on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobSpec(JobRecord):
    """What to train, with every default filled in from the recipe."""

    task: str
    network: str
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    seed: Annotated[int, Field(ge=0)] = 0
    promote: Promote = "if_better"
    priority: Annotated[int, Field(ge=1, le=10)] = MIDDLE_PRIORITY  # 1 runs first
    time_limit_s: Annotated[float, Field(gt=0)] | None = None


class Range(JobRecord):
    """Default and inclusive bounds of one number a client may set."""

    default: float
    min: float
    max: float


class NetworkRecipe(JobRecord):
    """One network of a task: the model it makes and its own defaults."""

    model: str
    summary: str
    epochs: Range
    batch_size: Range
    learning_rate: Range


class TaskRecipe(JobRecord):
    """One task: its networks by name, the default first."""

    summary: str
    kind: Literal["image", "text", "series"]
    default_network: str
    metric: str
    metric_higher_is_better: bool
    networks: dict[str, NetworkRecipe]


class Recipes(JobRecord):
    """What can be trained; `training` writes it as data, the service checks requests against it."""

    tasks: dict[str, TaskRecipe]


class Progress(JobRecord):
    """How far the running epoch is; `eta_s` is None until it can be told."""

    epoch: int
    epochs: int
    step: int
    steps: int
    eta_s: float | None = None


class EpochRow(JobRecord):
    """One finished epoch."""

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    seconds: float


class JobModel(JobRecord):
    name: str
    version: int
    live: bool


class JobGateCheck(JobRecord):
    """One rule of the gate: whether the candidate passed it, a sentence, and the measured value beside its limit."""

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None


class JobGate(JobRecord):
    """The gate's verdict: a check for each rule, failed ones first, and the figures of both versions that it rests on.

    `reasons` are the sentences of the checks. `compared_with` is the reference version, or the live one where there was
    no reference.
    """

    passed: bool
    reasons: list[str]
    compared_with: int | None = None
    checks: list[JobGateCheck] = []
    figures: dict[str, Any] = {}


class JobResult(JobRecord):
    """`model` is None when the gate refused the candidate."""

    model: JobModel | None
    metrics: dict[str, Any]
    gate: JobGate


class Snapshot(JobRecord):
    """What the worker knows of a job: rewritten while it runs, and what its workflow returns when it ends."""

    status: JobStatus
    started_at: datetime
    finished_at: datetime | None = None
    progress: Progress | None = None
    history: list[EpochRow] = []
    result: JobResult | None = None
    error: str | None = None


class JobWarning(JobRecord):
    """Something that keeps a job from going on: a stable code, and a sentence for people."""

    code: str
    detail: str


class StatusEvent(JobRecord):
    type: Literal["status"] = "status"
    at: datetime
    status: JobStatus


class ProgressEvent(JobRecord):
    type: Literal["progress"] = "progress"
    at: datetime
    progress: Progress


class EpochEvent(JobRecord):
    type: Literal["epoch"] = "epoch"
    at: datetime
    row: EpochRow
    stopped_early: bool = False


class LogEvent(JobRecord):
    type: Literal["log"] = "log"
    at: datetime
    level: Literal["info", "warning", "error"] = "info"
    message: str


class DoneEvent(JobRecord):
    type: Literal["done"] = "done"
    at: datetime
    status: JobStatus
    result: JobResult | None = None
    error: str | None = None


class WarningsEvent(JobRecord):
    """All warnings of a job that are true now; none when the last one no longer is. It has no place in the order."""

    type: Literal["warnings"] = "warnings"
    at: datetime
    warnings: list[JobWarning]


Stage = Literal["data", "fit", "export", "parity", "evaluate", "candidate"]


class StageEvent(JobRecord):
    """From the child only: a stage has finished; `candidate` carries the folder of the unpublished version."""

    type: Literal["stage"] = "stage"
    at: datetime
    stage: Stage
    path: str | None = None


ErrorCode = Literal["out_of_memory"]


class ErrorEvent(JobRecord):
    """From the child only: it gives up, and why, in one sentence for the client."""

    type: Literal["error"] = "error"
    at: datetime
    message: str
    code: ErrorCode | None = None


JobEvent = Annotated[
    StatusEvent | ProgressEvent | EpochEvent | LogEvent | DoneEvent | StageEvent | ErrorEvent,
    Field(discriminator="type"),
]
JOB_EVENT: TypeAdapter[JobEvent] = TypeAdapter(JobEvent)


class Job(JobRecord):
    """A job as clients see it; times in UTC."""

    id: str
    status: JobStatus
    spec: JobSpec
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    history: list[EpochRow] = []
    result: JobResult | None = None
    error: str | None = None
    warnings: list[JobWarning] = []

    @model_serializer(mode="wrap")
    def _only_when_there_are_some(self, serialize: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        """Leave the field `warnings` out when there are none; a return annotation would hide all fields from /docs."""
        found = serialize(self)
        if not found["warnings"]:
            del found["warnings"]
        return found
