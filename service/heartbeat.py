"""Heartbeats: whether the event loop of each worker still turns, told to the parent through memory that both share.

A worker writes the time from its event loop, so a stopped process and a blocked loop look the same: silent. What runs
on other threads, a model or a large picture, does not matter. All processes of a machine share the monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ctypes import c_double

from service import shared

BEAT_S = 1.0
LOADING = 10
"""A worker that still loads may be silent this many times longer: imports and graph building can hold the loop."""


class Beats:
    """The time of the last beat of each of `places` workers, in shared memory; make it before they are forked."""

    def __init__(self, places: int) -> None:
        self._at = shared.array(c_double, places)

    def beat(self, place: int) -> None:
        """The worker at this place lives."""
        self._at[place] = time.monotonic()

    def forget(self, place: int) -> None:
        """The worker at this place has ended."""
        self._at[place] = 0.0

    def last(self, place: int) -> float:
        """When it last beat, on the monotonic clock; 0 before its first beat."""
        return float(self._at[place])


class Pulse:
    """Calls `beat` from an event loop about once a second until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, beat: Callable[[], None]) -> None:
        self._loop, self._beat = loop, beat
        self._next: asyncio.TimerHandle | None = None
        self._go_on()

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()

    def _go_on(self) -> None:
        self._next = self._loop.call_later(BEAT_S, self._go_on)
        self._beat()


class Patience:
    """How long others have been silent, as one sees it who looks about every `look_s` seconds.

    Who was stopped himself, with the whole machine perhaps, blames nobody: everybody's silence begins anew.
    """

    def __init__(self, look_s: float) -> None:
        self._late_s = 2 * look_s
        self._looked: float | None = None
        self._since = 0.0

    def look(self, at: float) -> None:
        """Begin a look; `at` is the monotonic clock's time."""
        if self._looked is None or at - self._looked > self._late_s:
            self._since = at
        self._looked = at

    def silent_s(self, last: float) -> float:
        """Seconds since the beat at `last`, of those that count, at the present look."""
        return 0.0 if self._looked is None else self._looked - max(last, self._since)
