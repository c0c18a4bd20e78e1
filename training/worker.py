"""The worker process: takes jobs from the queue until it is told to stop, and watches over the other workers.

It never imports torch: training runs in a child (`attempt.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from models import environment
from models.database import IDLE_BEAT_S, address, is_sqlite, shown
from models.lifeline import signal_when_parent_dies
from models.store import Store, StoreError
from training.attempt import train_threads
from training.job import FIT, JobSettings
from training.jobqueue import JobQueue, prepare
from training.ledger import first_line
from training.memory import share_arenas
from training.pending import Pending
from training.retention import Housekeeper, Retention
from training.tracking import TrackingError, require
from training.watchdog import SILENT_S, Heartbeats, Watchdog

LOCK_WAIT_S = 20.0
_AGAIN_S = 2.0
_REMIND_S = 30.0
BEAT_S = 1.0
_LOOK_S = 1.0
_QUIET_S = 20.0
"""The engine takes about as much CPU to start as two minutes of its polling: the next job may come soon."""
DATABASE_ERRORS = (SQLAlchemyError, sqlite3.Error, OSError)
_STOP_S = 3.0  # of the grace time, what ending the children and giving the jobs back may take

log = logging.getLogger("training.worker")


@dataclass(frozen=True)
class WorkerSettings:
    """Which queue the worker serves, under which name, and how its jobs run."""

    database_url: str
    executor_id: str
    jobs: JobSettings
    concurrency: int = 1
    silent_s: float = SILENT_S
    die_with: int | None = None
    beat_fd: int | None = None
    grace_s: float = 10.0
    tensorboard: Path | None = None


def main(argv: Sequence[str], fit: Sequence[str] = FIT) -> int:
    """`python -m training worker`: run until SIGTERM or SIGINT; 0 after a clean stop, 75 when the name is taken.

    2: a variable of the environment is no setting, or not one that can be. 78: the settings ask for a package that is
    missing.
    """
    found = environment.check(os.environ)
    if (refusal := found.refusal or _wrong_value()) is not None:
        print(f"worker: {refusal}", file=sys.stderr)  # noqa: T201
        return 2
    settings = _settings(argv, fit)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s worker: %(message)s")
    for note in found.notes if settings.die_with is None else ():  # a parent has said it already
        log.warning("%s", note)
    if not _trackable(settings):
        return os.EX_CONFIG
    if settings.die_with is not None:
        signal_when_parent_dies(settings.die_with, signal.SIGTERM)
    settings.jobs.state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_only_one(settings))
        except BlockingIOError:
            log.error(
                "another worker named %s runs in %s; give this one another --executor-id",
                settings.executor_id,
                settings.jobs.state,
            )
            return os.EX_TEMPFAIL
        clear_leftovers(Store(settings.jobs.store))
        serve(settings)
    return 0


def _trackable(settings: WorkerSettings) -> bool:
    try:
        require(settings.tensorboard)
    except TrackingError as exc:
        log.error("%s", exc)
        return False
    return True


def clear_leftovers(store: Store) -> None:
    """Remove what publishers that died have left; a store that cannot be written is no reason not to train."""
    try:
        left = store.sweep()
    except StoreError as exc:
        log.warning("%s", exc)
        return
    if left:
        log.info("removed %d leftovers of processes that are gone from %s", len(left), store.root)


def serve(settings: WorkerSettings) -> None:
    """Take jobs until a signal says stop; then end the children and give their jobs back to the queue.

    While the database holds no unfinished job the engine that runs jobs is not started: it would poll for nothing.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _share_threads(settings.concurrency)
    share_arenas()
    queue = JobQueue(settings.database_url, settings.executor_id, settings.jobs, settings.concurrency)
    if settings.beat_fd is not None:
        beat_to_parent(queue, settings.beat_fd)
    worker = _Worker(settings, queue, stop)
    jobs = settings.jobs
    housekeeper = Housekeeper(jobs.state, Store(jobs.store), settings.database_url, jobs.retention)
    housekeeper.start()
    if worker.reaches_database(worker.prepare):
        log.info("%s takes jobs from %s", settings.executor_id, shown(settings.database_url))
        while worker.reaches_database(worker.wait_for_jobs) and worker.reaches_database(worker.begin):
            worker.work()
            if stop.is_set():
                log.info("%s stops", settings.executor_id)
                orphan = settings.die_with is not None and os.getppid() != settings.die_with  # nobody gives it time
                if not queue.shift.wind_down(0.0 if orphan else settings.grace_s - _STOP_S):
                    log.info("an epoch that did not end in time will be done again")
            worker.end()
    worker.end()  # of an engine that had just been started when it was time to stop
    housekeeper.stop()
    worker.leave()


