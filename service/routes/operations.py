"""Health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.metrics import CONTENT_TYPE, Metrics
from service.probes import Probes
from service.registry import Registry
from service.schemas import Alive, ModelReadiness, Readiness

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Is the process alive")
async def live() -> Alive:
    """200 while the process can answer; touches no model and no thread pool."""
    return Alive()


@router.get(
    "/health/ready",
    summary="Is every default model ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready; `models` says which and why"}},
)
async def ready(request: Request) -> JSONResponse:
    """200 only when every default model is loaded, warmed and on the asked-for device."""
    registry: Registry = request.app.state.registry
    models = {}
    for name in registry.defaults.values():
        slot = registry.loaded(name)
        serving = slot.live if slot is not None else None
        models[name] = ModelReadiness(
            ready=serving is not None and slot is not None and slot.fault is None,
            version=serving.version if serving is not None else None,
            provider=serving.engine.provider if serving is not None else None,
            problem=slot.problem() if slot is not None else "it is not loaded yet",
        )
    problems = registry.problems()
    body = Readiness(
        status="not_ready" if problems else "ready",
        device=registry.device.mode,
        device_note=registry.device.reason or None,
        trainer=request.app.state.trainer,
        detail="; ".join(registry.background.dead().values()) or None,
        models=models,
    )
    headers = {"Retry-After": "1"} if problems else None
    return JSONResponse(body.model_dump(mode="json"), 503 if problems else 200, headers)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Totals of all workers, in the Prometheus text format."""
    counters: Metrics = request.app.state.metrics
    probes: Probes = request.app.state.probes
    return Response(counters.render(await probes.families()), media_type=CONTENT_TYPE)
