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

from service.heartbeat import LOADING, Patience
from service.pauses import Pauses
from service.settings import Settings

_LOOK_S = 1.0
_WORKER = (sys.executable, "-m", "training", "worker")
_PRIVATE = "NEUROSERVE_API_KEYS"

log = logging.getLogger(__name__)


class EmbeddedWorker:
    """One worker process: `start` it, `poll` it about once a second and when a child has ended, `stop` it.

    The worker writes a byte to a pipe about once a second. One that is silent for `worker_silent_s` is killed.

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
            *("--keep-versions", str(settings.keep_versions)),
            *("--keep-jobs-days", str(settings.keep_jobs_days)),
        ]
        self._url = settings.jobs_url
        self._silent_s = settings.worker_silent_s
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._beats: int | None = None
        self._last_beat: float | None = None
        self._patience = Patience(_LOOK_S)
        self._pauses = Pauses()
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
        self._started, self._last_beat = time.monotonic(), None
        try:
            self._beats, theirs = os.pipe()
            os.set_blocking(self._beats, False)
            os.set_blocking(theirs, False)
        except OSError as exc:
            self._pause(exc)
            return
        command = [*self._command, "--die-with", str(os.getpid()), "--beat-fd", str(theirs)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                command, stdin=subprocess.DEVNULL, env=env, pass_fds=(theirs,)
            )
        except OSError as exc:
            self._pause(exc)
        finally:
            os.close(theirs)

    def poll(self) -> None:
        """Kill a silent worker, and start one that died again: at once the first time, then after longer pauses."""
        now = time.monotonic()
        self._kill_silent(now)
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._pause(f"it ended with code {code}")
        if self._again_at is not None and now >= self._again_at:
            self.start()

    def _kill_silent(self, now: float) -> None:
        self._patience.look(now)
        if self._process is None or self._beats is None:
            return
        try:
            if os.read(self._beats, 4096):
                self._last_beat = now
        except BlockingIOError:
            pass
        limit_s = self._silent_s * (LOADING if self._last_beat is None else 1)
        silent_s = self._patience.silent_s(self._last_beat or self._started)
        if silent_s > limit_s and self._process.poll() is None:
            log.error("the training worker is stopped or blocked: silent for %.0f s, so it is killed", silent_s)
            self._process.kill()
            self._last_beat = now  # it may take the system a moment to end it

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

    def _pause(self, reason: object) -> None:
        if self._beats is not None:
            os.close(self._beats)
            self._beats = None
        pause_s = self._pauses.next(time.monotonic() - self._started)
        self._again_at = time.monotonic() + pause_s
        log.error("the training worker does not run: %s; it is started %s", reason, _when(pause_s))


def _when(pause_s: float) -> str:
    return f"in {pause_s:g} s" if pause_s else "again now"
