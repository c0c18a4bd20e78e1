"""Lets go of clients that only hold a connection: who sends no request in time, and the oldest when it is full."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from time import monotonic
from typing import Any, Protocol

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

LOOK_S = 0.5
_SPARE_FILES = 256
"""File descriptors kept for models, databases and whatever else is not a connection."""
RPC_SHARE = 0.25
"""The part of all connections that gRPC may have where it is spoken; HTTP has the rest."""


class Caller(Protocol):
    """A connection."""

    waiting_since: float
    is_receiving: bool
    is_idle: bool

    def time_out(self, limit_s: float) -> None:
        """Hang up on a client that did not send its request in time."""

    def close_idle(self) -> None:
        """Close a connection that no request is on."""

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Whether the client has taken nothing of an answer for so long, or an ended connection had its time."""

    def abort(self) -> None:
        """Drop the connection and whatever was still to be written."""


class Doorkeeper:
    """Looks after the connections of one process.

    A client has `limit_s` seconds for its first byte, the same from the first byte of a request to its last, and the
    same to take something of its answer; `keep_alive_s` seconds from an answer to the next request. At most `most`
    connections are kept: over that those that wait longest for their client are let go.
    """

    def __init__(
        self, connections: Collection[Any], limit_s: float, most: int | None = None, *, keep_alive_s: float = 75.0
    ) -> None:
        self._connections = connections
        self._limit_s = limit_s
        self._keep_alive_s = keep_alive_s
        self._most = most or most_connections()

    def look(self) -> None:
        """Hang up on everybody whose time is over; call it twice a second."""
        now = monotonic()
        waiting: list[Caller] = []
        for caller in list(self._connections):
            if caller.is_stuck(now, self._limit_s):
                caller.abort()
            elif caller.is_receiving or caller.is_idle:
                waiting.append(caller)
        over = len(self._connections) - self._most
        if over > 0:
            log.warning(
                "%d connections are open, %d are too many: the oldest that wait are let go", over + self._most, over
            )
            waiting.sort(key=lambda caller: caller.waiting_since)
        for place, caller in enumerate(waiting):
            waited_s = now - caller.waiting_since
            if caller.is_receiving and (place < over or waited_s > self._limit_s):
                caller.time_out(self._limit_s)
            elif caller.is_idle and (place < over or waited_s > self._keep_alive_s):
                caller.close_idle()


def most_connections(share: float = 1.0) -> int:
    """How many connections one process keeps, of one kind if `share` is less than all."""
    return max(64, int(share * (_open_files() - _SPARE_FILES)))


def raise_file_limit() -> None:
    """As many open files as the system lets this process have: each connection is one."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if sys.platform != "win32" else 8192