class _Worker:
    """The turns of one worker: it waits for jobs, begins to take them, works until none is left, and ends."""

    def __init__(self, settings: WorkerSettings, queue: JobQueue, stop: threading.Event) -> None:
        self._settings, self._queue, self._stop = settings, queue, stop
        self._pending = Pending(settings.database_url)
        self._heartbeats = Heartbeats(settings.database_url)
        self._watchdog: Watchdog | None = None

    def prepare(self) -> None:
        """Make the database, and report for the first time."""
        prepare(self._settings.database_url)
        self._heartbeats.beat(self._settings.executor_id)

    def wait_for_jobs(self) -> None:
        """Return when there is an unfinished job, or it is time to stop. The worker's row counts on, slowly."""
        beat_at = time.monotonic() + IDLE_BEAT_S
        while not self._stop.is_set() and not self._pending.any():
            self._stop.wait(self._pending.look_every_s)
            if time.monotonic() >= beat_at:
                self._heartbeats.beat(self._settings.executor_id)
                beat_at = time.monotonic() + IDLE_BEAT_S

    def begin(self) -> None:
        """Start the engine; count first, so that nobody takes this worker's first job for one of a dead worker."""
        name = self._settings.executor_id
        self._heartbeats.beat(name)
        self._queue.start()
        self._watchdog = Watchdog(self._heartbeats, self._queue, name, self._settings.silent_s)
        self._watchdog.start()

    def work(self) -> None:
        """Return when there has been no unfinished job for a while, or it is time to stop."""
        quiet_since: float | None = None
        while not self._stop.wait(_LOOK_S):
            if self._has_jobs():
                quiet_since = None
            elif quiet_since is None:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= _QUIET_S:
                return

    def _has_jobs(self) -> bool:
        try:
            return self._pending.any()
        except DATABASE_ERRORS:  # whether there are jobs is not known: the engine waits for the database
            self._pending.close()
            return True

    def end(self) -> None:
        """Stop the engine; jobs that still run go back to the queue."""
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None
            self._queue.stop()

    def leave(self) -> None:
        """Remove the worker's row and close the connections."""
        with contextlib.suppress(*DATABASE_ERRORS):
            self._heartbeats.forget(self._settings.executor_id)
        self._heartbeats.close()
        self._pending.close()

    def reaches_database(self, call: Callable[[], None]) -> bool:
        """Call it until the database takes it; False when it is time to stop. Says now and then what is wrong."""
        told = float("-inf")
        while not self._stop.is_set():
            try:
                call()
            except DATABASE_ERRORS as exc:
                self._pending.close()
                if time.monotonic() - told > _REMIND_S:
                    told = time.monotonic()
                    url = shown(self._settings.database_url)
                    log.error("the job database %s cannot be reached, trying again: %s", url, first_line(exc))
                self._stop.wait(_AGAIN_S)
            else:
                return not self._stop.is_set()
        return False


def beat_to_parent(queue: JobQueue, handle: int, every_s: float = BEAT_S) -> None:
    """Write a byte to the parent's pipe about once a second, from the loop that runs the jobs once there is one.

    A parent that hears nothing ends this process: it is stopped, or its loop is blocked.
    """

    def write() -> None:
        with contextlib.suppress(OSError):  # a full pipe is a parent that does not look at present
            os.write(handle, b".")

    def beat() -> None:
        while True:
            queue.soon(write)
            time.sleep(every_s)

    threading.Thread(target=beat, name="heartbeat", daemon=True).start()


