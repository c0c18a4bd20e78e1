"""How many bytes the state folder holds, by what they are for; asked now and then by a scrape."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from prometheus_client import Metric

FRESH_S = 300.0
_PARTS = {"models": ["models"], "jobs": ["jobs.sqlite", "jobs.sqlite-wal"], "checkpoints": ["jobs", "work"],
          "engines": ["tensorrt"], "data": ["data"]}  # fmt: skip


class DiskUse:
    """Of one state folder."""

    def __init__(self, state: Path) -> None:
        self._state = state

    async def families(self) -> list[Metric]:
        """A gauge of bytes by part; `other` is what none of them holds."""
        return await asyncio.to_thread(self._families)

    def _families(self) -> list[Metric]:
        found = {part: sum(used(self._state / name) for name in names) for part, names in _PARTS.items()}
        metric = Metric("neuroserve_disk_bytes", "Bytes that the state folder holds, by what they are for", "gauge")
        for part, size in {**found, "other": used(self._state) - sum(found.values())}.items():
            metric.add_sample(metric.name, {"part": part}, max(0, size))
        return [metric]


def used(path: Path) -> int:
    """Bytes on the disk of a file, or of a folder with all in it; a file of several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    pending = [os.fspath(path)]
    while pending:
        place = pending.pop()
        try:
            stat = os.lstat(place)
            seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        stat = entry.stat(follow_symlinks=False)
                        seen[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
        except OSError:  # a file, or gone meanwhile
            continue
    return sum(seen.values())
