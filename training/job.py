"""One job from its spec to its end: which steps it takes, and what it does when the child dies, lies or gives up.

Knows neither the queue's engine nor torch: a `Ledger` records steps and events, an `Attempt` trains.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from models.jobs import (
    EpochEvent,
    EpochRow,
    ErrorEvent,
    JobEvent,
    JobResult,
    JobSpec,
    JobStatus,
    LogEvent,
    Progress,
    ProgressEvent,
    Snapshot,
    StageEvent,
    StatusEvent,
)
from models.manifest import now
from models.store import Store, StoreError, StoreHeldError
from training.attempt import Attempt, Place, command_of, name_of, place, place_of
from training.gate import GateError
from training.memory import Batch, give_back
from training.publish import CandidateError, publish
from training.retention import KEEP_ALL, Retention, prune_versions
from training.tracking import conclude
from training.turn import ready_folder

FIT = (sys.executable, "-m", "training", "fit")
ATTEMPTS = 3
TRIES = 3
"""How many workers in a row may die with a job before anything of it is finished."""
PROGRESS_EVERY_S = 0.5

log = logging.getLogger("training.worker")


@dataclass(frozen=True)
class JobSettings:
    """Where jobs work and publish, how long one may take, and the command that trains."""

    state: Path
    store: Path
    time_limit_s: float = 6 * 3600.0
    fit: Sequence[str] = FIT
    retention: Retention = KEEP_ALL


class Ledger(Protocol):
    """What makes a job durable. Inside a step, `tell` and `save` happen each time; outside, once for ever."""

    async def step(self, name: str, work: Callable[[], Awaitable[Any]], *, preemptible: bool = True) -> Any:
        """The JSON value of `work`, or the one recorded by an earlier execution; cancellation reaches into it."""

    async def tell(self, event: JobEvent) -> None:
        """Append an event to the job's stream."""

    async def save(self, snapshot: Snapshot) -> None:
        """Replace the job's snapshot."""

    async def count_try(self) -> int:
        """Count one more worker that took the job; how many did since something of it was finished."""

    async def count_progress(self) -> None:
        """This worker has finished something: it is the first to try the next."""


class _GaveUpError(Exception):
    """The job has failed; the sentence says why."""


