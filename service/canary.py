"""The canaries of one process: the orders in the store followed, judged and ended.

Every process on the same store does this for itself. What an order says holds in all of them as soon as they see it;
which of them ends it is decided where its state is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from typing import Any

from models.canary import (
    CanaryBoard,
    CanaryError,
    CanaryOrder,
    CanaryOutcome,
    CanaryRule,
    CanaryState,
    End,
    Mode,
    Verdict,
)
from models.store import Store, StoreError
from service.canary_schemas import CanaryFigures
from service.canary_tally import CanaryTally, CanaryTotals
from service.device import DeviceError
from service.engine import EngineError
from service.loader import Loader
from service.metrics import Metrics
from service.settings import Settings
from service.slot import Loaded, Slot
from service.trial import Trial

log = logging.getLogger(__name__)

_FLUSH_TICKS = 4


class OtherContractError(Exception):
    """The candidate does not take or give what the live version does."""


class NotLiveError(Exception):
    """There is no live version to try another against, or it is the candidate itself."""


class Canaries:
    """All canaries of a process. `trials` holds the running ones; it is the same object for ever."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics, loader: Loader) -> None:
        self.board = CanaryBoard(store.root)
        self.trials: dict[str, Trial] = {}
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._loader = loader
        self._process = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self._told: dict[str, str] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._passed: set[tuple[str, int]] = set()
        self._ticks = 0

    # ------------------------------------------------------------------ orders

    async def start(
        self, slot: Slot, version: int, *, percent: float, mode: Mode, rule: CanaryRule | None
    ) -> CanaryOrder:
        """Load a version beside the live one, and order its canary in every process.

        Raises what keeps it from that: StoreError, EngineError and DeviceError of the version, NotLiveError,
        OtherContractError, CanaryRunsError, CanaryError.
        """
        name = slot.name
        async with self._lock(name):
            live = slot.live
            manifest = await self._loader.look(self._store.manifest, name, version)
            if live is None or version == live.version:
                raise NotLiveError(f"{name} version {version} is live" if live else f"{name} has no live version")
            if not manifest.keeps_contract_of(live.manifest):
                raise OtherContractError(
                    f"{name} version {version} has other inputs, outputs or labels than version {live.version}"
                )
            candidate = await slot.load(version)

            def check() -> None:
                self._store.folder(name, version)
                if self._store.live(name) != live.version:
                    raise NotLiveError(f"the live version of {name} has just changed")

            try:
                order = await self._loader.run(
                    self.board.start,
                    name,
                    check=check,
                    version=version,
                    against=live.version,
                    percent=percent,
                    mode=mode,
                    rule=rule,
                    kind=manifest.kind,
                )
            except BaseException:
                candidate.engine.close()
                raise
            log.info("%s version %d: canary %d, %g %% %s", name, version, order.number, percent, mode)
            self._drop(name)  # one that has ended and was not seen to
            await self._open(slot, order, candidate)
            return order

    async def end(self, name: str, order: CanaryOrder, outcome: End, reason: str) -> CanaryOutcome | None:
        """End an order, in every process; None when it has ended meanwhile. `promoted` makes it live first."""

        def first() -> dict[str, Any]:
            if outcome == "promoted":
                live = self._store.live(name)
                if live not in {order.against, order.version}:
                    raise NotLiveError(f"version {live} of {name} went live meanwhile")
                if live == order.against:
                    self._store.promote(name, order.version)
            return self.figures(name, order).model_dump(mode="json")

        ended = await self._loader.run(self.board.end, name, order.number, outcome, reason, first=first)
        if ended is not None:
            self._metrics.canaries.outcomes.labels(name, outcome).inc()
            level = logging.WARNING if outcome == "aborted" else logging.INFO
            log.log(level, "%s version %d: canary %d %s: %s", name, order.version, order.number, outcome, reason)
        return ended

    async def state(self, name: str) -> CanaryState:
        """What runs and what ran last. An order whose live version is live no more has ended."""
        state = await self._loader.look(self.board.state, name)
        order = state.running
        if order is None:
            return state
        live = await self._loader.look(self._store.live, name)
        if live == order.against:
            return state
        outcome: End = "promoted" if live == order.version else "superseded"
        await self.end(name, order, outcome, f"version {live} went live")
        return await self._loader.look(self.board.state, name)

    def figures(self, name: str, order: CanaryOrder) -> CanaryFigures:
        """What all processes have counted for an order; reads files."""
        return CanaryFigures.of(CanaryTotals(self.board.tallies(name, order.number)), order.kind)

    # ------------------------------------------------------------------ following

    async def follow(self, slot: Slot) -> None:
        """Bring this process into line with the store: open what was ordered, close what has ended, judge what runs."""
        async with self._lock(slot.name):
            try:
                await self._follow(slot)
                self._told.pop(slot.name, None)
            except Exception as exc:  # whoever watches the store must live on
                self._stamps.pop(slot.name, None)  # the next look tries again
                if self._told.get(slot.name) != str(exc):
                    self._told[slot.name] = str(exc)
                    expected = isinstance(exc, CanaryError | StoreError)
                    log.error("%s: its canary: %s", slot.name, exc, exc_info=None if expected else exc)

    def changed(self, name: str) -> bool:
        """Whether a canary was ordered or has ended since the last look; cheap enough to ask twice a second."""
        stamp = self.board.stamp(name)
        if stamp == self._stamps.get(name):
            return False
        self._stamps[name] = stamp
        return True

    async def close(self) -> None:
        """Leave all canaries; the orders stay."""
        for name in list(self.trials):
            self._drop(name)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ inside

    async def _follow(self, slot: Slot) -> None:
        order = (await self.state(slot.name)).running
        trial = self.trials.get(slot.name)
        if trial is not None and (order is None or order.number != trial.order.number):
            await slot.refresh()  # what it was promoted to answers before the candidate goes
            self._drop(slot.name)
            trial = None
        if order is None:
            return
        if trial is None:
            if slot.live is not None and slot.live.version == order.against:
                await self._join(slot, order)
        else:
            await self._judge(slot, trial)

    async def _join(self, slot: Slot, order: CanaryOrder) -> None:
        """Take part in an order that another process gave, or this one before it was started anew."""
        try:
            candidate = await slot.load(order.version)
        except (StoreError, EngineError, DeviceError) as exc:
            await self.end(slot.name, order, "aborted", str(exc))
            return
        await self._open(slot, order, candidate)

    async def _open(self, slot: Slot, order: CanaryOrder, candidate: Loaded) -> None:
        try:
            tally = await self._loader.run(self._tally, slot.name, order)
        except OSError as exc:
            candidate.engine.close()
            await self.end(slot.name, order, "aborted", f"its rows cannot be counted: {exc.strerror}")
            return

        def lost(reason: str) -> None:
            self._soon(self._abort(slot, order, reason))

        trial = Trial(order, slot, candidate, tally, self._metrics, self._settings, lost)
        self.trials[slot.name] = trial

    def _tally(self, name: str, order: CanaryOrder) -> CanaryTally:
        return CanaryTally(self.board.tally(name, order.number, f"{self._process}-{uuid.uuid4().hex[:8]}"))

    def _drop(self, name: str) -> None:
        trial = self.trials.pop(name, None)
        if trial is not None:
            trial.close()
            self._soon(trial.finish())

    async def _abort(self, slot: Slot, order: CanaryOrder, reason: str) -> None:
        await self.end(slot.name, order, "aborted", reason)
        await self.follow(slot)

    async def _judge(self, slot: Slot, trial: Trial) -> None:
        name, order = slot.name, trial.order
        self._ticks += 1
        if self._ticks % _FLUSH_TICKS == 0:
            await self._loader.run(trial.tally.flush)
        if order.rule is None:
            return
        verdict = verdict_of(order, await self._loader.look(self.figures, name, order))
        if verdict is None or verdict.state == "waiting":
            return
        if verdict.state == "failed":
            await self.end(name, order, "aborted", verdict.reason)
        elif order.rule.on_pass == "promote":  # noqa: S105 (no password)
            await self._promote(name, order, verdict.reason)
        elif (name, order.number) not in self._passed:
            self._passed.add((name, order.number))
            log.info("%s version %d: canary %d has passed: %s", name, order.version, order.number, verdict.reason)
            return
        else:
            return
        await slot.refresh()
        self._drop(name)

    async def _promote(self, name: str, order: CanaryOrder, reason: str) -> None:
        try:
            await self.end(name, order, "promoted", reason)
        except NotLiveError:
            return  # the next look ends it
        except StoreError as exc:
            await self.end(name, order, "aborted", f"it passed ({reason}), and cannot be promoted: {exc}")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _soon(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a canary could not be ended", exc_info=exc)


def verdict_of(order: CanaryOrder, figures: CanaryFigures) -> Verdict | None:
    """What the order's rule says now; None without a rule."""
    if order.rule is None:
        return None
    return order.rule.judge(
        rows=figures.candidate.rows,
        failed=figures.candidate.failed_rows,
        compared=figures.compared_rows,
        agreement=figures.agreement,
    )
