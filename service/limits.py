"""What one key may take: so many predictions a second, so many at once. A greedy caller slows itself, not the others.

The counts are shared by all workers, in memory that is made before they are forked. They are not locked: two workers
may let one request too many through in the same instant, which does no harm, and none ever waits for another.

Each key has a slot of its own, marked with a part of its hash that no two keys share. Keys come and go with the key
file, so a slot that nobody uses any more is given to the next key.
"""

from __future__ import annotations

import time
from ctypes import c_double, c_int, c_uint64
from dataclasses import dataclass, field
from typing import Any

from service import shared
from service.errors import Busy
from service.keys import Key
from service.settings import Settings

PAUSE_S = 0.1
"""How long a refusal is held back: a caller that asks again at once costs next to nothing."""
_SLOTS = 1024
_REACH = 128
"""So many slots, from the one that its hash says, a key may have."""


@dataclass
class Shared:
    """Per slot: whose it is, the time up to which the rate is used up, and for each worker the requests in hand."""

    workers: int = 1
    owners: Any = field(init=False)
    used_until: Any = field(init=False)
    in_hand: Any = field(init=False)

    def __post_init__(self) -> None:
        self.owners = shared.array(c_uint64, _SLOTS)
        self.used_until = shared.array(c_double, _SLOTS)
        self.in_hand = shared.array(c_int, _SLOTS * self.workers)

    def slot_of(self, key: Key) -> int:
        """The slot of a key, a free one for a key that has none; Busy where too many keys are in use at once."""
        mark = int.from_bytes(key.digest[:8]) or 1  # 0 is nobody's
        free = -1
        now = time.monotonic()
        for step in range(_REACH):
            slot = (mark + step) % _SLOTS
            owner = self.owners[slot]
            if owner == mark:
                return slot
            if free < 0 and (not owner or self._is_idle(slot, now)):
                free = slot
            if not owner:
                break
        if free < 0:
            raise Busy("Too many keys are in use at once; come back in a moment.", code="too_many_keys")
        self.owners[free], self.used_until[free] = mark, 0.0
        return free

    def in_hand_of(self, slot: int) -> int:
        """The requests in hand, of all workers."""
        return sum(self.in_hand[slot * self.workers : (slot + 1) * self.workers])

    def _is_idle(self, slot: int, now: float) -> bool:
        return self.used_until[slot] < now and not self.in_hand_of(slot)

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
        slot = self._shared.slot_of(key)
        if self._at_once is not None:
            there = self._shared.in_hand_of(slot)
            if there >= self._at_once:
                raise Busy(
                    f"The key {key.name!r} has {there} requests in hand, the limit is {self._at_once}; "
                    "wait for an answer before the next.",
                    code="key_concurrency",
                )
        if self._per_s is not None:
            self._spend(slot, key, self._per_s)
        place = slot * self._shared.workers + self._worker
        self._shared.in_hand[place] += 1
        return place

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
