"""The access log: one line a request, when asked for. Who asked for what and how it ended; never what was sent."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from urllib.parse import quote

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.settings import Settings
from service.wire import Header

log = logging.getLogger(__name__)

_LONGEST_PATH = 200


class AccessLog:
    """Writes the lines of one process; queries, headers and bodies stay out of them."""

    def __init__(self) -> None:
        log.setLevel(logging.INFO)  # who asks for it gets it, also with NEUROSERVE_LOG_LEVEL=warning
        trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")  # as uvicorn, for the requests that reach it
        self._proxies = ProxyHeadersMiddleware(_nothing, trusted).trusted_hosts

    def write(  # noqa: PLR0913
        self,
        request_id: bytes,
        method: str,
        path: str,
        *,
        route: str,
        status: int,
        seconds: float,
        key: str | None = None,
        client: str | None = None,
    ) -> None:
        """One answered request: its route's template and its path, the name of its key, the client's address."""
        found = {
            "request_id": request_id.decode(),
            "method": method,
            "path": quote(path)[:_LONGEST_PATH],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "key": key,
            "client": client,
        }
        log.info(
            "%(method)s %(path)s %(status)d in %(ms).1f ms, key %(key)s, from %(client)s, id %(request_id)s",
            {name: "-" if value is None else value for name, value in found.items()},
            extra={"request": found},
        )

    def client(self, peer: tuple[str, int] | None, headers: Iterable[Header]) -> str | None:
        """Whose request came from `peer`: a proxy on this machine says for whom it asks."""
        if peer is None or peer[0] not in self._proxies:
            return peer[0] if peer else None
        said = b", ".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        return (self._proxies.get_trusted_client_address(said)[0] if said else "") or peer[0]


async def _nothing(*_: object) -> None:
    """The application behind no proxy."""


def access_log(settings: Settings) -> AccessLog | None:
    """The log if it was asked for: what is None costs nothing."""
    return AccessLog() if settings.access_log else None
