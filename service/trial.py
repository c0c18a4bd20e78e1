"""A canary in one process: the candidate loaded beside the live version, with a queue and a thread of its own.

Whatever the candidate does, the live version's queue does not wait for it.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from models.canary import CanaryOrder
from models.manifest import Manifest
from service.agreement import Reading, is_finite
from service.batch import Answer, BatchReport, Entrance, Part, Reply
from service.batcher import Batcher
from service.canary_tally import CanaryTally, Side
from service.engine import Array, Engine, Runner, Tensors
from service.errors import ServiceError
from service.loader import lower_priority
from service.metrics import Metrics
from service.settings import Settings
from service.slot import Loaded, Slot

log = logging.getLogger(__name__)

_SHARES = 10_000
_SHADOW_BATCHES = 4
"""Batches of rows that may wait for a shadowed candidate; what comes beyond them is dropped, and counted."""
_NO_DEADLINE_S = 86_400.0


class Background:
    """A candidate's engine that never runs on the event loop, and on its own thread only when others leave room."""

    def __init__(self, engine: Engine) -> None:
        self.version, self.provider = engine.version, engine.provider
        self._engine = engine
        self._polite = False

    def bucket_length(self, length: int) -> int:
        return self._engine.bucket_length(length)

    def padded_rows(self, rows: int) -> int:
        return self._engine.padded_rows(rows)

    def quick(self, rows: int, length: int) -> bool:  # noqa: ARG002 (a Runner's)
        return False

    def run(self, parts: list[Tensors], rows: int, length: int) -> list[Array]:
        if not self._polite:
            self._polite = True
            lower_priority()
        return self._engine.run(parts, rows, length)

    def is_sound(self) -> bool:
        return self._engine.is_sound()

    def close(self) -> None:
        self._engine.close()