def _share_threads(concurrency: int) -> None:
    """Let the children that run at the same time have the CPUs between them, unless somebody has set a number."""
    each = str(max(1, train_threads() // concurrency))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, each)


@contextlib.contextmanager
def _only_one(settings: WorkerSettings) -> Iterator[None]:
    """Hold the executor's name: two workers of one name would take each other's jobs for lost ones."""
    with (settings.jobs.state / f"worker-{settings.executor_id}.lock").open("a") as handle:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _settings(argv: Sequence[str], fit: Sequence[str]) -> WorkerSettings:
    given = _parser().parse_args(argv)
    state = Path(given.state).resolve()
    url = given.database_url or f"sqlite:///{state / 'jobs.sqlite'}"
    # A SQLite file belongs to one machine whatever its name is today; on PostgreSQL the host tells workers apart.
    name = given.executor_id or ("local" if is_sqlite(url) else socket.gethostname())
    tensorboard = Path(given.tensorboard).resolve() if given.tensorboard else None
    return WorkerSettings(
        database_url=url,
        executor_id=name,
        concurrency=given.concurrency,
        silent_s=given.silent_s,
        die_with=given.die_with,
        beat_fd=given.beat_fd,
        grace_s=given.grace_s,
        tensorboard=tensorboard,
        jobs=JobSettings(
            state=state,
            store=Path(given.store).resolve() if given.store else state / "models",
            time_limit_s=given.time_limit_s,
            retention=Retention(given.keep_versions, given.keep_jobs_days),
            fit=fit if tensorboard is None else (*fit, "--tensorboard", str(tensorboard)),
        ),
    )


def _wrong_value() -> str | None:
    """What is wrong with the first of the worker's variables that cannot be, in a sentence; None when all can."""
    kinds: dict[str, Callable[[str], object]] = {
        "DATABASE_URL": _address,
        "TRAIN_CONCURRENCY": _positive(int),
        "JOB_TIME_LIMIT_S": _positive(float),
        "TRAINER_SILENT_S": _positive(float),
        "SHUTDOWN_GRACE_S": _positive(float),
        "KEEP_VERSIONS": _from_zero(int),
        "KEEP_JOBS_DAYS": _from_zero(float),
        "TRAIN_GPU_MEM_SHARE": _share,
    }
    for name, kind in kinds.items():
        value = os.environ.get(environment.PREFIX + name)
        try:
            if value:
                kind(value)
        except argparse.ArgumentTypeError as exc:
            return f"{environment.PREFIX}{name}: {exc}"
        except ValueError:
            return f"{environment.PREFIX}{name}: {value!r} is not a number"
    return None


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share above 0 and at most 1")
    return value


def _parser() -> argparse.ArgumentParser:
    def env(name: str, default: str = "") -> str:
        return os.environ.get(name) or default  # compose sets what it does not know to nothing

    parser = argparse.ArgumentParser(prog="python -m training worker", description="Take training jobs from the queue.")
    parser.add_argument("--state", default=env("NEUROSERVE_STATE", "var"), help="checkpoints and the job database")
    parser.add_argument(
        "--database-url",
        type=_address,
        default=env("NEUROSERVE_DATABASE_URL") or None,
        help="default: STATE/jobs.sqlite",
    )
    parser.add_argument("--store", default=None, help="where versions are published; default: STATE/models")
    parser.add_argument(
        "--concurrency",
        type=_positive(int),
        default=env("NEUROSERVE_TRAIN_CONCURRENCY", "1"),
        help="jobs at the same time",
    )
    parser.add_argument("--executor-id", default=None, help="a name that stays; default: local, or the host's name")
    parser.add_argument(
        "--time-limit-s",
        type=_positive(float),
        default=env("NEUROSERVE_JOB_TIME_LIMIT_S", "21600"),
        help="a job that takes longer has failed",
    )
    parser.add_argument(
        "--silent-s",
        type=_positive(float),
        default=env("NEUROSERVE_TRAINER_SILENT_S", str(SILENT_S)),
        help="a worker that was not heard of for so long has died; the same for all workers",
    )
    parser.add_argument(
        "--grace-s",
        type=_positive(float),
        default=env("NEUROSERVE_SHUTDOWN_GRACE_S", "10"),
        help="when told to stop, time for the running epoch to end",
    )
    parser.add_argument(
        "--keep-versions",
        type=_from_zero(int),
        default=env("NEUROSERVE_KEEP_VERSIONS", "50"),
        help="newest versions of a model that stay; 0 keeps all",
    )
    parser.add_argument(
        "--keep-jobs-days",
        type=_from_zero(float),
        default=env("NEUROSERVE_KEEP_JOBS_DAYS", "90"),
        help="days for which records of ended jobs stay; 0 keeps all",
    )
    parser.add_argument("--tensorboard", metavar="DIR", help="write event files for TensorBoard into DIR/MODEL-TIME")
    parser.add_argument("--die-with", type=int, default=None, metavar="PID", help="stop when this parent process ends")
    parser.add_argument("--beat-fd", type=int, default=None, metavar="FD", help="a pipe that gets a byte every second")
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def _from_zero(kind: Callable[[str], float]) -> Callable[[str], Any]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is below 0")
        return value

    return number


def _address(text: str) -> str:
    try:
        return address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