class JobRun:
    """One execution of a job. Which steps it takes follows from recorded values alone, so that it can be replayed."""

    def __init__(self, job_id: str, spec: JobSpec, settings: JobSettings, ledger: Ledger) -> None:
        self.id, self.spec, self.settings, self.ledger = job_id, spec, settings, ledger
        self.work = settings.state / "jobs" / job_id
        self.batch = Batch(self.work, spec.batch_size)
        self.snapshot = Snapshot(status=JobStatus.RUNNING, started_at=now())
        self.result: JobResult | None = None
        self.parked = False  # paused, with no child: may be given to another worker
        self._attempt: Attempt | None = None
        self._pausing = False
        self._progressed = self._replaying = False
        self._tries = 1
        self._crashes = 0
        self._last_progress = 0.0
        self._begun, self._spent_s = time.monotonic(), 0.0
        self._limit_s = min(settings.time_limit_s, spec.time_limit_s or math.inf)

    async def run(self) -> Snapshot:
        """Take the job to its end: succeeded, rejected or failed."""
        started = await self.ledger.step("begin", _now_text, preemptible=False)
        self.snapshot = self.snapshot.model_copy(update={"started_at": datetime.fromisoformat(started)})
        await self.ledger.tell(StatusEvent(at=now(), status=JobStatus.RUNNING))
        await self.ledger.save(self.snapshot)
        self._tries = await self.ledger.count_try()
        try:
            await self._until(place("data"))
            await self._epochs()
            for stage in ("export", "parity", "evaluate"):
                await self._until(place(stage))
            candidate = StageEvent.model_validate(await self._until(place("candidate")))
            self.result = JobResult.model_validate(await self._take("publish", lambda: self._publish(candidate.path)))
        except _GaveUpError as exc:
            self.snapshot = self.snapshot.model_copy(update={"error": str(exc)})
        await self.close()
        await self.clear()
        await asyncio.to_thread(self._prune)
        self.snapshot = self.ended()
        log.info("job %s has %s %s", self.id, self.snapshot.status, self.snapshot.error or "")
        return self.snapshot

    def ended(self) -> Snapshot:
        """The last snapshot, from the result or the error."""
        if self.result is None:
            status = JobStatus.FAILED
        else:
            status = JobStatus.REJECTED if self.result.model is None else JobStatus.SUCCEEDED
        return self.snapshot.model_copy(update={"status": status, "result": self.result, "finished_at": now()})

    def _prune(self) -> None:
        """Make room for what was published; a store that refuses is asked again within the hour."""
        model = self.result.model if self.result is not None else None
        if model is not None:
            try:
                prune_versions(Store(self.settings.store), model.name, self.settings.retention.versions)
            except StoreError as exc:
                log.warning("job %s: %s", self.id, exc)
        give_back()

    def pause(self) -> None:
        """Stop at the next step's end, which the child may reach yet; `parked` is true then. From any thread."""
        self._pausing = True

    async def close(self) -> None:
        """End the child, if there is one."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            await attempt.close()

    async def clear(self) -> None:
        """Remove the job's folder: checkpoints and candidate are of no more use."""
        for words in await asyncio.to_thread(conclude, self.spec, self.work, self.id, self.result, self.snapshot.error):
            log.warning("job %s: %s", self.id, words)
        await asyncio.to_thread(shutil.rmtree, self.work, ignore_errors=True)

    # ------------------------------------------------------------------ in the workflow

    async def _take(self, name: str, work: Callable[[], Awaitable[Any]], *, preemptible: bool = False) -> Any:
        """A recorded step whose failure, a sentence, ends the job."""

        async def guarded() -> dict[str, Any]:
            self._replaying = False
            try:
                self._survivable()
                return {"value": await work()}
            except _GaveUpError as exc:
                return {"failure": str(exc)}

        if self._pausing:
            await self._park()
        self._replaying = True
        answer = await self.ledger.step(name, guarded, preemptible=preemptible)
        if not (self._replaying or self._progressed):
            self._progressed = True
            await self.ledger.count_progress()
        if "failure" in answer:
            raise _GaveUpError(answer["failure"])
        return answer["value"]

    def _survivable(self) -> None:
        """Give up a job that its workers do not survive; asked when it comes to what is not recorded yet."""
        if not self._progressed and self._tries > TRIES:
            raise _GaveUpError(f"the worker process died {self._tries - 1} times in a row while it ran this job")

    async def _park(self) -> None:
        """Wait for the end of this process."""
        await self.close()
        self.parked = True
        await asyncio.Event().wait()

    async def _until(self, goal: Place) -> Any:
        """The child's event at the goal; None, or the later stage it is in, when it had passed it."""
        return await self._take(name_of(goal), lambda: self._reach(goal), preemptible=True)

    async def _epochs(self) -> None:
        for epoch in range(1, self.spec.epochs + 1):
            reached = await self._until(place("epoch", epoch))
            if reached is None:
                continue
            if reached["type"] != "epoch":
                return
            event = EpochEvent.model_validate(reached)
            if self._replaying:  # an earlier worker's time counts as well
                self._spent_s += event.row.seconds
            await self.ledger.tell(event)
            await self._note(event.row)
            if event.stopped_early:
                return

    async def _note(self, row: EpochRow) -> None:
        last = self.snapshot.progress
        steps, eta_s = (last.steps, last.eta_s) if last else (1, None)
        progress = Progress(epoch=row.epoch, epochs=self.spec.epochs, step=steps, steps=steps, eta_s=eta_s)
        history = [*self.snapshot.history, row]
        self.snapshot = self.snapshot.model_copy(update={"history": history, "progress": progress})
        await self.ledger.save(self.snapshot)

    # ------------------------------------------------------------------ in a step

    async def _reach(self, goal: Place) -> Any:
        """Listen to the child, a new one if need be, until it is at the goal; what it repeats on the way is dropped."""
        while True:
            attempt = self._attempt or await self._start(goal)
            event = await self._next(attempt)
            if event is None:
                await self._crashed(attempt)
                continue
            if isinstance(event, ErrorEvent):
                await self._gave_up(event)
                continue
            reached = place_of(event)
            if reached is None:
                await self._pass_on(event)
            elif reached == goal:
                return event.model_dump(mode="json")
            elif reached > goal:
                attempt.put_back(event)
                return event.model_dump(mode="json") if isinstance(event, StageEvent) else None

    async def _start(self, goal: Place) -> Attempt:
        if goal > place("data") or self._crashes:
            await self._log("info", "a new training process goes on from the last finished epoch")
        await self.ledger.save(self.snapshot)  # refused when the job is another worker's by now
        try:
            folder = await asyncio.to_thread(ready_folder, self.work)
            spec = self.spec.model_copy(update={"batch_size": self.batch.size})
            self._attempt = await Attempt.start(
                command_of(self.settings.fit, spec, folder), folder, self.settings.store
            )
        except OSError as exc:
            raise _GaveUpError(f"the training process could not be started: {exc}") from exc
        return self._attempt

    def _left_s(self) -> float:
        return max(0.0, self._begun + self._limit_s - self._spent_s - time.monotonic())

    async def _next(self, attempt: Attempt) -> JobEvent | None:
        try:
            async with asyncio.timeout(self._left_s()):
                return await attempt.next()
        except TimeoutError:
            raise _GaveUpError(f"the job did not end within its time limit of {self._limit_s:g} seconds") from None

    async def _crashed(self, attempt: Attempt) -> None:
        words = await attempt.ended()
        self._attempt = None
        if attempt.out_of_memory:
            await self._starved(f"the training process was out of memory: {words}")
            return
        self._crashes += 1
        await self._log("warning", f"training process {self._crashes} of {ATTEMPTS} ended too early: {words}")
        if self._crashes >= ATTEMPTS:
            raise _GaveUpError(f"the training process ended too early {ATTEMPTS} times, the last time with {words}")

    async def _gave_up(self, event: ErrorEvent) -> None:
        await self.close()
        if event.code == "out_of_memory":
            await self._starved(event.message)
            return
        why = (
            f" (batch size {self.batch.size}; with {self.batch.full} it ran out of memory)" if self.batch.halved else ""
        )
        raise _GaveUpError(event.message + why)

    async def _starved(self, words: str) -> None:
        if not self.batch.halve():
            tried = f" and with {self.batch.size}" if self.batch.halved else ""
            raise _GaveUpError(f"out of memory with batch size {self.batch.full}{tried}: {words}")
        message = f"out of memory with batch size {self.batch.full}, tried once more with {self.batch.size}: {words}"
        await self._log("warning", message)

    async def _pass_on(self, event: JobEvent) -> None:
        if isinstance(event, LogEvent):
            await self.ledger.tell(event)
        elif isinstance(event, ProgressEvent) and time.monotonic() - self._last_progress >= PROGRESS_EVERY_S:
            self._last_progress = time.monotonic()
            self.snapshot = self.snapshot.model_copy(update={"progress": event.progress})
            await self.ledger.tell(event)
            await self.ledger.save(self.snapshot)

    async def _publish(self, candidate: str | None) -> Any:
        if candidate is None:
            raise _GaveUpError("the training process named no candidate")
        if not await asyncio.to_thread(Path(candidate).is_dir):  # on a machine that has died: made again here
            candidate = (await self._reach(place("candidate")))["path"]
        await self.ledger.save(self.snapshot)  # refused when the job is another worker's by now
        store = Store(self.settings.store)
        try:
            result = await asyncio.to_thread(publish, Path(candidate), store, self.spec.promote, self.id)
        except StoreHeldError as exc:
            if self._left_s() <= 0:
                raise _GaveUpError(f"the version could not be published in time: {exc}") from exc
            await self._log("warning", f"{exc}; trying again")
            return await self._publish(candidate)
        except (CandidateError, GateError, StoreError, OSError) as exc:
            raise _GaveUpError(f"the version could not be published: {exc}") from exc
        self.result = result
        return result.model_dump(mode="json")

    async def _log(self, level: Any, message: str) -> None:
        log.info("job %s: %s", self.id, message)
        await self.ledger.tell(LogEvent(at=now(), level=level, message=message))


async def _now_text() -> str:
    return now().isoformat()