class Trial:
    """One running canary. `on_lost` is called when the candidate's device no longer answers right."""

    def __init__(
        self,
        order: CanaryOrder,
        slot: Slot,
        candidate: Loaded,
        tally: CanaryTally,
        metrics: Metrics,
        settings: Settings,
        on_lost: Callable[[str], None],
    ) -> None:
        self.order = order
        self.slot = slot
        self.candidate = candidate
        self.tally = tally
        self.closed = False
        self.shadows = order.mode == "shadow"
        self.runner: Runner = Background(candidate.engine) if self.shadows else candidate.engine
        self.watched: Entrance = _Watched(self)
        self.reads_alike = slot.live is not None and _read_alike(slot.live.manifest, candidate.manifest)
        self._metrics = metrics
        self._on_lost = on_lost
        self._below = order.percent * _SHARES / 100
        self._salt = f"{slot.name}/{order.version}/".encode()
        candidates = Reading(candidate.manifest)
        self._readings: dict[Side, Reading] = {
            "live": Reading(slot.live.manifest) if slot.live is not None else candidates,
            "candidate": candidates,
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._rereading = 0
        rows = settings.max_batch_rows
        self._most_shadowed = _SHADOW_BATCHES * rows
        self.batcher = Batcher(
            slot.name,
            max_queue_rows=self._most_shadowed if self.shadows else settings.max_queue_rows,
            max_batch_rows=rows,
            max_wait_ms=0.0 if self.shadows else settings.max_wait_ms,
            observe=self._observe,
            spans=None if self.shadows else metrics.spans,
        )
        self._counts = metrics.canaries.of(slot.name, order.version, order.mode)
        self._counts.percent.set(order.percent)

    def picks(self, key: bytes) -> bool:
        """Whether a request of that key belongs to the canary's share: the same in every process.

        A candidate's larger share holds its smaller ones; another candidate gets other keys.
        """
        digest = hashlib.blake2b(self._salt + key, digest_size=8).digest()
        return int.from_bytes(digest) % _SHARES < self._below

    # ------------------------------------------------------------------ counting

    def answered(self, side: Side, answers: Sequence[Answer]) -> bool:
        """Count a request that one side has answered; False for an answer that holds a NaN: that is a failure."""
        rows = sum(len(answer.outputs[0]) for answer in answers)
        if not all(map(is_finite, answers)):
            self.failed(side, rows)
            return False
        slowest = max(answers, key=lambda answer: answer.queue_ms + answer.run_ms)
        self.tally.answered(
            side,
            rows,
            queue_ms=slowest.queue_ms,
            run_ms=slowest.run_ms,
            batch_rows=slowest.batch_rows,
            certainty=sum(self._readings[side].certainty(answer.outputs) for answer in answers),
        )
        return True

    def failed(self, side: Side, rows: int) -> None:
        """Count a request that one side could not answer."""
        self.tally.failed(side, rows)
        if side == "candidate":
            self._counts.failed_rows.inc(rows)

    def saw(self, part: Part, answer: Answer) -> None:
        """The live version has answered a part on the short way: count it, or shadow it."""
        if self.shadows:
            self.shadow([part], [answer])
        else:
            self.answered("live", [answer])

    def missed(self, part: Part) -> None:
        """The live version has not answered a part on the short way."""
        if not self.shadows:
            self.failed("live", part.rows)

    def fell_back(self, reason: str) -> None:
        """Count a request that the live version answered in the candidate's place."""
        self.tally.count("fallbacks")
        self._counts.fallbacks.inc()
        log.warning("%s version %d failed a request of its canary: %s", self.slot.name, self.order.version, reason)

    def dropped(self, rows: int) -> None:
        """Count rows that were to be shadowed and were not, for the candidate was too far behind."""
        self.tally.count("dropped_rows", rows)
        self._counts.dropped_rows.inc(rows)

    def compare(self, live: Answer, candidate: Answer) -> None:
        """Count both answers to the same rows, and how far they agree."""
        counted = [self.answered("live", [live]), self.answered("candidate", [candidate])]
        if not all(counted):
            return
        mine, theirs = self._readings["live"], self._readings["candidate"]
        agreed, shift, difference = mine.compare(live.outputs, candidate.outputs, theirs)
        rows = len(live.outputs[0])
        for what, number in (("compared_rows", rows), ("agreed", agreed), ("shift", shift), ("difference", difference)):
            self.tally.count(what, number)
        self._counts.compared_rows.inc(rows)
        self._counts.agreed_rows.inc(agreed)

    # ------------------------------------------------------------------ running

    def shadow(self, parts: Sequence[Part], answers: Sequence[Answer]) -> None:
        """Run rows that the live version has answered on the candidate too, if it keeps up. Raises nothing."""
        for part, answer in zip(parts, answers, strict=True):
            if answer.version != self.order.against:
                continue  # another version has just gone live
            try:
                self.batcher.admit(
                    self.runner, part, _Shadow(self, answer), timeout_s=_NO_DEADLINE_S, gone=self._is_closed
                )
            except ServiceError:
                self.dropped(part.rows)

    def again(self, call: Callable[[], Coroutine[Any, Any, None]], rows: int) -> None:
        """Shadow rows by a call that reads their request anew, if the candidate keeps up."""
        if self._rereading + rows > self._most_shadowed:
            self.dropped(rows)
            return
        self._rereading += rows
        task = asyncio.get_running_loop().create_task(call())
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._reread, rows))

    def close(self) -> None:
        """Take no more requests; `finish` waits for those that are under way."""
        self.closed = True
        self._counts.percent.set(0)

    async def finish(self) -> None:
        """Finish what was admitted, but for shadows, and free the session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.batcher.close()
        self.candidate.engine.close()

    def _reread(self, rows: int, task: asyncio.Task[None]) -> None:
        self._rereading -= rows
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a request could not be shadowed on %s", self.slot.name, exc_info=error)
            self.failed("candidate", rows)

    def _is_closed(self) -> bool:
        return self.closed

    def _observe(self, report: BatchReport) -> None:
        if not report.failed:
            self._counts.rows.inc(report.rows)
        if not self.shadows:
            self._metrics.batch(self.slot.name, report)
        if report.failed and not report.sound:
            self._on_lost(f"{report.engine.provider} failed while running version {self.order.version}")


class _Shadow:
    """Where the candidate's answer to a shadowed part goes: to be compared, and to nobody else."""

    def __init__(self, trial: Trial, live: Answer) -> None:
        self._trial = trial
        self._live = live

    def done(self) -> bool:
        return False

    def set_result(self, answer: Answer) -> None:
        try:
            self._trial.compare(self._live, answer)
        except Exception as error:  # the batcher's loop must live on
            log.error("an answer of the canary of %s cannot be compared", self._trial.slot.name, exc_info=error)
            self._trial.failed("candidate", len(self._live.outputs[0]))

    def set_exception(self, error: ServiceError) -> None:  # noqa: ARG002 (a Reply's)
        self._trial.answered("live", [self._live])
        self._trial.failed("candidate", len(self._live.outputs[0]))

    def cancel(self) -> None:
        """The canary has ended."""


class _Watched:
    """The live version's queue on the short way: its answers are counted, or shadowed, when they have been given."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def admit(self, engine: Runner, part: Part, reply: Reply, *, timeout_s: float, gone: Callable[[], bool]) -> None:
        watched = _WatchedReply(reply, self._trial, part)
        try:
            self._trial.slot.batcher.admit(engine, part, watched, timeout_s=timeout_s, gone=gone)
        except ServiceError:
            self._trial.missed(part)
            raise


class _WatchedReply:
    def __init__(self, reply: Reply, trial: Trial, part: Part) -> None:
        self._reply = reply
        self._trial = trial
        self._part = part

    def done(self) -> bool:
        return self._reply.done()

    def set_result(self, answer: Answer) -> None:
        self._reply.set_result(answer)
        self._trial.saw(self._part, answer)

    def set_exception(self, error: ServiceError) -> None:
        self._reply.set_exception(error)
        self._trial.missed(self._part)

    def cancel(self) -> None:
        self._reply.cancel()


def _read_alike(live: Manifest, candidate: Manifest) -> bool:
    """Whether both versions make the same tensors of a request: the live one's rows do for the candidate then."""
    if live.text is not None and candidate.text is not None:
        files = live.files[live.text.tokenizer], candidate.files[candidate.text.tokenizer]
        return files[0] == files[1] and live.text == candidate.text
    if live.series is None or candidate.series is None:
        return live.series == candidate.series
    ours, theirs = (spec.model_copy(update={"ranges": None}) for spec in (live.series, candidate.series))
    return ours == theirs


Trials = Mapping[str, Trial]
"""The running canaries of a process by the name of their model."""
