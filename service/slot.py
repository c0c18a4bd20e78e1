"""One model name in service: its live version, the versions asked for by number, and what was refused."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from time import monotonic, perf_counter
from typing import Protocol

from models.manifest import Manifest
from models.store import Store, StoreError, StoreReadError, VersionDamagedError, VersionNotFoundError
from service import engine
from service.answers import Classifier
from service.batch import BatchReport, Queue
from service.batcher import Batcher
from service.device import Device, DeviceError
from service.engine import Engine, EngineError
from service.errors import NotFound, Unavailable
from service.inputs.readings import Ranges
from service.inputs.text import TextEncoder
from service.loader import Loader
from service.metrics import Metrics
from service.settings import Settings
from service.warnings import OutlierCheck

log = logging.getLogger(__name__)

_PINNED_VERSIONS = 2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
"""Between tries to follow a live pointer or to load a version that a shortage of the system may have prevented."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A version that can answer: its engine and, for text, its tokenizer."""

    engine: Engine
    encoder: TextEncoder | None

    @property
    def manifest(self) -> Manifest:
        return self.engine.manifest

    @property
    def version(self) -> int:
        return self.engine.version

    @cached_property
    def outliers(self) -> OutlierCheck:
        """What tells rows that are not like the version's training data."""
        return OutlierCheck(self.manifest)

    @cached_property
    def ranges(self) -> Ranges | None:
        """The ranges of a series model's columns in training, where its manifest has them."""
        spec = self.manifest.series
        return Ranges.of(spec) if spec is not None else None

    @cached_property
    def classifier(self) -> Classifier:
        """What reads the answers of a classifier."""
        return Classifier(self.manifest)


def load_version(store: Store, name: str, version: int, device: Device) -> Loaded:
    """Verify, load, warm up and self-test a version. Raises StoreError, EngineError or DeviceError."""
    manifest = store.verify(name, version)
    folder = store.folder(name, version)
    encoder = None
    if manifest.text is not None:
        unknown_share = manifest.doubt.unknown_share if manifest.doubt is not None else None
        encoder = TextEncoder(folder / manifest.text.tokenizer, manifest.text, unknown_share)
    return Loaded(engine.load(folder, manifest, device), encoder)


class Place(Protocol):
    """Where a request's rows go: a slot, or what stands before it."""

    @property
    def batcher(self) -> Queue:
        """The queue in front of the model."""


