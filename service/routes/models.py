"""`/models…`: what is in the store, and which version is live."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse

from models.canary import CanaryError, state_of
from models.store import (
    NothingToRollBackError,
    Store,
    StoreError,
    StoreReadError,
    StoreWriteError,
    VersionDamagedError,
    VersionInCanaryError,
    VersionInUseError,
    VersionNotFoundError,
)
from service.errors import Conflict, NotFound, ServiceError, Unavailable
from service.inputs.fields import LARGEST_VERSION
from service.openapi import problem_responses
from service.registry import Registry
from service.schemas import CanaryRef, ModelInfo, ModelList, Promotion

router = APIRouter(prefix="/models", tags=["models"])
_CONFLICTS: dict[type[StoreError], str] = {
    NothingToRollBackError: "nothing_to_roll_back",
    VersionInCanaryError: "version_in_canary",
    VersionInUseError: "version_live",
    VersionDamagedError: "version_damaged",
}
_NOTHING_FROM_OUTSIDE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A report is a page from a model's folder: whatever is in it, a browser runs no script and asks no other host."""


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


TheRegistry = Annotated[Registry, Depends(_registry)]
Version = Annotated[int, InPath(le=LARGEST_VERSION, description="one of the model's versions")]


@router.get("", summary="All models", response_model=ModelList)
async def list_models(registry: TheRegistry) -> Response:
    """Every model in the store with its versions, metrics and provenance, and what answers now."""
    found = [await _told(registry, name) for name in await registry.names()]
    return _json(b'{"models":[' + b",".join(found) + b"]}")


@router.get("/{name}", summary="One model", response_model=ModelInfo, responses=problem_responses(404))
async def get_model(name: str, registry: TheRegistry) -> Response:
    """Versions, metrics, provenance, the live and the previous version, and the provider in use."""
    await _known(registry, name)
    return _json(await _told(registry, name))


@router.post(
    "/{name}/promote",
    summary="Make a version live",
    response_model=ModelInfo,
    responses=problem_responses(400, 404, 409, 413, 422, 503),
)
async def promote(name: str, body: Promotion, registry: TheRegistry) -> Response:
    """Verify the version, make it live in every worker within two seconds, without a failed request."""
    await _known(registry, name)
    await _change(registry, name, registry.store.promote, name, body.version)
    return _json(await _told(registry, name))


@router.post(
    "/{name}/rollback",
    summary="Make the previously live version live again",
    response_model=ModelInfo,
    responses=problem_responses(404, 409, 503),
)
async def rollback(name: str, registry: TheRegistry) -> Response:
    """One step back in the history of live versions."""
    await _known(registry, name)
    await _change(registry, name, registry.store.rollback, name)
    return _json(await _told(registry, name))


@router.delete(
    "/{name}/versions/{version}",
    summary="Remove a version",
    status_code=204,
    responses=problem_responses(404, 409, 422, 503),
)
async def delete_version(name: str, version: Version, registry: TheRegistry) -> Response:
    """Remove a version that is not live from the store."""
    await _known(registry, name)
    await _change(registry, name, registry.store.delete, name, version)
    return Response(status_code=204)


@router.head("/{name}/versions/{version}/report", include_in_schema=False)
@router.get(
    "/{name}/versions/{version}/report",
    summary="Report of a version",
    response_class=FileResponse,
    responses={
        200: {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}},
        **problem_responses(404, 422),
    },
)
async def report(name: str, version: Version, registry: TheRegistry) -> FileResponse:
    """The version's report with pictures, as one HTML page."""
    await _known(registry, name)
    page = await registry.in_store(_report_page, registry.store, name, version)
    return FileResponse(page, media_type="text/html", headers={"Content-Security-Policy": _NOTHING_FROM_OUTSIDE})


async def _known(registry: Registry, name: str) -> None:
    names = await registry.names()
    if name not in names:
        raise NotFound(f"There is no model {name!r}; there are: {', '.join(names)}.", code="model_not_found")


async def _change(registry: Registry, name: str, call: Any, /, *args: Any) -> None:
    """A change of the store, followed by this process at once and by the others when they see it."""
    try:
        await registry.change(call, *args)
    except StoreError as exc:
        raise _refusal(exc, registry.store.root) from None
    await registry.follow(name)


def _refusal(exc: StoreError, root: Path) -> ServiceError:
    if isinstance(exc, VersionNotFoundError):
        return NotFound(f"{exc}.", code="version_not_found")
    if isinstance(exc, StoreWriteError | StoreReadError):
        return Unavailable.store(exc, root)
    code = next((code for kind, code in _CONFLICTS.items() if isinstance(exc, kind)), "store_refused")
    return Conflict(f"{exc}.", code=code)


def _report_page(store: Store, name: str, version: int) -> Path:
    try:
        page = store.folder(name, version) / "report" / "index.html"
    except VersionNotFoundError as exc:
        raise NotFound(f"{exc}.", code="version_not_found") from None
    if not page.is_file():
        raise NotFound(f"{name} version {version} was published without a report.", code="report_not_found")
    return page


async def _told(registry: Registry, name: str) -> bytes:
    """A `ModelInfo` as JSON."""
    slot = registry.loaded(name)
    refused = dict(slot.refused) if slot is not None else {}
    canary = await registry.in_store(_canary, registry.store, name)
    listing = await registry.in_store(registry.catalogue.listing, name)
    newest = listing.newest
    serving = slot.live if slot is not None else None
    info = ModelInfo(
        name=name,
        task=newest.task if newest else None,
        kind=newest.kind if newest else None,
        default=name in registry.defaults.values(),
        live=listing.live,
        previous=listing.previous,
        serving=serving.version if serving is not None else None,
        provider=serving.engine.provider if serving is not None else None,
        swaps=slot.swaps if slot is not None else 0,
        problem=slot.problem() if slot is not None else None,
        canary=canary,
        versions=[],
    )
    return listing.text(info, refused)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _canary(store: Store, name: str) -> CanaryRef | None:
    with contextlib.suppress(CanaryError, StoreError):
        order = state_of(store.root / name).running
        if order is not None and order.against == store.live(name):
            return CanaryRef(version=order.version, percent=order.percent, mode=order.mode)
    return None
