"""The outermost ASGI layer: an id for every request, every error in its wire form, every answer counted.

Pure ASGI: behind Starlette's `BaseHTTPMiddleware` a handler never hears that its client has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import AccessLog
from service.errors import Busy, InternalError, ServiceError
from service.keys import Key
from service.limits import PAUSE_S, Limits
from service.methods import as_get
from service.metrics import Metrics
from service.oip.errors import refusal
from service.security import Guard, is_prediction
from service.wire import Bounded, ClientGone, check_announced, header, id_of, send_bytes

log = logging.getLogger(__name__)


class Envelope:
    """Wraps the whole application; `scope["state"]["request_id"]` is the request's id inside it.

    A POST to a path of `fast` goes straight to its endpoint, past FastAPI's own layers and its router. What the guard
    refuses gets no further than here.
    """

    limits: Limits

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        fast: Mapping[str, ASGIApp],
        guard: Guard,
        limits: Limits,
        access: AccessLog | None = None,
        most_body_bytes: int = 10 * 2**20,
    ) -> None:
        self.app = app
        self._most_body_bytes = most_body_bytes
        self._guard = guard
        self.limits = limits
        self.access = access
        self._metrics = metrics
        self._fast = fast

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, _plainly(send))
            return
        started = perf_counter()
        request_id = id_of(header(scope, b"x-request-id"))
        method = scope["method"]
        scope, send = as_get(scope, send)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        status = 0
        path = scope["path"]
        endpoint = self._fast.get(path) if scope["method"] == "POST" else None
        origins = self._guard.origins
        for_pages = origins.headers(path, scope["headers"])

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *for_pages, (b"x-request-id", request_id)]
            await send(message)

        try:
            preflight = origins.preflight(scope["method"], path, scope["headers"])
            if preflight is None:
                await self._let_in(endpoint or self._within_limit, scope, receive, send_with_id)
            else:  # a browser sends no key with it
                await send_with_id({"type": "http.response.start", "status": 204, "headers": preflight})
                await send_with_id({"type": "http.response.body", "body": b""})
        except (ClientGone, ClientDisconnect):
            status = 499
        except ServiceError as error:
            await answer_with(error, scope, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id.decode())
            if not status:  # else it has its answer; uvicorn ends the connection of one that broke off
                await answer_with(InternalError(), scope, send_with_id)
        finally:
            route, seconds = path if endpoint else _route(scope), perf_counter() - started
            self._metrics.request(route, status or 499, seconds)
            if self.access is not None:
                self.access.write(
                    request_id,
                    method,
                    path,
                    route=route,
                    status=status or 499,
                    seconds=seconds,
                    key=self._guard.name_of(scope["headers"]),
                    client=scope["client"][0] if scope.get("client") else None,
                )

    async def _let_in(self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to `inner` if the guard and the limits of its key allow it."""
        path, forwarded_host = scope["path"], scope["state"].get("forwarded_host")
        key = self._guard.check(scope["method"], path, scope["headers"], forwarded_host)
        if key is None or not self.limits.any or not is_prediction(path):
            await inner(scope, receive, send)
        else:
            await self._limited(key, inner, scope, receive, send)

    async def _within_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, after a look at the body's length: not every route reads it before it does something."""
        check_announced(scope, self._most_body_bytes)
        await self.app(scope, Bounded(receive, self._most_body_bytes), send)

    async def _limited(self, key: Key, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            place = self.limits.enter(key)
        except Busy:
            await asyncio.sleep(PAUSE_S)
            raise
        try:
            await app(scope, receive, send)
        finally:
            self.limits.leave(place)


def _plainly(send: Send) -> Send:
    """Tell an operator why the start was refused in one sentence, without the trace around it."""

    async def send_plainly(message: Message) -> None:
        *_, last = message.get("message", "").strip().split("\n")
        name, _, sentence = last.partition(": ")
        if message["type"] == "lifespan.startup.failed" and name.endswith("DeviceError"):
            message = {**message, "message": sentence}
        await send(message)

    return send_plainly


async def answer_with(error: ServiceError, scope: Scope, send: Send) -> None:
    """Send an error in the form of its path."""
    told = refusal(error, scope["path"], scope["state"]["request_id"])
    await send_bytes(send, told.status, told.body, told.content_type, told.headers)


def _route(scope: Scope) -> str:
    """The route's template, so that ids in paths do not become labels."""
    route = scope.get("route")
    return str(getattr(route, "path", "unmatched"))
