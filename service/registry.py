"""Model names to slots: which models are served, and which of them answers by default for a kind of input."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from models.jobs import Recipes
from models.manifest import Kind
from models.store import Store, StoreReadError
from service.background import Background
from service.canary import Canaries
from service.catalogue import Catalogue
from service.device import Device
from service.errors import InvalidInput, NotFound, Unavailable
from service.loader import Loader
from service.metrics import Metrics
from service.passage import passing
from service.settings import Settings
from service.slot import Loaded, Place, Slot

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_WATCH_S = 0.5
_WATCHER = "store watcher"
_FRESH_S = 2.0
Stamp = tuple[int, int, bytes]
"""Time of change, number and, while it is fresh, content of a file."""


class Registry:
    """All slots of one process. `start` loads the default models; others are loaded when first asked for."""

    device: Device

    def __init__(
        self,
        store: Store,
        recipes: Recipes,
        settings: Settings,
        metrics: Metrics,
        background: Background | None = None,
    ) -> None:
        self.store = store
        self.catalogue = Catalogue(store)
        self._root = str(store.root)
        self.background = background or Background()
        self.closing = False  # set as soon as the process is told to stop
        self.defaults = {
            recipe.kind: recipe.networks[recipe.default_network].model for recipe in reversed(recipes.tasks.values())
        }
        self._settings = settings
        self.metrics = metrics
        self._loader = Loader()
        self.canaries = Canaries(store, settings, metrics, self._loader)
        self.trials = self.canaries.trials
        self._slots: dict[str, Slot] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._stamps: dict[str, Stamp | None] = {}

    async def start(self, device: Device) -> None:
        """Load, warm up and self-test the default models on `device`, then watch the store.

        Raises DeviceError when `cuda` was asked for and a session did not get it.
        """
        self.device = device
        for name in self.defaults.values():
            slot = self._open(name)
            await slot.refresh()
            await self.canaries.follow(slot)
        self._loader.be_polite()
        self._watcher = self.background.every(_WATCHER, _WATCH_S, self._look)

    async def close(self) -> None:
        """Stop watching, finish every admitted row, free the sessions."""
        for name in (_WATCHER, *(_thread_of(name) for name in self._slots)):
            self.background.stop(name)
        await self.canaries.close()
        await asyncio.gather(*(slot.close() for slot in self._slots.values()))
        self._loader.close()

    async def model(self, kind: Kind, name: str | None, version: int | None) -> tuple[Place, Loaded]:
        """The place and version for a request of a kind (`image`, `text`, `series`).

        NotFound for an unknown model or version, InvalidInput for a model of another kind, Unavailable for a bad one.
        """
        chosen = name or self.defaults.get(kind)
        if chosen is None:
            raise NotFound(f"No model here takes {kind} input.", code="model_not_found")
        slot = await self.slot(chosen)
        loaded = await slot.get(version)
        if loaded.manifest.kind != kind:
            raise InvalidInput(
                f"{chosen} takes {loaded.manifest.kind} input, this request is {kind} input; see GET /models",
                code="wrong_kind",
                errors=[(("model",), f"takes {loaded.manifest.kind} input")],
            )
        if version is None and (trial := self.trials.get(chosen)) and (passage := passing()):
            lane = passage.lane(trial, loaded)
            return lane, lane.loaded
        return slot, loaded

    def at_once(self, kind: Kind) -> tuple[Slot, Loaded] | None:
        """The default model's for a kind, if it can answer without waiting for anything."""
        slot = self._slots.get(self.defaults.get(kind, ""))
        if slot is None or slot.live is None or slot.fault is not None or slot.live.manifest.kind != kind:
            return None
        return slot, slot.live

    async def slot(self, name: str) -> Slot:
        """The slot of a model, opened if it is in the store and was not asked for before; NotFound otherwise."""
        slot = self._slots.get(name)
        if slot is None:
            if name not in await self.names():
                known = ", ".join(await self.names())
                raise NotFound(f"There is no model {name!r}; there are: {known}.", code="model_not_found")
            slot = self._slots.get(name) or self._open(name)
        if slot.live is None:
            await slot.refresh()
            await self.canaries.follow(slot)
        return slot

    async def names(self) -> list[str]:
        """Models in the store."""
        return await self.in_store(self.store.names)

    async def in_store(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """A call that only looks at the store, off the event loop and beside the loader.

        Unavailable while the system does not let it be read.
        """
        try:
            return await self._loader.look(call, *args, **kwargs)
        except StoreReadError as exc:
            raise Unavailable.store(exc, self.store.root) from None

    async def change(self, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """A call that changes the store, on the loader's thread; raises what the call does."""
        return await self._loader.run(call, *args, **kwargs)

    async def follow(self, name: str) -> None:
        """Follow the live pointer of a model now instead of at the watcher's next look."""
        if name in self._slots:
            await self._slots[name].refresh()
            await self.canaries.follow(self._slots[name])

    def loaded(self, name: str) -> Slot | None:
        """The slot of a model that this process has open."""
        return self._slots.get(name)

    def problems(self) -> dict[str, str]:
        """What is wrong with each default model, and what has ended; empty when the process is ready."""
        found = self.background.dead()
        if self.closing:
            found["service"] = "it is shutting down"
        for name in self.defaults.values():
            slot = self._slots.get(name)
            if slot is not None:
                slot.check_device()
            if slot is None or slot.live is None or slot.fault is not None:
                found[name] = (slot.problem() if slot is not None else None) or "it is not loaded yet"
        return found

    def _open(self, name: str) -> Slot:
        slot = Slot(name, self.store, self.device, self._loader, self._settings, self.metrics)
        self._slots[name] = slot
        self._stamps[name] = self._stamp(name)
        self.background.check(_thread_of(name), slot.batcher.lives)
        return slot

    async def _look(self) -> None:
        """Follow what has changed in the store; what goes wrong with one model leaves the others alone."""
        failed: Exception | None = None
        for name, slot in list(self._slots.items()):
            try:
                stamp = self._stamp(name)
                if stamp != self._stamps.get(name) or slot.is_due:
                    self._stamps[name] = stamp
                    await slot.refresh(retry=True)
                if name in self.trials or self.canaries.changed(name):
                    await self.canaries.follow(slot)
            except Exception as exc:
                failed = exc
        if failed is not None:
            raise failed

    def _stamp(self, name: str) -> Stamp | None:
        """What changes whenever the live pointer is replaced; cheap enough to be asked twice a second."""
        path = f"{self._root}/{name}/live"
        try:
            stat = os.stat(path)  # noqa: PTH116 (a Path costs twice the call)
            # two files that follow each other within a tick of the clock may have the same number and time
            fresh = abs(time.time() - stat.st_mtime) < _FRESH_S
            return stat.st_mtime_ns, stat.st_ino, Path(path).read_bytes() if fresh else b""
        except OSError:
            return None


def _thread_of(name: str) -> str:
    return f"engine thread of {name}"
