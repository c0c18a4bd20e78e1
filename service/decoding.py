"""The queue in front of decoding: work that is too long for the event loop goes to bounded threads, small work first.

Two lanes with threads of their own, so that a small picture never waits for a large one. In a lane the cheaper request
goes first, but one that has waited long enough goes before any that came later. Everything but the work itself happens
on the event loop: no locks.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from time import thread_time
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

from service.bodies import Bodies
from service.caller import Caller
from service.errors import Busy, DeadlinePassed
from service.metrics import Metrics
from service.settings import Settings
from service.wire import ClientGone
from service.workers import threads_for

P = ParamSpec("P")
R = TypeVar("R")

SMALL_PIXELS = 1_048_576
"""Work of at most so many pixels, or bytes, is small."""
_SMALL_THREADS, _MOST_LARGE_THREADS = 2, 2
_SWEEP_S = 0.05
_LONG_S = 0.1
"""After a call of more CPU seconds its thread rests for as long: such calls hold the interpreter's lock for much of
their time, and one behind the other would leave the event loop little of it."""
_PIXELS_PER_S = 10_000_000
"""A request is passed by cheaper ones that come later, for a second per so many of its pixels."""

LaneName = Literal["small", "large"]


class _Job(NamedTuple):
    """One call that waits for a thread; the heap compares `key` and `number` only."""

    key: float
    number: int
    call: Callable[[], Any]
    reply: asyncio.Future[Any]
    admission: Admission


class Admission:
    """The place of one request in the queue; it is given back when the request has ended and no thread works for it."""

    def __init__(self, lane: _Lane, pixels: int, caller: Caller) -> None:
        self.caller = caller
        self.pixels = pixels
        self.running = 0
        self.ended = False
        self._lane = lane
        self._entered = lane.now()

    async def run(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The call's result, from a thread. ClientGone and DeadlinePassed before the call is begun, or while it runs.

        A call that has begun cannot be stopped: its thread finishes it, and nobody waits for it.
        """
        reply: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        key = self._entered + self.pixels / _PIXELS_PER_S
        self._lane.push(key, functools.partial(call, *args, **kwargs), reply, self)
        return await reply

    def end(self) -> None:
        """The request needs no further thread."""
        self.ended = True
        self._lane.release(self)


class _Lane:
    """One bounded queue and its threads."""

    def __init__(
        self,
        name: LaneName,
        threads: int,
        max_requests: int,
        max_pixels: int,
        *,
        metrics: Metrics | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self.requests = self.pixels = 0
        self._threads = threads
        self._max_requests, self._max_pixels = max_requests, max_pixels
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"decode-{name}")
        self._clock = clock
        self._waiting: list[_Job] = []
        self._running: set[_Job] = set()
        self._number = 0
        self._sweep_planned = False
        self._resting = 0
        self._depth = metrics.decode_queue.labels(name) if metrics is not None else None
        self._rejected = metrics.decode_rejected.labels(name) if metrics is not None else None

    def now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()

    def admit(self, pixels: int, caller: Caller) -> Admission:
        """A place for a request. Busy when the lane is full; one request alone may be larger than the lane."""
        full = self.requests >= self._max_requests or self.pixels + pixels > self._max_pixels
        if self.requests and full:
            if self._rejected is not None:
                self._rejected.inc()
            raise Busy(
                f"{self.requests} requests with {self.pixels:,} pixels wait to be decoded; try again, or send a "
                "smaller picture."
            )
        self.requests += 1
        self.pixels += pixels
        self._show()
        return Admission(self, pixels, caller)

    def push(self, key: float, call: Callable[[], Any], reply: asyncio.Future[Any], admission: Admission) -> None:
        """Queue one call of an admitted request."""
        self._number += 1
        heappush(self._waiting, _Job(key, self._number, call, reply, admission))
        self._start()
        if not self._sweep_planned and (self._waiting or self._running):
            self._sweep_planned = True
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep_again)

    def release(self, admission: Admission) -> None:
        if admission.ended and not admission.running:
            self.requests -= 1
            self.pixels -= admission.pixels
            self._show()

    def sweep(self) -> None:
        """End the waiting of callers who left and of requests whose deadline has passed, behind a long call too."""
        now = self.now()
        self._waiting = [job for job in self._waiting if not _dropped(job, now)]
        heapify(self._waiting)
        for job in self._running:
            _dropped(job, now)

    def _sweep_again(self) -> None:
        self._sweep_planned = bool(self._waiting or self._running)
        if self._sweep_planned:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep_again)
        self.sweep()

    def _start(self) -> None:
        """Give the free threads the next calls whose callers still wait."""
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._running) + self._resting < self._threads:
            job = heappop(self._waiting)
            if _dropped(job, self.now()):
                continue
            self._running.add(job)
            job.admission.running += 1
            future = loop.run_in_executor(self._executor, _timed, job.call)
            future.add_done_callback(functools.partial(self._finished, job))

    def _finished(self, job: _Job, future: asyncio.Future[Any]) -> None:
        self._running.discard(job)
        job.admission.running -= 1
        self.release(job.admission)
        result, error, cpu_s = future.result()
        if not job.reply.done():
            if error is not None:
                job.reply.set_exception(error)
            else:
                job.reply.set_result(result)
        if cpu_s > _LONG_S:
            self._resting += 1
            asyncio.get_running_loop().call_later(cpu_s, self._rested)
        self._start()

    def _rested(self) -> None:
        self._resting -= 1
        self._start()

    def _show(self) -> None:
        if self._depth is not None:
            self._depth.set(self.requests)


class DecodeQueue:
    """All that decodes off the event loop in one process: pictures of both routes, large JSON, tensors.

    `bodies` counts the bytes of all requests in hand, those that wait here among them.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        requests, pixels = settings.max_decode_requests, settings.max_decode_pixels
        self.max_pixels = pixels
        self.bodies = Bodies(settings.max_bodies_bytes, metrics.bodies_bytes.set if metrics is not None else None)
        large_threads = min(_MOST_LARGE_THREADS, threads_for(settings))
        self.small = _Lane("small", _SMALL_THREADS, requests, requests * SMALL_PIXELS, metrics=metrics, clock=clock)
        self.large = _Lane("large", large_threads, requests, pixels, metrics=metrics, clock=clock)

    @contextmanager
    def admit(self, pixels: int, caller: Caller) -> Iterator[Admission]:
        """A place in the queue for work of so many pixels, or bytes of text, inside the block. Busy when it is full."""
        lane = self.small if pixels <= SMALL_PIXELS else self.large
        admission = lane.admit(pixels, caller)
        try:
            yield admission
        finally:
            admission.end()

    async def run(self, pixels: int, caller: Caller, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of one call of so many pixels; raises as `admit` and `Admission.run` do."""
        with self.admit(pixels, caller) as admission:
            return await admission.run(call, *args, **kwargs)


def _timed(call: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
    """The call's result or what it raised, and the CPU seconds that it took."""
    started = thread_time()
    try:
        return call(), None, thread_time() - started
    except BaseException as error:
        return None, error, thread_time() - started


def _dropped(job: _Job, now: float) -> bool:
    """Whether nobody waits for a call any more; who still listens is told why."""
    if job.reply.done():
        return True
    caller = job.admission.caller
    if caller.gone():
        job.reply.set_exception(ClientGone())
    elif now >= caller.deadline:
        job.reply.set_exception(DeadlinePassed("The deadline passed while the request waited to be decoded."))
    return job.reply.done()
