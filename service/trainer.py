"""The embedded worker: starts `python -m training worker` beside the service and keeps it alive.

Plain code for the parent process, which has no event loop. It knows the worker's command line and nothing of training.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from service.settings import Settings

LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
_WORKER = (sys.executable, "-m", "training", "worker")
_PRIVATE = "NEUROSERVE_API_KEYS"

log = logging.getLogger(__name__)


class EmbeddedWorker:
    """One worker process: `start` it, `poll` about twice a second, `stop` it.

    Call all three from one thread that lives as long as the worker should: on Linux the worker is told to stop when
    the thread that started it ends.
    """

    def __init__(self, settings: Settings, command: Sequence[str] = _WORKER) -> None:
        state = settings.state.resolve()
        self._command = [
            *command,
            *("--state", str(state)),
            *("--store", str(settings.store_dir.resolve())),
            *("--concurrency", str(settings.train_concurrency)),
            *("--silent-s", str(settings.trainer_silent_s)),
            *("--time-limit-s", str(settings.job_time_limit_s)),
            *("--grace-s", str(settings.shutdown_grace_s)),
        ]
        self._url = settings.jobs_url
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self._again_at: float | None = None

    @property
    def pid(self) -> int | None:
        """The running worker's process id."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the worker; when the system refuses, `poll` tries again."""
        self._again_at = None
        # The URL may hold a password, so it is not an argument that everyone can read; the keys are not its business.
        env = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
        env["NEUROSERVE_DATABASE_URL"] = self._url
        self._started = time.monotonic()
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [*self._command, "--die-with", str(os.getpid())], stdin=subprocess.DEVNULL, env=env
            )
        except OSError as exc:
            log.error("the training worker cannot be started: %s", exc)
            self._pause()

    def poll(self) -> None:
        """Start a worker that died again: at once the first time, then after ever longer pauses."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            if time.monotonic() - self._started > STEADY_S:
                self._deaths = 0
            log.error("the training worker ended with code %s", code)
            self._pause()
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self.start()

    def stop(self, grace_s: float) -> None:
        """Ask the worker to stop, and kill it if it has not within `grace_s` seconds. Its jobs stay in the queue."""
        self._again_at = None
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.error("the training worker did not stop within %g s and is killed", grace_s)
            process.kill()
            process.wait()

    def _pause(self) -> None:
        self._deaths += 1
        pause_s = 0.0 if self._deaths == 1 else min(LONGEST_PAUSE_S, 2.0 ** (self._deaths - 2))
        self._again_at = time.monotonic() + pause_s
