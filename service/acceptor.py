"""Connections spread evenly over the HTTP processes that share one listening socket.

The kernel wakes all of them for a new connection and the quickest wins, so that now and then one process gets every
connection of a client's pool and the others idle. Here a process that has more connections than another holds back for
a moment: the socket stays readable, and the one with fewer takes it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, MutableSequence
from time import monotonic

log = logging.getLogger(__name__)

_PATIENCE_S = 0.02
"""How long a process with more connections leaves a new one to the others; they may be busy, or dead."""
_LOOK_S = 0.001
_PAUSE_S = 0.1
_MOST_AT_ONCE = 64
_SLACK = 128
"""Connections over their limit that are accepted all the same: each makes an older one go that only waits."""

Counts = MutableSequence[int]


class Acceptor:
    """Accepts for one process; `counts` is shared by all, `place` is this process's own.

    Call `gone` whenever a connection that `make_protocol` served has ended.
    """

    def __init__(
        self,
        listener: socket.socket,
        counts: Counts,
        place: int,
        make_protocol: Callable[[], asyncio.Protocol],
        most: int = sys.maxsize,
    ) -> None:
        self._listener = listener
        self._counts = counts
        self._place = place
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._hold_until: float | None = None
        self._most = most
        self._is_full = False
        self._closed = False
        counts[place] = 0
        self._listen()

    def gone(self) -> None:
        """One connection less."""
        self._counts[self._place] -= 1

    def close(self) -> None:
        """Accept what waits, and then nothing more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        try:
            while True:
                self._take()
        except OSError:
            pass
        self._listener.close()  # for this process; the others have theirs

    async def wait_closed(self) -> None:
        """Wait for connections that are just being opened."""
        await asyncio.gather(*self._opening)

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _rest(self, seconds: float) -> None:
        """Look away: a socket that stays readable would keep the loop spinning."""
        self._loop.remove_reader(self._listener.fileno())
        self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        """Take what waits, as long as this process has not its share: a pool of clients connects all at once."""
        for _ in range(_MOST_AT_ONCE):
            if self._has_its_share():
                self._rest(_LOOK_S)
                return
            self._hold_until = None
            if self._counts[self._place] >= self._most + _SLACK:
                self._wait_for_room(f"{self._counts[self._place]} connections are open")
                return
            try:
                self._take()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # nothing waits any more, or the client gave up
            except OSError as exc:  # out of file descriptors: let some connections end first
                self._wait_for_room(str(exc))
                return
            self._is_full = False

    def _take(self) -> None:
        connection, _ = self._listener.accept()
        self._counts[self._place] += 1
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _wait_for_room(self, reason: str) -> None:
        """Accept again in a moment; one line in the log for the whole time that there is no room."""
        if not self._is_full:
            self._is_full = True
            log.error("cannot accept further connections for now: %s; raise the limit of open files", reason)
        self._rest(_PAUSE_S)

    def _has_its_share(self) -> bool:
        """Whether another has clearly fewer: by one connection when there are few, by an eighth when there are many."""
        if self._counts[self._place] - min(self._counts) <= sum(self._counts) // 8:
            return False
        now = monotonic()
        if self._hold_until is None:
            self._hold_until = now + _PATIENCE_S
        return now < self._hold_until

    async def _open(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError as exc:
            log.info("a connection ended before it began: %s", exc)
            connection.close()
            self.gone()
