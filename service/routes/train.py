"""`/train…`: submit, list, watch and cancel training jobs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel, ConfigDict, Field

from models.jobs import (
    MIDDLE_PRIORITY,
    Job,
    JobEvent,
    JobSpec,
    JobStatus,
    NetworkRecipe,
    Promote,
    Range,
    Recipes,
    WarningsEvent,
)
from service.errors import InvalidInput
from service.jobs import JobBoard
from service.openapi import problem_responses
from service.proxies import prefix_of
from service.settings import Settings

KEEPALIVE_S = 15.0
RETRY_MS = 2000
_SPEC: dict[str, Any] = {
    "task": "digit",
    "network": "cnn",
    "epochs": 5,
    "batch_size": 128,
    "learning_rate": 0.001,
    "seed": 0,
    "promote": "if_better",
    "priority": 5,
    "time_limit_s": None,
}
_EXAMPLE: dict[str, Any] = {
    "id": "0b9f6a3e-6f0b-5d7c-9a51-0a5b8f3c2d11",
    "status": "running",
    "spec": _SPEC,
    "created_at": "2026-11-23T08:00:00.100000Z",
    "started_at": "2026-11-23T08:00:00.530000Z",
    "finished_at": None,
    "progress": {"epoch": 2, "epochs": 5, "step": 412, "steps": 430, "eta_s": 31.0},
    "history": [{"epoch": 1, "train_loss": 0.21, "val_loss": 0.07, "val_metric": 0.981, "seconds": 11.2}],
    "result": None,
    "error": None,
}
_STREAM_EXAMPLE = (
    'event: status\ndata: {"at":"2026-11-23T08:00:00.100000Z","status":"queued"}\nid: 1\n\n'
    'event: epoch\ndata: {"at":"2026-11-23T08:00:12.300000Z","row":{"epoch":1,"train_loss":0.21,"val_loss":0.07,'
    '"val_metric":0.981,"seconds":11.2},"stopped_early":false}\nid: 14\n\n'
)

_QUEUED = "Queued; `Location` is the job, `warnings` say what it lacks, such as a worker (`no_worker`)"

router = APIRouter(prefix="/train", tags=["train"])


class TrainRequest(BaseModel):
    """What to train; everything but `task` has a default, see `GET /train/recipes`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [_SPEC, {"task": "digit"}]},
    )

    task: str = Field(max_length=64, description="a task of `GET /train/recipes`")
    network: str | None = Field(None, max_length=64, description="default: the task's default network")
    epochs: int | None = Field(None, description="passes over the training data; it may stop earlier")
    batch_size: int | None = Field(None, description="rows of one step")
    learning_rate: float | None = Field(None, allow_inf_nan=False, description="the highest of the schedule")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="the same seed on the same machine gives the same weights")
    promote: Promote = Field(
        "if_better",
        description="`if_better`: live when the gate passes it; `manual`: published only; `always`: live without the "
        "comparison with the best version that was ever live, which it replaces as the gate's reference",
    )
    priority: int = Field(
        MIDDLE_PRIORITY, ge=1, le=10, description="1 to 10: of the waiting jobs the lowest number runs first"
    )
    time_limit_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds the job may run before it counts as failed; waiting does not count. "
        "Default, and the most: NEUROSERVE_JOB_TIME_LIMIT_S",
    )


class JobList(BaseModel):
    """One page of jobs, newest first."""

    jobs: list[Job]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; `null` on the last")


def _board(request: Request) -> JobBoard:
    board: JobBoard = request.app.state.jobs
    return board


def _recipes(request: Request) -> Recipes:
    recipes: Recipes = request.app.state.recipes
    return recipes


def _longest_s(request: Request) -> float:
    settings: Settings = request.app.state.settings
    return settings.job_time_limit_s


Board = Annotated[JobBoard, Depends(_board)]
TheRecipes = Annotated[Recipes, Depends(_recipes)]
LongestS = Annotated[float, Depends(_longest_s)]
JobId = Annotated[str, Path(description="the job's `id`", examples=[_EXAMPLE["id"]])]


def _shows(code: int, description: str, **changes: Any) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"example": {**_EXAMPLE, **changes}}}
    return {code: {"description": description, "content": content}}


@router.post(
    "",
    status_code=202,
    summary="Train a network",
    response_model=Job,
    responses={
        **_shows(
            202,
            "Queued; `Location` is the job, `warnings` say what it lacks",
            status="queued",
            started_at=None,
            progress=None,
            history=[],
        ),
        **problem_responses(400, 409, 413, 422, 429, 503),
    },
)
async def submit(
    body: TrainRequest,
    board: Board,
    recipes: TheRecipes,
    longest_s: LongestS,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="the same key gives the same job, however often it is sent"),
    ] = None,
) -> Job:
    """Queue a durable job: it trains, exports, checks parity, passes the quality gate and publishes a version.

    It survives the death of the service, of its worker and of its training process, and goes on from its last epoch.
    """
    job = await board.submit(spec_of(body, recipes, longest_s), idempotency_key)
    response.headers["Location"] = f"{prefix_of(request.scope)}/train/{job.id}"
    return job


@router.get("/recipes", summary="What can be trained", response_model=Recipes)
async def list_recipes(recipes: TheRecipes) -> Recipes:
    """Tasks and their networks, the default first, with defaults and the allowed ranges, both ends included."""
    return recipes


