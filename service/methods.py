"""HEAD wherever GET is, OPTIONS everywhere, and the methods that a path allows."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, compile_path
from starlette.types import Message, Scope, Send

EVERYTHING = "*"
"""The path of a request that asks about the server and not about one thing of it."""
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


def as_get(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """A HEAD request as the GET that it stands for, and where its answer goes: the head alone, and then the end.

    Any other request stays what it is.
    """
    if scope["method"] != "HEAD":
        return scope, send
    is_told = False

    async def send_head(message: Message) -> None:
        nonlocal is_told
        if is_told:
            return
        is_told = True
        await send(message)
        await send({"type": "http.response.body", "body": b""})  # at once: an event stream would never end

    return {**scope, "method": "GET"}, send_head


def answer_to_other(request: Request) -> Response | None:
    """The answer to OPTIONS where no route takes it; None for every other method that is not possible."""
    if request.method != "OPTIONS":
        return None
    return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": allowed(request)})


def allowed(request: Request) -> str:
    """What is possible at a path, as the document says; Starlette tells the methods of the first of its routes only."""
    path = request.scope["path"]
    found = set(_METHODS) if path == EVERYTHING else _in_document(request, path) or _in_routes(request)
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted({*found, "OPTIONS"}))


def _in_document(request: Request, path: str) -> set[str]:
    paths = request.app.openapi()["paths"]
    templates = [template for template in paths if compile_path(template)[0].match(path)]
    if not templates:
        return set()
    return {method.upper() for method in paths[min(templates, key=lambda each: each.count("{"))]}


def _in_routes(request: Request) -> set[str]:
    routes: list[BaseRoute] = request.app.router.routes
    return {
        method
        for method in _METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    }
