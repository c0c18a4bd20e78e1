"""How many bytes of large request bodies one process holds: what is over the limit is refused, not kept waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Busy

FREE_BYTES = 65_536
"""Of each body; so a small one is read however many large ones there are."""


class Bodies:
    """Counts what the bodies of the requests in hand hold beyond their first 64 KiB each."""

    def __init__(self, most_bytes: int, show: Callable[[float], object] | None = None) -> None:
        self.bytes = 0
        self._most_bytes = most_bytes
        self._show = show

    @contextmanager
    def hold(self) -> Iterator[Held]:
        """One request's share, given back at the end of the block."""
        held = Held(self)
        try:
            yield held
        finally:
            if held.counted:
                self.take(-held.counted)

    def take(self, count: int) -> None:
        """Count so many bytes. Busy where that is too many."""
        if count > 0 and self.bytes and self.bytes + count > self._most_bytes:
            raise Busy(f"Request bodies of {self.bytes:,} bytes are in hand; try again, or send a smaller body.")
        self.bytes += count
        if self._show is not None:
            self._show(self.bytes)


class Held:
    """What one request's body holds."""

    def __init__(self, bodies: Bodies) -> None:
        self.counted = 0
        self._bodies = bodies

    def grow_to(self, size: int) -> None:
        """The body has so many bytes now. Busy where all together are too many."""
        more = size - FREE_BYTES - self.counted
        if more > 0:
            self._bodies.take(more)
            self.counted += more
