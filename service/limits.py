"""What one key may take: so many predictions a second, so many at once. A greedy caller slows itself, not the others.

The counts are shared by all workers, in memory that is made before they are forked. They are not locked: two workers
may let one request too many through in the same instant, which does no harm, and none ever waits for another.
"""

from __future__ import annotations

import multiprocessing
import time
from ctypes import c_double, c_int
from dataclasses import dataclass, field
from typing import Any

from service.errors import Busy
from service.keys import Key
from service.settings import Settings

PAUSE_S = 0.1
"""How long a refusal is held back: a caller that asks again at once costs next to nothing."""
_SLOTS = 1024


@dataclass
class Shared:
    """Per key: the time up to which its rate is used up, and for each worker the requests it has in hand."""

    workers: int = 1
    used_until: Any = field(init=False)
    in_hand: Any = field(init=False)

    def __post_init__(self) -> None:
        self.used_until = multiprocessing.RawArray(c_double, _SLOTS)
        self.in_hand = multiprocessing.RawArray(c_int, _SLOTS * self.workers)

    def forget(self, worker: int) -> None:
        """What a dead worker had in hand is gone."""
        for slot in range(_SLOTS):
            self.in_hand[slot * self.workers + worker] = 0


class Limits:
    """The limits of this worker, number `worker` of those that share."""

    def __init__(self, settings: Settings, shared: Shared | None = None, worker: int = 0) -> None:
        self._per_s = settings.key_requests_per_s
        self._at_once = settings.key_concurrency
        self._shared = shared or Shared()
        self._worker = worker

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return self._per_s is not None or self._at_once is not None

    def enter(self, key: Key) -> int:
        """Count a request in; the place to give back to `leave`. Busy says which limit is reached, and until when."""
        slot = int.from_bytes(key.digest[:4]) % _SLOTS
        first = slot * self._shared.workers
        if self._at_once is not None:
            there = sum(self._shared.in_hand[first : first + self._shared.workers])
            if there >= self._at_once:
                raise Busy(
                    f"The key {key.name!r} has {there} requests in hand, the limit is {self._at_once}; "
                    "wait for an answer before the next.",
                    code="key_concurrency",
                )
        if self._per_s is not None:
            self._spend(slot, key, self._per_s)
        self._shared.in_hand[first + self._worker] += 1
        return first + self._worker

    def leave(self, place: int) -> None:
        """Count a request out."""
        self._shared.in_hand[place] -= 1

    def _spend(self, slot: int, key: Key, per_s: float) -> None:
        """One request's share of the rate; a second's worth may come at once (the generic cell rate algorithm)."""
        now = time.monotonic()
        until = max(now, self._shared.used_until[slot]) + 1 / per_s
        early = until - now - max(1.0, 1 / per_s)
        if early > 1e-9:
            raise Busy(
                f"The key {key.name!r} has used up its {per_s:g} requests a second; slow down.",
                code="key_rate",
                retry_after_s=max(1, round(early + 0.5)),
            )
        self._shared.used_until[slot] = until
