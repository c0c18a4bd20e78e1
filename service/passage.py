"""One request while canaries run: which version answers it, what happens when the candidate fails, and what is counted.

A request that names no version asks the registry for its model; while it is under way, that answer depends on the
request's key. So the routes need to know nothing of canaries.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from starlette.types import Scope

from service.agreement import is_finite
from service.batch import Answer, Part, Reply
from service.canary_tally import Side
from service.engine import Runner
from service.errors import Busy, DeadlinePassed, InternalError, ServiceError
from service.slot import Loaded
from service.trial import Trial
from service.wire import ClientGone, Header, header

KEY_HEADER = b"x-canary-key"
_CANDIDATES_SHARE_OF_TIME = 0.5
"""Of a request's time: what is left is enough for the live version to answer in the candidate's place."""

Told = tuple[Any, Sequence[Answer]]

_passing: ContextVar[Passage | None] = ContextVar("passing", default=None)


def passing() -> Passage | None:
    """The passage of the request that is being answered, if it has one."""
    return _passing.get()


def key_of(scope: Scope) -> bytes:
    """What keeps a client on one side: its `X-Canary-Key`, else the request's id."""
    given = header(scope, KEY_HEADER)
    if given:
        return given
    request_id: str = scope["state"]["request_id"]
    return request_id.encode()


class Lane:
    """The way of a request's rows to one side of a canary. To a route it is the place and the queue of the model."""

    def __init__(self, trial: Trial, live: Loaded, side: Side, *, shadowed: bool) -> None:
        self.trial = trial
        self.side = side
        self.shadowed = shadowed
        self.loaded = live if side == "live" else trial.candidate
        self.parts: Sequence[Part] = ()
        self.explained = False
        self._futures: list[asyncio.Future[Answer]] = []
        self._queue = trial.slot.batcher if side == "live" else trial.batcher

    @property
    def batcher(self) -> Lane:
        return self

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def answers(self) -> list[Answer]:
        """Of the parts, in order; none unless all were answered."""
        done = all(future.done() and not future.cancelled() and not future.exception() for future in self._futures)
        return [future.result() for future in self._futures] if done else []

    def submit(
        self,
        engine: Runner,
        parts: Sequence[Part],
        *,
        timeout_s: float,
        gone: Callable[[], bool] = lambda: False,
    ) -> list[asyncio.Future[Answer]]:
        if self.side == "candidate":
            timeout_s *= _CANDIDATES_SHARE_OF_TIME
        futures = self._queue.submit(self._runner(engine), parts, timeout_s=timeout_s, gone=gone)
        if self.parts:  # what follows from the first answers explains them
            self.explained = True
        else:
            self.parts, self._futures = parts, futures
        return futures

    def admit(self, engine: Runner, part: Part, reply: Reply, *, timeout_s: float, gone: Callable[[], bool]) -> None:
        self._queue.admit(self._runner(engine), part, reply, timeout_s=timeout_s, gone=gone)

    def hold(self, engine: Runner) -> AbstractContextManager[None]:
        return self._queue.hold(self._runner(engine))

    def _runner(self, engine: Runner) -> Runner:
        return engine if self.side == "live" else self.trial.runner

    def most_rows(self, length: int) -> int:
        return self._queue.most_rows(length)


