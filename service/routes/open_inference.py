"""`/v2…`, the Open Inference Protocol: what there is, whether it is ready, and what it has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Path, Request

from service.errors import Unavailable
from service.metrics import Metrics
from service.oip import schemas, views
from service.oip.docs import error_responses
from service.oip.door import version_of
from service.oip.errors import NotOffered, invalid
from service.oip.statistics import of_all, of_model
from service.registry import Registry
from service.settings import Settings
from service.wire import parse_json

router = APIRouter(prefix="/v2", tags=["open inference"])
Name = Annotated[str, Path(description="a model of GET /models", examples=["digit-cnn"])]
Version = Annotated[str, Path(description="a version of it; without one, the live version", examples=["3"])]
_NO_SHARED_MEMORY = "Shared memory is not offered here; send the tensors in the request."
_NO_TRACE = "Tracing is not set here."
_NO_TEXT = "No model here generates text."
_INDEX_BODY = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"ready": {"type": "boolean", "default": False}}},
                "example": {"ready": True},
            }
        },
    }
}


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


TheRegistry = Annotated[Registry, Depends(_registry)]


@router.get("", summary="Who answers", response_model=schemas.ServerMetadata)
async def server(request: Request) -> dict[str, Any]:
    """The server's name and version, and the extensions of the protocol it knows."""
    return views.server(request.app.version)


@router.get("/health/live", summary="Is the process alive", response_model=schemas.ServerLive)
async def live() -> dict[str, bool]:
    """200 while the process can answer."""
    return {"live": True}


@router.get(
    "/health/ready",
    summary="Can every default model answer",
    response_model=schemas.ServerReady,
    responses=error_responses(503),
)
async def ready(registry: TheRegistry) -> dict[str, bool]:
    """200 when every default model can answer, else 503 with the reason."""
    problems = registry.problems()
    if problems:
        raise Unavailable("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
    return {"ready": True}


@router.get("/models/stats", summary="Figures of all models", response_model=schemas.Statistics)
async def all_stats(request: Request) -> dict[str, Any]:
    """Every version that has run since the start, totals of all workers."""
    metrics: Metrics = request.app.state.metrics
    return of_all(metrics.totals())


@router.post(
    "/repository/index", summary="What is in the store", response_model=list[schemas.IndexEntry],
    responses=error_responses(400, 413), openapi_extra=_INDEX_BODY,
)  # fmt: skip
async def index(request: Request, registry: TheRegistry) -> list[dict[str, str]]:
    """Every version of every model, with `ready` only those that answer when asked for."""
    body = await request.body()
    asked = parse_json(body) if body.strip() else {}
    if not isinstance(asked, dict) or not isinstance(asked.get("ready", False), bool):
        raise invalid("The body must be empty, or an object with `ready`, true or false.")
    return await views.index(registry, only_ready=asked.get("ready", False))


# ---------------------------------------------------------------------- of one model, or of one version of it


async def _metadata(request: Request, name: str, version: int | None) -> dict[str, Any]:
    """Inputs and outputs, as requests name them."""
    return views.metadata(*await views.manifest_of(_registry(request), name, version))


async def _ready(request: Request, name: str, version: int | None) -> dict[str, Any]:
    """200 when it can answer; it is loaded for that if it was not."""
    slot = await _registry(request).slot(name)
    await slot.get(version)
    return {"name": name, "ready": True}


async def _config(request: Request, name: str, version: int | None) -> dict[str, Any]:
    """Triton's ModelConfig: batching, and the tensors of one row."""
    settings: Settings = request.app.state.settings
    manifest, _ = await views.manifest_of(_registry(request), name, version)
    return views.config(manifest, settings.max_batch_items, settings.max_batch_rows, settings.max_wait_ms)


async def _stats(request: Request, name: str, version: int | None) -> dict[str, Any]:
    """Requests, rows and batches since the service's start, and the times they took; totals of all workers."""
    manifest, versions = await views.manifest_of(_registry(request), name, version)
    metrics: Metrics = request.app.state.metrics
    return of_model(metrics.totals(), manifest, versions if version is None else [])


_View = Callable[[Request, str, int | None], Awaitable[dict[str, Any]]]


def _add(path: str, view: _View, summary: str, model: Any) -> None:
    """The view of the live version, and that of a version named in the path."""
    operation = f"model{view.__name__}"

    async def of_model(request: Request, name: Name) -> dict[str, Any]:
        return await view(request, name, None)

    async def of_version(request: Request, name: Name, version: Version) -> dict[str, Any]:
        return await view(request, name, version_of(version, name))

    for place, called, more in (("", of_model, ""), ("/versions/{version}", of_version, "_by_version")):
        router.add_api_route(
            f"/models/{{name}}{place}{path}",
            called,
            summary=f"{summary}{', of one version' if more else ''}",
            description=view.__doc__,
            operation_id=operation + more,
            response_model=model,
            responses=error_responses(404, 503),
        )


_add("", _metadata, "A model's tensors", schemas.ModelMetadata)
_add("/ready", _ready, "Can a model answer", schemas.ModelReady)
_add("/config", _config, "A model's configuration", dict[str, Any])
_add("/stats", _stats, "A model's figures", schemas.Statistics)


# ---------------------------------------------------------------------- what is not offered

_NOT_OFFERED = {
    "/repository/models/{name}/load": "A model cannot be loaded by name here: promote a version at /models.",
    "/repository/models/{name}/unload": "A model cannot be unloaded here.",
    "/systemsharedmemory/{rest:path}": _NO_SHARED_MEMORY,
    "/cudasharedmemory/{rest:path}": _NO_SHARED_MEMORY,
    "/trace/setting": _NO_TRACE,
    "/models/{name}/trace/setting": _NO_TRACE,
    "/logging": "Logging is set where the service is started, by NEUROSERVE_LOG_LEVEL and NEUROSERVE_LOG_FORMAT.",
    "/models/{name}/generate": _NO_TEXT,
    "/models/{name}/generate_stream": _NO_TEXT,
}


def _refuse(path: str, sentence: str) -> None:
    async def refuse() -> NoReturn:
        raise NotOffered(sentence)

    router.add_api_route(path, refuse, methods=["GET", "POST"], include_in_schema=False, response_model=None)


for _path, _sentence in _NOT_OFFERED.items():
    _refuse(_path, _sentence)
