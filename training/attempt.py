"""One attempt at a job: the child process that trains, and the events it tells on its standard output.

Knows processes, not networks and not the queue. The child runs in its own process group at low priority with capped
threads; its folder is locked while any process of it lives, so that two attempts never write the same checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from models.jobs import JOB_EVENT, EpochEvent, JobEvent, JobSpec, StageEvent
from training.memory import oom_kills, says_out_of_memory

NICENESS = 10
STORE_VARIABLE = "NEUROSERVE_TRAINING_STORE"
"""The environment variable that tells the child the worker's store."""
_LINE_BYTES = 1 << 20
_EVENTS_AHEAD = 256
_LOCK_WAIT_S = 15.0

Place = tuple[int, int]
"""Where an event stands in a job: its stage, then its epoch; a resumed child repeats what is already known."""

_STAGES = ("data", "epoch", "fit", "export", "parity", "evaluate", "candidate")


def place(stage: str, epoch: int = 0) -> Place:
    """The place of a stage, or of one epoch of the stage `epoch`."""
    return _STAGES.index(stage), epoch


def name_of(where: Place) -> str:
    """A place in words."""
    stage, epoch = where
    return f"epoch {epoch}" if epoch else _STAGES[stage]


def place_of(event: JobEvent) -> Place | None:
    """The place an event marks; None for events that mark none (progress, log)."""
    if isinstance(event, EpochEvent):
        return place("epoch", event.row.epoch)
    if isinstance(event, StageEvent):
        return place(event.stage)
    return None


def train_threads() -> int:
    """Threads for the child: the CPUs this process may use, less one for its neighbours where there are over two."""
    cpus = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        cpus = min(cpus, int(quota) / int(period))
    whole = max(1, int(cpus))
    return whole if whole <= 2 else whole - 1


def command_of(fit: Sequence[str], spec: JobSpec, work: Path) -> list[str]:
    """The child's command line; `fit` is what starts the trainer."""
    return [
        *fit,
        spec.task,
        *("--network", spec.network),
        *("--epochs", str(spec.epochs)),
        *("--batch-size", str(spec.batch_size)),
        *("--learning-rate", repr(spec.learning_rate)),
        *("--seed", str(spec.seed)),
        *("--work", str(work)),
        *("--events", "--stage-only", "--resume"),
    ]


class Attempt:
    """A running child. `next` gives its events in order; `close` ends it and everything it started."""

    def __init__(self, process: asyncio.subprocess.Process, kills: Callable[[], int | None] = oom_kills) -> None:
        self._process = process
        self._kills, self._kills_before = kills, kills()
        self._events: asyncio.Queue[JobEvent | None] = asyncio.Queue(_EVENTS_AHEAD)
        self._ahead: list[JobEvent] = []
        self._last_words: deque[str] = deque(maxlen=20)
        self._readers = [asyncio.create_task(self._read_events()), asyncio.create_task(self._read_errors())]

    @classmethod
    async def start(cls, command: Sequence[str], work: Path, store: Path | None = None) -> Attempt:
        """Start the child in the folder `work`; OSError when it cannot or an earlier child still holds the folder.

        The child reads in `store` the versions that its candidate will be compared with.
        """
        lock = await _lock(work / "lock")
        threads = str(train_threads())
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
                pass_fds=(lock,),
                env={
                    "OMP_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    **os.environ,
                    **({} if store is None else {STORE_VARIABLE: str(store)}),
                    "PYTHONUNBUFFERED": "1",
                },
            )
        finally:
            os.close(lock)  # from here on the child's own copy holds the lock
        with contextlib.suppress(OSError):  # it may be gone already
            os.setpriority(os.PRIO_PGRP, process.pid, NICENESS)
        return cls(process)

    async def next(self) -> JobEvent | None:
        """The next event; None once the child has ended and everything it said was given."""
        if self._ahead:
            return self._ahead.pop()
        event = await self._events.get()
        if event is None:
            self._events.put_nowait(None)
        return event

    def put_back(self, event: JobEvent) -> None:
        """Have `next` give this event again."""
        self._ahead.append(event)

    async def close(self) -> str:
        """End the child and its group at once, and tell in words how it ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        code = await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{ending}: {self._last_words[-1]}" if self._last_words else ending

    @property
    def out_of_memory(self) -> bool:
        """Whether the ended child was killed by the kernel for memory, or said with its last words that it had none."""
        if self._process.returncode == -signal.SIGKILL:
            return (self._kills() or 0) > (self._kills_before or 0)
        return bool(self._last_words) and says_out_of_memory(self._last_words[-1])

    async def ended(self) -> str:
        """How a child that closed its output ended; one that lingers is helped after a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.gather(self._process.wait(), self._readers[1])
        return await self.close()

    async def _read_events(self) -> None:
        try:
            async for line in _lines(self._process.stdout):
                try:
                    event = JOB_EVENT.validate_json(line)
                except ValidationError:
                    self._last_words.append(line.strip()[:500])  # a library that prints
                else:
                    await self._events.put(event)
        except Exception as exc:  # without an end of the events the job would wait for ever
            self._last_words.append(f"its events cannot be read any more: {exc}")
        await self._events.put(None)

    async def _read_errors(self) -> None:
        async for line in _lines(self._process.stderr):
            if line.strip():
                self._last_words.append(line.strip()[:500])


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    while stream is not None:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any line we know: dropped
            continue
        if not line:
            return
        yield line.decode("utf-8", "replace")


async def _lock(path: Path) -> int:
    """An open file that holds the exclusive lock; freed when its last copy in any process is closed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                return handle
    except BaseException:
        os.close(handle)
        raise
