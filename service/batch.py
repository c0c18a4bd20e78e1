"""What goes through a batcher: parts in, answers out, a report of every batch; and its run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

from service.engine import Array, Runner, Tensors
from service.errors import ServiceError

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """Rows that travel together: graph inputs with a leading row axis, and their unpadded length (0 where none).

    `altered` are rows that no client sent: an explanation's.
    """

    inputs: Tensors
    rows: int = 1
    length: int = 0
    altered: bool = False


class Answer(NamedTuple):
    """The outputs of one part, in the graph's order, each [rows, …], and how they came about."""

    outputs: list[Array]
    version: int
    provider: str
    queue_ms: float
    run_ms: float
    batch_rows: int


Reason = Literal["idle", "device_free", "full", "max_wait"]
"""Why a batch was sent off: its rows found the device idle; the device became free; a full batch waited; the time for
company (`max_wait_ms`) was over."""


class BatchReport(NamedTuple):
    """What one finished batch was like; `steps` and `padded_steps` count rows x length where there is a length.

    Padded is what the device ran to have fixed shapes. `reason` says why the batch was sent off when it was.
    """

    engine: Runner
    rows: int
    items: int
    queue_seconds: list[float]
    run_seconds: float
    padded_rows: int
    steps: int
    padded_steps: int
    failed: bool
    sound: bool
    """Whether the device still answers right; looked at when a batch has failed."""
    reason: Reason
    done: Done


class Reply(Protocol):
    """Where the answer of a part goes: an asyncio future, or what behaves like one."""

    def done(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def set_result(self, result: Answer, /) -> None:
        """Here it is."""

    def set_exception(self, exception: ServiceError, /) -> None:
        """There is none."""

    def cancel(self) -> object:
        """The place in the queue was given up, for the caller had left."""


class Entrance(Protocol):
    """Where a part is admitted."""

    def admit(self, engine: Runner, part: Part, reply: Reply, *, timeout_s: float, gone: Callable[[], bool]) -> None:
        """Admit one part whose answer, or error, goes to `reply`."""


class Queue(Entrance, Protocol):
    """What a request needs of the queue in front of a model: a batcher, or what stands before one."""

    def submit(
        self, engine: Runner, parts: Sequence[Part], *, timeout_s: float, gone: Callable[[], bool] = ...
    ) -> list[asyncio.Future[Answer]]:
        """Admit all parts or none: one future each."""

    def hold(self, engine: Runner) -> AbstractContextManager[None]:
        """Keep an engine open, for rows that follow from its earlier answers."""

    def most_rows(self, length: int) -> int:
        """Rows that one run takes, padded to `length`."""


class Item:
    """One part on its way: where its answer goes, how long it may take, whether anybody waits for it."""

    __slots__ = ("deadline", "engine", "entered", "gone", "length", "part", "reply", "span")

    def __init__(self, part: Part, engine: Runner, reply: Reply, deadline: float, gone: Callable[[], bool]) -> None:
        self.part = part
        self.engine = engine
        self.reply = reply
        self.deadline = deadline
        self.gone = gone
        self.length = engine.bucket_length(part.length)
        self.entered = perf_counter()
        self.span: Any = None  # its request's, where that is traced


class Done(NamedTuple):
    """One batch after its run: its outputs, or what the engine raised, and when it began and ended."""

    items: list[Item]
    rows: int
    outputs: list[Array] | Exception
    started: float
    ended: float
    sound: bool = True


def report(done: Done, reason: Reason) -> BatchReport:
    """The report of one finished batch; times in seconds of `perf_counter`."""
    items, rows = done.items, done.rows
    padded_rows = items[0].engine.padded_rows(rows)
    return BatchReport(
        engine=items[0].engine,
        rows=rows,
        items=len(items),
        queue_seconds=[done.started - item.entered for item in items],
        run_seconds=done.ended - done.started,
        padded_rows=padded_rows,
        steps=sum(item.part.rows * item.part.length for item in items),
        padded_steps=padded_rows * items[0].length,
        failed=isinstance(done.outputs, Exception),
        sound=done.sound,
        reason=reason,
        done=done,
    )


def run(items: list[Item], rows: int, length: int) -> list[Done]:
    """The batch after its run; if it failed, each of its items after one of its own: a bad row spoils no other's."""
    done = _try(items, rows, length)
    if not isinstance(done.outputs, Exception):
        return [done]
    engine = items[0].engine
    if len(items) > 1 and engine.is_sound():
        log.warning("a batch of %d rows failed; they run one by one", rows)
        return [each for item in items for each in run([item], item.part.rows, length)]
    return [done._replace(sound=engine.is_sound())]


def _try(items: list[Item], rows: int, length: int) -> Done:
    """One run, whatever comes of it."""
    started = perf_counter()
    outputs: list[Array] | Exception
    try:
        outputs = items[0].engine.run([item.part.inputs for item in items], rows, length)
    except Exception as exc:  # whatever a run raises must reach its callers, and nobody else
        outputs = exc
    return Done(items, rows, outputs, started, perf_counter())
