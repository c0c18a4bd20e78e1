"""Figures of the whole service that one worker asks for when it is scraped: of training, the GPUs and the disk.

They lie in no worker's counters, so whoever is asked tells them once, and totals stay right with several workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic

from prometheus_client import Metric

from service.diskuse import FRESH_S, DiskUse
from service.gpu import Gpus
from service.jobcounts import families as job_families
from service.jobs import JobBoard

log = logging.getLogger(__name__)

Families = list[Metric]
_WAIT_S = 1.0
"""So long a scrape waits for figures; what takes longer is in the next one."""


class Probe:
    """Something slow to ask, asked by a scrape at most every `fresh_s` seconds, and never twice at a time."""

    def __init__(self, ask: Callable[[], Awaitable[Families]], fresh_s: float) -> None:
        self._ask, self._fresh_s = ask, fresh_s
        self._known: Families = []
        self._told = ""
        self._known_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def families(self) -> Families:
        """What is known; nothing when the last asking failed."""
        if self._asking is None and monotonic() - self._known_at >= self._fresh_s:
            self._asking = asyncio.create_task(self._renew())
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=_WAIT_S)
        return self._known

    async def _renew(self) -> None:
        try:
            self._known, self._told = await self._ask(), ""
        except Exception as exc:
            if str(exc) != self._told:
                self._told = str(exc)
                log.warning("scrapes go without some figures: %s", exc)
            self._known = []
        finally:
            self._known_at = monotonic()
            self._asking = None

    async def close(self) -> None:
        """Let an asking that is under way go."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])


class Probes:
    """All of one process."""

    def __init__(self, jobs: JobBoard, gpus: Gpus, disk: DiskUse) -> None:
        async def of_jobs() -> Families:
            return job_families(await jobs.counts())

        self._probes = [Probe(of_jobs, 5.0), Probe(gpus.families, 2.0), Probe(disk.families, FRESH_S)]

    async def families(self) -> Iterable[Metric]:
        """The families of this moment."""
        found = await asyncio.gather(*(probe.families() for probe in self._probes))
        return [family for each in found for family in each]

    async def close(self) -> None:
        """Let go of what is being asked."""
        await asyncio.gather(*(probe.close() for probe in self._probes))
