"""Batches by back-pressure: what waits while the device is busy is the next batch.

One batcher owns one model's queue, bounded in rows, and the one thread that runs its engines. Items carry the engine
they were admitted with, so a request split over several batches is still answered by one version, and an engine that
was swapped out is closed behind its last item. Everything but the run itself happens on the event loop: no locks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from time import perf_counter

from service.batch import Answer, BatchReport, Done, Item, Part, Reason, Reply, report, run
from service.engine import Array, Runner
from service.errors import Busy, DeadlinePassed, InternalError, Unavailable
from service.tracing import BatchSpans

log = logging.getLogger(__name__)

_SWEEP_S = 0.05
_MAX_BATCH_STEPS = 4096
"""Rows x padded length that a batch of sequences may have; bounds memory and the time a batch blocks the device."""


_Key = tuple[Runner, int]


def _never_gone() -> bool:
    return False


class Batcher:
    """The queue in front of one model; create, submit to and close it on one event loop.

    `max_queue_rows` bounds the rows that wait, `max_batch_rows` those of one run, `max_wait_ms` holds a batch back for
    company (0: never). `observe` is called with every finished batch, `waiting` now and then with the rows that wait.
    """

    def __init__(
        self,
        name: str,
        *,
        max_queue_rows: int,
        max_batch_rows: int,
        max_wait_ms: float = 0.0,
        observe: Callable[[BatchReport], None] | None = None,
        waiting: Callable[[int], None] | None = None,
        spans: BatchSpans | None = None,
    ) -> None:
        self.name = name
        self.queued_rows = 0
        self._max_queue_rows = max_queue_rows
        self._max_batch_rows = max_batch_rows
        self._max_wait_s = max_wait_ms / 1000
        self._observe = observe
        self._waiting = waiting
        self._spans = spans
        self._sent = 0.0
        self._cause: Reason = "idle"
        self._reason: Reason = "idle"
        self._loop = asyncio.get_running_loop()
        self._queues: dict[_Key, deque[Item]] = {}
        self._flying: list[Item] = []
        self._unfinished: dict[Runner, int] = {}
        self._retired: set[Runner] = set()
        self._dispatch_planned = False
        self._sweep_planned = False
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._work: SimpleQueue[tuple[list[Item], int, int] | Runner | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run_forever, name=f"engine-{name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ submitting

    def submit(
        self,
        engine: Runner,
        parts: Sequence[Part],
        *,
        timeout_s: float,
        gone: Callable[[], bool] = _never_gone,
    ) -> list[asyncio.Future[Answer]]:
        """Admit all parts or none: one future each.

        `gone` tells whether the caller has left. Raises Busy over the row limit, Unavailable when closing. A future
        fails with DeadlinePassed after `timeout_s`, with InternalError when its batch failed.
        """
        futures = [self._loop.create_future() for _ in parts]
        self._admit(engine, parts, futures, timeout_s, gone)
        return futures

    def admit(self, engine: Runner, part: Part, reply: Reply, *, timeout_s: float, gone: Callable[[], bool]) -> None:
        """Admit one part whose answer, or error, goes to `reply`; as `submit` in all else."""
        self._admit(engine, (part,), (reply,), timeout_s, gone)

    def _admit(
        self,
        engine: Runner,
        parts: Sequence[Part],
        replies: Sequence[Reply],
        timeout_s: float,
        gone: Callable[[], bool],
    ) -> None:
        if self._closed:
            raise Unavailable("The service is shutting down; send the request to another replica.")
        rows = sum(part.rows for part in parts)
        if self.queued_rows and self.queued_rows + rows > self._max_queue_rows:
            raise Busy(
                f"{self.name} has {self.queued_rows} rows waiting, the limit is {self._max_queue_rows}; try again"
            )
        deadline = self._loop.time() + timeout_s
        for part, reply in zip(parts, replies, strict=True):
            item = Item(part, engine, reply, deadline, gone)
            if self._spans is not None:
                item.span = self._spans.request()
            self._queues.setdefault((engine, item.length), deque()).append(item)
        self.queued_rows += rows
        self._unfinished[engine] = self._unfinished.get(engine, 0) + len(parts)
        self._idle.clear()
        self._plan()

    @contextmanager
    def hold(self, engine: Runner) -> Iterator[None]:
        """Keep an engine open inside the block, for rows that follow from its earlier answers."""
        self._unfinished[engine] = self._unfinished.get(engine, 0) + 1
        try:
            yield
        finally:
            self._release(engine)

    def most_rows(self, length: int) -> int:
        """Rows that one run takes, padded to `length` (0 where none)."""
        return max(1, min(self._max_batch_rows, _MAX_BATCH_STEPS // length)) if length else self._max_batch_rows

    def retire(self, engine: Runner) -> None:
        """Close the engine behind the last item that was admitted with it."""
        self._retired.add(engine)
        self._close_if_done(engine)

    def lives(self) -> bool:
        """Whether the thread that runs batches does."""
        return self._thread.is_alive()

    async def close(self) -> None:
        """Admit nothing more, finish what was admitted, end the thread."""
        self._closed = True
        if self.lives():
            await self._idle.wait()
        self._work.put(None)
        await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------ assembling

    def _plan(self) -> None:
        """Dispatch after this turn of the loop, so that requests read in one turn share a batch."""
        if not self._dispatch_planned and not self._flying:
            self._dispatch_planned = True
            self._cause = "max_wait" if self._max_wait_s else "idle"
            if self._max_wait_s:
                self._loop.call_later(self._max_wait_s, self._dispatch)
            else:
                self._loop.call_soon(self._dispatch)
        if not self._sweep_planned:
            self._sweep_planned = True
            self._loop.call_later(_SWEEP_S, self._sweep)

    def _dispatch(self) -> None:
        """Send the next batch to the engine's thread; a batch that takes less than the way there runs here."""
        self._dispatch_planned = False
        while self._queues and not self._flying:
            key = min(self._queues, key=lambda each: self._queues[each][0].entered)
            items = self._take(key)
            if not items:
                continue
            engine, length = key
            self._sent = perf_counter()
            self._reason = "full" if key in self._queues else self._cause
            rows = sum(item.part.rows for item in items)
            if engine.quick(rows, length):
                for done in run(items, rows, length):
                    self._settle(done)
                if self._queues:
                    self._plan()  # first let the loop read what came meanwhile
                    self._cause = "device_free"
                break
            self._flying = items
            self._work.put((items, rows, length))
        self._rest_if_idle()

    def _take(self, key: _Key) -> list[Item]:
        """The next batch of one queue: live items in order, up to the row limit; one item may be larger than it."""
        queue, length = self._queues[key], key[1]
        limit = self.most_rows(length)
        now = self._loop.time()
        items: list[Item] = []
        rows = 0
        while queue:
            head = queue[0].part.rows
            if items and rows + head > limit:
                break
            item = queue.popleft()
            self.queued_rows -= head
            if self._drop(item, now):
                self._release(item.engine)
                continue
            items.append(item)
            rows += head
        if not queue:
            del self._queues[key]
        return items

    def _drop(self, item: Item, now: float) -> bool:
        """Whether the item needs no run: answered, abandoned, or too late."""
        if item.reply.done():
            return True
        if item.gone():
            item.reply.cancel()
            return True
        if now >= item.deadline:
            item.reply.set_exception(DeadlinePassed("The deadline passed while the request waited for the device."))
            return True
        return False

    def _sweep(self) -> None:
        """Give back the places of callers who left and of deadlines that passed, also while the device is stuck."""
        self._sweep_planned = False
        now = self._loop.time()
        for key in list(self._queues):
            kept: deque[Item] = deque()
            for item in self._queues[key]:
                if self._drop(item, now):
                    self.queued_rows -= item.part.rows
                    self._release(item.engine)
                else:
                    kept.append(item)
            if kept:
                self._queues[key] = kept
            else:
                del self._queues[key]
        for item in self._flying:
            if now >= item.deadline and not item.reply.done():
                item.reply.set_exception(DeadlinePassed("The deadline passed while the device was at work."))
        if self._waiting is not None:
            self._waiting(self.queued_rows)
        if self._queues or self._flying:
            self._sweep_planned = True
            self._loop.call_later(_SWEEP_S, self._sweep)
        self._rest_if_idle()

    # ------------------------------------------------------------------ running

    def _run_forever(self) -> None:
        """The thread that owns the engines: batches, and closings of engines in their turn."""
        while (work := self._work.get()) is not None:
            if not isinstance(work, tuple):
                try:
                    work.close()
                except Exception:
                    log.exception("%s: a version could not be closed", self.name)
                continue
            done = run(*work)
            try:
                self._loop.call_soon_threadsafe(self._land, done)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _land(self, finished: list[Done]) -> None:
        self._flying = []
        for done in finished:
            self._settle(done)
        self._cause = "device_free"
        self._dispatch()

    def _settle(self, done: Done) -> None:
        if isinstance(done.outputs, Exception):
            log.error("a batch of %d rows failed on %s", done.rows, self.name, exc_info=done.outputs)
            for item in done.items:
                if not item.reply.done():
                    item.reply.set_exception(InternalError("The model failed on this input; the log has the reason."))
        else:
            self._scatter(done, done.outputs)
        if self._observe is not None:
            self._observe(report(done, self._reason))
        if self._spans is not None:
            self._spans.batch(self.name, done, self._sent, self._reason)
        for item in done.items:
            self._release(item.engine)

    @staticmethod
    def _scatter(done: Done, outputs: list[Array]) -> None:
        run_ms = (done.ended - done.started) * 1000
        engine = done.items[0].engine
        at = 0
        for item in done.items:
            until = at + item.part.rows
            if not item.reply.done():
                mine = [output[at:until] for output in outputs]
                queue_ms = (done.started - item.entered) * 1000
                item.reply.set_result(Answer(mine, engine.version, engine.provider, queue_ms, run_ms, done.rows))
            at = until

    # ------------------------------------------------------------------ book-keeping

    def _release(self, engine: Runner) -> None:
        left = self._unfinished[engine] - 1
        if left:
            self._unfinished[engine] = left
        else:
            del self._unfinished[engine]
            self._close_if_done(engine)

    def _close_if_done(self, engine: Runner) -> None:
        if engine in self._retired and engine not in self._unfinished:
            self._retired.discard(engine)
            self._work.put(engine)

    def _rest_if_idle(self) -> None:
        if not self._queues and not self._flying:
            self._idle.set()
