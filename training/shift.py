"""The jobs that one worker process runs now, and their orderly pause when it is told to stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from training.job import JobRun

LOOK_EVERY_S = 0.05


class Shift:
    """Who is at work; `wind_down` lets each job come to the end of its running epoch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: set[JobRun] = set()
        self._over = False

    @contextlib.contextmanager
    def on(self, run: JobRun) -> Iterator[None]:
        """Count the run as at work; one that comes while the others wind down begins nothing."""
        with self._lock:
            self._runs.add(run)
            if self._over:
                run.pause()
        try:
            yield
        finally:
            with self._lock:
                self._runs.discard(run)

    def wind_down(self, grace_s: float) -> bool:
        """Wait until every job has recorded the step it is in, for `grace_s` seconds at most; whether all have."""
        with self._lock:
            self._over = True
            for run in self._runs:
                run.pause()
        until = time.monotonic() + grace_s
        while not (idle := self._idle()) and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
        return idle

    def _idle(self) -> bool:
        with self._lock:
            return all(run.parked for run in self._runs)
