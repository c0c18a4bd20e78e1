"""Health, metrics and the pages."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from service.metrics import CONTENT_TYPE, Metrics
from service.registry import Registry
from service.schemas import Alive, ModelReadiness, Readiness

router = APIRouter(tags=["operations"])

_STATIC = "/docs/static"


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
        models=models,
    )
    headers = {"Retry-After": "1"} if problems else None
    return JSONResponse(body.model_dump(mode="json"), 503 if problems else 200, headers)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Totals of all workers, in the Prometheus text format."""
    counters: Metrics = request.app.state.metrics
    return Response(counters.render(), media_type=CONTENT_TYPE)


@router.get("/", include_in_schema=False)
async def home(request: Request) -> RedirectResponse:
    """The page that shows what can be called."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")


def add_pages(app: FastAPI) -> None:
    """`/docs` and `/redoc` from files of a package: they work without another host."""
    app.mount(_STATIC, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"), name="docs-static")

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title}: try it",
            swagger_js_url=f"{root}{_STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_STATIC}/favicon.png",
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_redoc_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{app.title}: reference",
            redoc_js_url=f"{root}{_STATIC}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{_STATIC}/favicon.png",
            with_google_fonts=False,
        )
