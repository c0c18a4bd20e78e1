"""When a call is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from neuroserve.errors import Busy, ClientError, ServiceError, TimedOut, Unavailable, Unreachable


@dataclass(frozen=True)
class Retries:
    """Exponential back-off with full jitter: before try n a random wait up to `first_s * 2**n`, at most `longest_s`.

    A `Retry-After` is waited out in full, with the jitter on top, so that those who were sent away do not come back
    together. One that is longer than `patience_s` is not waited for: the error is raised and tells it.
    """

    most: int = 4
    first_s: float = 0.25
    longest_s: float = 8.0
    patience_s: float = 60.0

    def wait_s(self, failed: int, error: ClientError, *, repeatable: bool) -> float | None:
        """Seconds to wait after the `failed`th failure (from 1) before the next try; None: raise the error."""
        if failed > self.most or not _passing(error, repeatable):
            return None
        told_s = error.retry_after_s if isinstance(error, ServiceError) else None
        if told_s is not None and told_s > self.patience_s:
            return None
        return (told_s or 0.0) + self.jitter_s(failed)

    def jitter_s(self, failed: int) -> float:
        """A random wait after so many failures in a row (from 1), in seconds."""
        # at most 2**30, so that a follower which tries for days never computes a giant
        return random.uniform(0.0, min(self.longest_s, self.first_s * 2 ** min(failed - 1, 30)))  # noqa: S311


class Unsent(Unreachable):
    """The connection was never made: the service cannot have acted on the call."""


def _passing(error: ClientError, repeatable: bool) -> bool:
    """Whether the same call may go well later, and does no harm twice."""
    if isinstance(error, Busy | Unsent):
        return True
    if isinstance(error, TimedOut):  # a second try would only add to the load that made the first one late
        return False
    return repeatable and isinstance(error, Unavailable | Unreachable)
