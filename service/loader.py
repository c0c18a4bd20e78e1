"""The one background thread that loads models, at low priority, so that loading never slows an answer.

Who only looks at the store has threads of its own beside it: neither waits for the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_NICE = 10
_READERS = 2


_equals = ThreadPoolExecutor(1, thread_name_prefix="builder")


def at_normal_priority(call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """The call's result, from a thread of normal priority: threads that it starts are as quick as that one.

    A session's own threads are needed for that: they answer requests later, whoever has built them. Only with a Loader.
    """
    return _equals.submit(call, *args, **kwargs).result()


class Loader:
    """Runs blocking calls one after another. With `polite`, at nice 10 where the platform has a nice per thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        _equals.submit(int).result()  # its thread is begun here, by one of normal priority

    async def run(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The call's result, from the loader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))

    async def look(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a call that only looks at the store, from a thread that loads nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: call(*args, **kwargs))

    def be_polite(self) -> None:
        """From here on load at low priority; the first load of a service that is not ready yet need not wait."""
        self._pool.submit(lower_priority)

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._readers.shutdown(wait=True)


def lower_priority() -> None:
    """Let the calling thread run only when others leave room, where the platform has a nice per thread."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
