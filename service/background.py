"""What runs as long as a process does: an error in one round is logged and the next round comes; no task ends unseen.

A task that ended all the same makes the process not ready (`dead`), and its worker lets itself be replaced.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

Look = Callable[[], Awaitable[object] | object]


class Background:
    """The long-lived tasks of one process, and other things that must live as long: threads, say."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._checks: dict[str, Callable[[], bool]] = {}
        self._told: dict[str, str] = {}

    def every(self, name: str, pause_s: float, look: Look) -> asyncio.Task[None]:
        """Call `look` again and again, `pause_s` seconds after its last end, until `stop`; it may be a coroutine."""
        task = self._tasks[name] = asyncio.create_task(self._rounds(name, pause_s, look), name=name)
        return task

    def check(self, name: str, lives: Callable[[], bool]) -> None:
        """Ask `lives` as well whenever somebody asks what is dead, until `stop`; it must be quick."""
        self._checks[name] = lives

    def stop(self, name: str) -> None:
        """End a task, or a check, that is needed no longer."""
        self._checks.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def dead(self) -> dict[str, str]:
        """What should run and does not, by name, each with a sentence."""
        ended = [name for name, task in self._tasks.items() if task.done()]
        ended += [name for name, lives in self._checks.items() if not lives()]
        return {name: f"the {name} has ended; this process is being replaced" for name in ended}

    async def _rounds(self, name: str, pause_s: float, look: Look) -> None:
        while True:
            await asyncio.sleep(pause_s)
            try:
                found = look()
                if inspect.isawaitable(found):
                    await found
            except Exception as exc:
                self._tell(name, exc)
            else:
                self._told.pop(name, None)

    def _tell(self, name: str, exc: Exception) -> None:
        said = f"{type(exc).__name__}: {exc}"
        if self._told.get(name) != said:  # the same in every round is told once
            self._told[name] = said
            log.error("the %s failed in one round and goes on: %s", name, said, exc_info=exc)
