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


class Caller(Protocol):
    """A connection."""

    waiting_since: float
    is_receiving: bool

    def time_out(self, limit_s: float) -> None:
        """Hang up on a client that did not send its request in time."""


class Doorkeeper:
    """Looks after the connections of one process.

    A client has `limit_s` seconds for its first byte, and the same from the first byte of a request to its last. At
    most `most` connections are kept: over that those that wait longest for their client are let go.
    """

    def __init__(self, connections: Collection[Any], limit_s: float, most: int | None = None) -> None:
        self._connections = connections
        self._limit_s = limit_s
        self._most = most or max(64, _open_files() - _SPARE_FILES)

    def look(self) -> None:
        """Hang up on everybody whose time is over; call it twice a second."""
        waiting: list[Caller] = [caller for caller in self._connections if caller.is_receiving]
        latest = monotonic() - self._limit_s
        over = len(self._connections) - self._most
        if over > 0:
            log.warning(
                "%d connections are open, %d are too many: the oldest that wait are let go", over + self._most, over
            )
            waiting.sort(key=lambda caller: caller.waiting_since)
        for place, caller in enumerate(waiting):
            if place < over or caller.waiting_since < latest:
                caller.time_out(self._limit_s)


def raise_file_limit() -> None:
    """As many open files as the system lets this process have: each connection is one."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] if sys.platform != "win32" else 8192