@router.get("", summary="All jobs", response_model=JobList, responses=problem_responses(422, 503))
async def list_jobs(
    board: Board,
    status: Annotated[JobStatus | None, Query(description="only jobs of this status")] = None,
    task: Annotated[str | None, Query(max_length=64, description="only jobs of this task")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="most jobs of one page")] = 20,
    cursor: Annotated[str | None, Query(max_length=128, description="`next_cursor` of the page before")] = None,
) -> JobList:
    """Newest first."""
    jobs, following = await board.page(status, task, limit, cursor)
    return JobList(jobs=jobs, next_cursor=following)


@router.get(
    "/{job_id}",
    summary="One job",
    response_model=Job,
    responses={**_shows(200, "The job"), **problem_responses(404, 503)},
)
async def get_job(job_id: JobId, board: Board) -> Job:
    """How far it is, what each epoch gave, and in the end its result or its error."""
    return await board.get(job_id)


@router.delete(
    "/{job_id}",
    status_code=202,
    summary="Cancel a job",
    response_model=Job,
    responses={
        **_shows(202, "`cancelling`, or `cancelled` if it was waiting", status="cancelling"),
        **problem_responses(404, 409, 503),
    },
)
async def cancel_job(job_id: JobId, board: Board) -> Job:
    """A running job stops within two seconds; one that is just being published may still succeed."""
    return await board.cancel(job_id)


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events `status`, `progress`, `epoch`, `log`; after `done` the stream ends. "
            "`warnings` has no id: all that are true now, such as `no_worker`",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE}},
        },
        204: {"description": "`Last-Event-ID` was the last event: there is nothing more to come"},
        **problem_responses(404, 422, 503),
    },
)
async def follow_job(
    job_id: JobId,
    board: Board,
    last_event_id: Annotated[
        str, Header(pattern=r"^\d{1,15}$", description="go on after this event, as browsers do by themselves")
    ] = "0",
) -> Response:
    """Every event of the job from its beginning, each once and in order, then the news as they come."""
    events = board.events(job_id, int(last_event_id))
    first = await anext(events, _END)  # an unknown job is a 404 now, not a broken stream later
    if first is _END:
        return Response(status_code=204)  # makes a browser's EventSource stop reconnecting
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_stream(first, events), headers=headers)


_END: Any = object()
Told = JobEvent | WarningsEvent


async def _stream(first: tuple[int, Told] | None, rest: AsyncIterator[tuple[int, Told] | None]) -> AsyncIterator[bytes]:
    """The events on the wire, with a comment now and then so that no proxy takes silence for death."""
    yield format_sse_event(retry=RETRY_MS)
    if first is not None:
        yield _wire(*first)
    spoke = time.monotonic()
    async for event in rest:
        if event is not None:
            yield _wire(*event)
        elif time.monotonic() - spoke < KEEPALIVE_S:
            continue
        else:
            yield KEEPALIVE_COMMENT
        spoke = time.monotonic()


def _wire(place: int, event: Told) -> bytes:
    number = str(place) if place else None  # what has no place must not move the client's own
    return format_sse_event(data_str=event.model_dump_json(exclude={"type"}), event=event.type, id=number)


# ---------------------------------------------------------------------- from a request to a spec


def spec_of(body: TrainRequest, recipes: Recipes, longest_s: float) -> JobSpec:
    """The full job, defaults filled in from the recipe; InvalidInput names a task, network or range that is not.

    `longest_s` is the most that the job may ask for as its time limit.
    """
    task = recipes.tasks.get(body.task)
    if task is None:
        raise _unknown("task", body.task, list(recipes.tasks))
    name = task.default_network if body.network is None else body.network
    network = task.networks.get(name)
    if network is None:
        raise _unknown("network", name, list(task.networks))
    as_asked = body.model_dump(include={"task", "seed", "promote", "priority", "time_limit_s"})
    return JobSpec(network=name, **as_asked, **_numbers(body, network, longest_s))


def _numbers(body: TrainRequest, network: NetworkRecipe, longest_s: float) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    errors: list[tuple[tuple[str, str], str]] = []
    if body.time_limit_s is not None and body.time_limit_s > longest_s:
        errors.append((("body", "time_limit_s"), f"must be at most {longest_s:g}, NEUROSERVE_JOB_TIME_LIMIT_S"))
    ranges: dict[Literal["epochs", "batch_size", "learning_rate"], Range] = {
        "epochs": network.epochs,
        "batch_size": network.batch_size,
        "learning_rate": network.learning_rate,
    }
    for field, allowed in ranges.items():
        given = getattr(body, field)
        number = allowed.default if given is None else given
        if not allowed.min <= number <= allowed.max:
            errors.append((("body", field), f"must be from {allowed.min:g} to {allowed.max:g}"))
        numbers[field] = number if field == "learning_rate" else int(number)
    if errors:
        detail = "; ".join(f"{loc[1]} {message}" for loc, message in errors)
        raise InvalidInput(f"{detail}.", code="out_of_range", errors=errors)
    return numbers


def _unknown(field: str, name: str, known: list[str]) -> InvalidInput:
    message = f"There is no {field} {name!r}; there are: {', '.join(known)}."
    return InvalidInput(message, code=f"unknown_{field}", errors=[(("body", field), message)])
