"""`create_app(settings)`: the only place where the parts of the service meet. Importing this builds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.jobs import Recipes
from models.store import Store
from service import methods, openapi
from service.access import access_log
from service.background import Background
from service.decoding import DecodeQueue
from service.device import choose
from service.diskuse import DiskUse
from service.errors import InternalError, InvalidInput, NotFound, ServiceError, UnreadableBody
from service.exchange import Direct
from service.gpu import Gpus
from service.jobs import JobBoard
from service.limits import Limits
from service.metrics import Metrics
from service.middleware import Envelope
from service.oip.errors import refusal
from service.probes import Probes
from service.proxies import Proxied
from service.registry import Registry
from service.routes import canary, drift, infer, models, open_inference, operations, playground, predict, train
from service.security import WATCH_S as KEYS_S
from service.security import Guard
from service.settings import ZOO, Settings
from service.tracing import OFF, NameRequest, Tracing, wanted
from service.wire import not_utf8
from service.workers import threads_for, trainer_mode

VERSION = "0.1.0"
_CODES = {405: "method_not_allowed", 413: "body_too_large", 400: "unreadable_body"}


class Application(FastAPI):
    """FastAPI behind the envelope: what the envelope answers itself never enters FastAPI's own layers."""

    envelope: Envelope
    outermost: Proxied
    direct: Mapping[bytes, Direct]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.outermost(scope, receive, send)


def create_app(settings: Settings) -> Application:
    """The service with its routes; models are loaded and sessions built when it starts."""
    tracing = Tracing(VERSION) if wanted() else None
    app = Application(
        title="neuroserve",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,
        telemetry=tracing.config if tracing is not None else OFF,
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.tracing = tracing
    app.state.guard = Guard(settings)
    app.state.recipes = Recipes.model_validate_json((ZOO / "recipes.json").read_bytes())
    app.state.trainer = trainer_mode(settings)
    app.state.background = Background()
    app.state.registry = Registry(
        Store(settings.store_dir), app.state.recipes, settings, app.state.metrics, app.state.background
    )
    app.state.jobs = JobBoard(settings, app.state.trainer)
    app.state.probes = Probes(app.state.jobs, Gpus(), DiskUse(settings.state))
    app.state.decoding = DecodeQueue(settings, app.state.metrics)
    fast = predict.endpoints(app.state.registry, settings, app.state.decoding)
    tensors = infer.Infer(app.state.registry, settings, app.state.metrics, app.state.decoding)
    app.router.routes.extend([*predict.routes(fast), *infer.routes(tensors)])
    for part in (train, models, canary, drift, operations, open_inference, playground):
        app.include_router(part.router)
    openapi.install(app, settings, closed=app.state.guard.closed)
    for kind in (ServiceError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _render)
    app.envelope = Envelope(
        super(Application, app).__call__,
        app.state.metrics,
        infer.Fast(fast, tensors) if tracing is None else {},
        app.state.guard,
        Limits(settings),
        access_log(settings),
        settings.max_body_bytes,
    )
    app.outermost = Proxied(app.envelope, settings.root_path or "")
    app.direct = infer.Short(predict.short(fast), tensors) if tracing is None else {}
    if tracing is not None:
        app.state.metrics.spans = tracing.spans
        app.add_middleware(NameRequest)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    registry: Registry = app.state.registry
    async with AsyncExitStack() as stack:
        if app.state.tracing is not None:
            stack.push_async_callback(asyncio.to_thread, app.state.tracing.close)
        device = choose(
            settings.device,
            threads_for(settings),
            settings.gpu_mem_limit_bytes,
            cuda_graphs=settings.cuda_graphs,
            tensorrt_cache=settings.tensorrt_cache,
        )
        await asyncio.to_thread(registry.store.seed, Store(ZOO))
        stack.push_async_callback(registry.close)
        await registry.start(device)
        stack.push_async_callback(app.state.jobs.close)
        stack.push_async_callback(app.state.probes.close)
        app.state.guard.origins.look_up_own_name()
        if settings.api_keys_file is not None:
            app.state.background.every("key watcher", KEYS_S, app.state.guard.refresh)
            stack.callback(app.state.background.stop, "key watcher")
        yield


async def _render(request: Request, exc: Exception) -> Response:
    """Any error in the one wire form; OPTIONS, which no route takes, is answered here."""
    error = _as_service_error(exc, request)
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED or request.scope["path"] == methods.EVERYTHING:
        answer = methods.answer_to_other(request)
        if answer is not None:
            return answer
    told = refusal(error, request.scope["path"], request.scope["state"]["request_id"])
    headers = {name.decode(): value.decode() for name, value in told.headers}
    if isinstance(exc, HTTPException) and exc.headers:
        headers.update(exc.headers)
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = methods.allowed(request)
    return Response(told.body, told.status, headers, media_type=told.content_type.decode())


def _as_service_error(exc: Exception, request: Request) -> ServiceError:
    match exc:
        case ServiceError():
            return exc
        case RequestValidationError():
            return _validation_error(exc)
        case HTTPException():
            return _http_error(exc, request)
    return InternalError()


def _validation_error(exc: RequestValidationError) -> ServiceError:
    errors: list[dict[str, Any]] = list(exc.errors())
    if any(error["type"] == "json_invalid" for error in errors):
        return UnreadableBody("The body is not valid JSON.", code="unreadable_json")
    places = [(tuple(error["loc"]), error["msg"]) for error in errors]
    first = ".".join(str(part) for part in places[0][0])
    return InvalidInput(f"{first}: {places[0][1]}.", errors=places)


def _http_error(exc: HTTPException, request: Request) -> ServiceError:
    if isinstance(exc.__cause__, UnicodeDecodeError):
        return not_utf8(exc.__cause__.object) or UnreadableBody("The body is not valid JSON.", code="unreadable_json")
    match exc.status_code:
        case 404:
            return NotFound(f"Nothing is at {request.url.path}; see /docs for what there is.")
        case 405:
            detail = f"{request.method} is not possible at {request.url.path}; see /docs."
        case _:
            detail = str(exc.detail)
    error = ServiceError(detail, code=_CODES.get(exc.status_code, "http_error"))
    error.status, error.title = exc.status_code, HTTPStatus(exc.status_code).phrase
    return error
