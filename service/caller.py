"""Who waits for an answer, and until when: what every step of a request asks before it does work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple


class Caller(NamedTuple):
    """Whether the client has left, and the request's deadline in seconds of the event loop's clock."""

    gone: Callable[[], bool]
    deadline: float

    def left_s(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.deadline - asyncio.get_running_loop().time()


def arrived(gone: Callable[[], bool], timeout_s: float) -> Caller:
    """The caller of a request that has just arrived."""
    return Caller(gone, asyncio.get_running_loop().time() + timeout_s)


def never_gone() -> bool:
    """For work that no client waits for."""
    return False