class Passage:
    """The lanes of one request; `side` holds it to one side, else its key decides."""

    def __init__(self, key: bytes, side: Side | None = None) -> None:
        self._key = key
        self._side = side
        self._lanes: dict[Trial, Lane] = {}
        self._said: bytes | None = None

    def lane(self, trial: Trial, live: Loaded) -> Lane:
        """The lane of a model's rows; the same for all of them."""
        found = self._lanes.get(trial)
        if found is None:
            picked = self._side is None and trial.picks(self._key)
            side: Side = self._side or ("candidate" if picked and not trial.shadows else "live")
            found = self._lanes[trial] = Lane(trial, live, side, shadowed=picked and trial.shadows)
        elif found.side == "live":
            found.loaded = live  # the one before may have been swapped out while the request was decoded
        return found

    @property
    def headers(self) -> list[Header]:
        """What the answer says of the canary, if a candidate had to do with it."""
        return [(b"x-canary", self._said)] if self._said is not None else []

    async def run(self, answer: Callable[[], Awaitable[Told]]) -> Told:
        """The request's answer; the live version's where the candidate has none, which is counted and said."""
        token = _passing.set(self)
        try:
            told = await answer()
            if not all(map(is_finite, [each for lane in self._on("candidate") for each in lane.answers])):
                raise _NoNumbersError  # noqa: TRY301 (one way for all that goes wrong)
        except ClientGone:
            raise
        except Exception as error:
            if self._on("candidate"):
                return await self._fall_back(error, answer)
            self._count_failed("live", error)
            raise
        finally:
            _passing.reset(token)
        for lane in self._lanes.values():
            if not lane.trial.shadows and lane.answers:
                lane.trial.answered(lane.side, lane.answers)
                if lane.side == "candidate":
                    self._said = b"candidate"
        return told

    def afterwards(self, again: Callable[[], Awaitable[Told]]) -> None:
        """Shadow what was answered; to be called when the client has its answer.

        `again` answers the same request anew, for a candidate that reads requests in a way of its own.
        """
        for trial, lane in self._lanes.items():
            if not lane.shadowed or trial.closed or not lane.answers:
                continue
            if trial.reads_alike:
                trial.shadow(lane.parts, lane.answers)
            elif lane.explained:
                trial.dropped(lane.rows)  # the explanation is no part of the comparison
            else:
                trial.again(functools.partial(_compared, trial, lane, again), lane.rows)

    # ------------------------------------------------------------------ inside

    def _on(self, side: Side) -> list[Lane]:
        return [lane for lane in self._lanes.values() if lane.side == side]

    def _count_failed(self, side: Side, error: Exception) -> None:
        if _is_ours(error):
            for lane in self._on(side):
                if not lane.trial.shadows:
                    lane.trial.failed(side, max(1, lane.rows))

    async def _fall_back(self, error: Exception, answer: Callable[[], Awaitable[Told]]) -> Told:
        """Answer from the live versions; the candidates have failed if it is theirs or the live ones can answer."""
        live = Passage(self._key, "live")
        token = _passing.set(live)
        try:
            told = await answer()
        except ClientGone:
            raise
        except Exception as second:
            self._count_failed("candidate", error)
            live._count_failed("live", second)
            raise
        finally:
            _passing.reset(token)
        for lane in self._on("candidate"):
            if not lane.trial.closed:  # one that has just ended did nothing wrong
                there = live._lanes.get(lane.trial)
                lane.trial.failed("candidate", max(1, lane.rows, there.rows if there is not None else 0))
                lane.trial.fell_back(str(error) or type(error).__name__)
                self._said = b"fallback"
        return told


class _NoNumbersError(InternalError):
    def __init__(self) -> None:
        super().__init__("the answer is not a number")


async def _compared(trial: Trial, lane: Lane, again: Callable[[], Awaitable[Told]]) -> None:
    """The candidate's own reading of a request, compared with the live version's answers."""
    passage = Passage(b"", "candidate")
    token = _passing.set(passage)
    try:
        await again()
    except (Busy, DeadlinePassed):
        trial.dropped(lane.rows)
    except ServiceError:
        if not trial.closed:
            trial.answered("live", lane.answers)
            trial.failed("candidate", lane.rows)
    else:
        for one, other in zip(lane.answers, passage.lane(trial, lane.loaded).answers, strict=not trial.closed):
            trial.compare(one, other)
    finally:
        _passing.reset(token)


def _is_ours(error: Exception) -> bool:
    """Whether an error is not the client's doing."""
    return not isinstance(error, ServiceError) or error.status >= 500 or error.status == 429