class Slot:
    """The place of one model; lives on the event loop, loads on the loader's thread."""

    def __init__(
        self, name: str, store: Store, device: Device, loader: Loader, settings: Settings, metrics: Metrics
    ) -> None:
        self.name = name
        self.live: Loaded | None = None
        self.refused: dict[int, str] = {}
        self.swaps = 0
        self.fault: str | None = None
        self._store = store
        self._device = device
        self._loader = loader
        self._metrics = metrics
        self._pinned: OrderedDict[int, Loaded] = OrderedDict()
        self._pointer: list[int] | None = None
        self._unread: str | None = None  # why the live pointer could not be read
        self._again_at: float | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._lock = asyncio.Lock()
        self._queue_rows = metrics.queue_rows.labels(name)
        self.batcher = Batcher(
            name,
            max_queue_rows=settings.max_queue_rows,
            max_batch_rows=settings.max_batch_rows,
            max_wait_ms=settings.max_wait_ms,
            observe=self._observe,
            waiting=self._queue_rows.set,
            spans=metrics.spans,
        )

    async def get(self, version: int | None) -> Loaded:
        """The live version, or the one asked for. NotFound when it is not in the store, Unavailable when it is bad."""
        if self.live is not None and version in (None, self.live.version):
            if self.fault is not None:
                raise Unavailable(self.fault, code="device_lost")
            return self.live
        if version is None:
            raise Unavailable(f"No version of {self.name} can be served: {self.problem()}", code="model_unavailable")
        async with self._lock:
            return await self._pin(version)

    @property
    def is_due(self) -> bool:
        """Whether `refresh` should be tried again though the pointer has not changed."""
        return self._again_at is not None and monotonic() >= self._again_at

    async def refresh(self, *, retry: bool = False) -> None:
        """Follow the store's live pointer: load what it names beside the present version, then swap one reference.

        A version that cannot be used is refused with its reason and the present one serves on; at start-up, when
        there is none, the newest earlier version that works is taken. A pointer that was tried before is tried again
        only with `retry`.
        """
        async with self._lock:
            again, self._again_at = self._again_at is not None, None
            try:
                await self._follow(retry or again)
            except StoreReadError as exc:
                if self._unread is None:
                    log.error("%s: %s; what is served stays, and it is tried again", self.name, exc)
                self._unread = str(exc)
                self._try_later()
            else:
                self._unread = None
            if self._again_at is None:
                self._pause_s = _FIRST_PAUSE_S

    async def _follow(self, retry: bool) -> None:
        try:
            pointer = await self._loader.look(self._store.live_history, self.name)
        except StoreReadError:
            raise
        except StoreError as exc:
            log.error("%s: %s", self.name, exc)
            pointer = []
        if pointer == self._pointer and not retry:
            return
        self._pointer = pointer
        for version in await self._candidates(pointer):
            if self.live is not None and version == self.live.version:
                return
            if await self._swap_to(version):
                return

    def _try_later(self) -> None:
        self._again_at = monotonic() + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    async def load(self, version: int) -> Loaded:
        """Another version beside the live one, verified and tested; raises what `load_version` does.

        It is the caller's to close.
        """
        return await self._loader.run(load_version, self._store, self.name, version, self._device)

    async def close(self) -> None:
        """Finish what was admitted, then free every session."""
        await self.batcher.close()
        for loaded in [self.live, *self._pinned.values()]:
            if loaded is not None:
                loaded.engine.close()

    def check_device(self) -> None:
        """Ask the live session what it runs on: a device that went away is a fault, never a slow answer."""
        if self.live is not None and self.fault is None:
            engine = self.live.engine
            if (present := engine.present_provider()) != engine.provider:
                self.fault = f"{self.name} was loaded on {engine.provider} and is on {present} now; restart the service"
                log.error("%s", self.fault)

    def problem(self) -> str | None:
        """Why this model is not as it should be, or None."""
        if self.fault is not None:
            return self.fault
        if self._unread is not None:
            return self._unread
        if self.live is None:
            return "; ".join(self.refused.values()) or "no version of it is live in the store"
        wanted = self._pointer[0] if self._pointer else None
        if wanted is not None and wanted != self.live.version:
            return f"version {wanted} was refused: {self.refused.get(wanted, 'it is being loaded')}"
        return None

    # ------------------------------------------------------------------ inside

    async def _candidates(self, pointer: list[int]) -> list[int]:
        """What to try, best first: the live pointer's version; with nothing serving, earlier ones after it."""
        if self.live is not None:
            return pointer[:1]
        there = await self._loader.look(self._store.versions, self.name)
        tried = [version for version in pointer if version in there] if pointer else []
        return [
            *pointer[:1],
            *[version for version in dict.fromkeys([*tried, *reversed(there)]) if version not in pointer[:1]],
        ]

    async def _swap_to(self, version: int) -> bool:
        started = perf_counter()
        try:
            new = self._pinned.pop(version, None) or await self.load(version)
        except (StoreError, EngineError) as exc:
            self._refuse(version, str(exc))
            if isinstance(exc, StoreReadError | EngineError):  # want of memory or of file descriptors passes
                self._try_later()
            return False
        except DeviceError as exc:
            if self.live is None:
                raise  # the asked-for device is not to be had: the service must not start
            self._refuse(version, str(exc))
            return False
        old, self.live, self.fault = self.live, new, None
        if self.refused.pop(version, None) is not None:
            self._metrics.refused_version.labels(self.name, str(version)).set(0)
        self._metrics.swap_seconds.labels(self.name).observe(perf_counter() - started)
        self._metrics.swaps.labels(self.name, "live").inc()
        self._metrics.live_version.labels(self.name).set(version)
        self._metrics.drift.follow(new.manifest)
        if old is not None:
            self._metrics.provider.labels(self.name, old.engine.provider).set(0)
        self._metrics.provider.labels(self.name, new.engine.provider).set(1)
        if old is not None:
            self.swaps += 1
            self.batcher.retire(old.engine)
        log.info("%s version %d is live on %s", self.name, version, new.engine.provider)
        return True

    def _refuse(self, version: int, reason: str) -> None:
        if self.refused.get(version) == reason:
            return
        self.refused[version] = reason
        self._metrics.swaps.labels(self.name, "refused").inc()
        self._metrics.refused_version.labels(self.name, str(version)).set(1)
        log.error("%s version %d is refused: %s", self.name, version, reason)

    async def _pin(self, version: int) -> Loaded:
        if self.live is not None and version == self.live.version:
            return self.live
        if version in self._pinned:
            self._pinned.move_to_end(version)
            return self._pinned[version]
        try:
            loaded = await self.load(version)
        except VersionNotFoundError as exc:
            raise NotFound(f"{exc}.", code="version_not_found") from None
        except StoreReadError as exc:
            raise Unavailable.store(exc, self._store.root) from None
        except (VersionDamagedError, EngineError, DeviceError) as exc:
            self._refuse(version, str(exc))
            raise Unavailable(str(exc), code="version_unavailable") from None
        self._pinned[version] = loaded
        while len(self._pinned) > _PINNED_VERSIONS:
            _, oldest = self._pinned.popitem(last=False)
            self.batcher.retire(oldest.engine)
        return loaded

    def _observe(self, report: BatchReport) -> None:
        self._metrics.batch(self.name, report)
        if not report.failed and self.live is not None and report.engine is self.live.engine:
            self._metrics.drift.take(self.name, report.done)
        if report.failed and not report.sound:
            self.fault = (
                f"{report.engine.provider} failed while running {self.name}; restart the service on a sound device"
            )
            log.error("%s", self.fault)
