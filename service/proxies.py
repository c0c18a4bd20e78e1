"""What stands in front of the service: proxies that say for whom they ask, under which name and which path.

Their headers count only from the addresses in FORWARDED_ALLOW_IPS, as uvicorn has it: this machine by default.
"""

from __future__ import annotations

import os
import re
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.origins import forwarded_hosts

_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")
_LONGEST_PREFIX = 256
_SAID = frozenset({b"x-forwarded-host", b"x-forwarded-prefix"})
_OWN = ("predict", "train", "models", "v1", "v2", "health", "metrics", "docs", "redoc", "openapi.json", "playground")
"""How paths of this service begin: such a path is never taken for one with a prefix."""


def parse_prefix(given: str) -> str:
    """A path prefix with a slash before it and none behind; empty for none. ValueError with a sentence for no path."""
    prefix = given.strip().rstrip("/")
    if not prefix:
        return ""
    prefix = prefix if prefix.startswith("/") else f"/{prefix}"
    if len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{given!r} is not a path; give the part that the proxy takes away, such as /api/neuro")
    return prefix


def prefix_of(scope: Scope) -> str:
    """The path under which clients see this service; empty when it is the whole host."""
    return str(scope.get("state", {}).get("prefix", ""))


class Proxied:
    """Wraps the application; tells it the prefix, the forwarded host, and the path without prefix or last slash.

    `scope["state"]` holds `prefix`, `forwarded_host` and `has_last_slash` inside it.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._proxies = ProxyHeadersMiddleware(cast("Any", app), os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"))
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._read(scope)
        await self._proxies(cast("Any", scope), cast("Any", receive), cast("Any", send))

    def _read(self, scope: Scope) -> None:
        state = scope.setdefault("state", {})
        prefix = self._root_path
        said = {name: value for name, value in scope["headers"] if name in _SAID}
        if said and scope.get("client") and scope["client"][0] in self._proxies.trusted_hosts:
            for host in forwarded_hosts(said.items()):
                state["forwarded_host"] = host
            prefix = _forwarded(said.get(b"x-forwarded-prefix")) or prefix
        state["prefix"] = prefix
        path = scope["path"] or "/"
        if prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}:
            path = (path[len(prefix) :] or "/") if path.split("/", 2)[1] not in _OWN else path
        state["has_last_slash"] = len(path) > 1 and path.endswith("/")
        scope["path"] = path[:-1] if state["has_last_slash"] else path


def _forwarded(given: bytes | None) -> str:
    """The prefix that proxies say: several proxies' parts, outermost first, are one path."""
    parts = (given or b"").decode("latin-1").split(",")
    try:
        return parse_prefix("".join(parse_prefix(part) for part in parts))
    except ValueError:
        return ""
