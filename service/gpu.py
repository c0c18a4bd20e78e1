"""Memory, use and power of the NVIDIA GPUs of this machine, from `nvidia-smi`, which comes with the driver."""

from __future__ import annotations

import asyncio
import csv
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client import Metric

_MIB = 2**20
_SLOWEST_S = 10.0


class _Figure(NamedTuple):
    name: str
    alias: str
    asked: str
    unit: float
    text: str


_FIGURES = (
    _Figure("memory_total_bytes", "memory_total_bytes", "memory.total", _MIB, "Memory of the GPU"),
    _Figure("memory_used_bytes", "memory_used_bytes", "memory.used", _MIB, "Memory in use, by anybody"),
    _Figure("utilization_ratio", "utilization", "utilization.gpu", 0.01, "Share of the time that the GPU was busy"),
    _Figure("power_watts", "power_usage", "power.draw", 1, "Power that the GPU draws"),
    _Figure("power_limit_watts", "power_limit", "power.limit", 1, "Power that the GPU may draw"),
)


class Gpus:
    """The GPUs that `nvidia-smi` shows; none where there is no such program."""

    def __init__(self) -> None:
        self._program = shutil.which("nvidia-smi")

    async def families(self) -> list[Metric]:
        """Gauges by the GPU's id, under our names and Triton's; RuntimeError when the program fails."""
        if self._program is None:
            return []
        return list(_families(await asyncio.to_thread(self._ask, self._program)))

    @staticmethod
    def _ask(program: str) -> str:
        fields = ",".join(["uuid", *(each.asked for each in _FIGURES)])
        try:
            done = subprocess.run(  # noqa: S603 (the driver's own program)
                [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                timeout=_SLOWEST_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stdout", None) or str(exc)
            raise RuntimeError(f"nvidia-smi failed: {said.strip()}") from exc
        return done.stdout


def _families(table: str) -> Iterator[Metric]:
    """One row a GPU; what a GPU does not tell (`[N/A]`) is left out."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(table.splitlines()) if row]
    for place, figure in enumerate(_FIGURES, 1):
        for prefix, name in (("neuroserve_gpu_", figure.name), ("nv_gpu_", figure.alias)):
            family = Metric(prefix + name, figure.text, "gauge")
            for row in rows:
                try:
                    value = float(row[place]) * figure.unit
                except (ValueError, IndexError):
                    continue
                family.add_sample(family.name, {"gpu_uuid": row[0]}, value)
            yield family
