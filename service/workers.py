"""How many processes and threads a machine should get, and who trains: what follows from settings and quota."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec

from service.device import cpu_quota
from service.settings import Settings

_MOST_WORKERS = 4


def worker_count(settings: Settings) -> int:
    """HTTP processes: as set, else one where a GPU may be used (one process owns it), else one a CPU, at most four."""
    if settings.workers is not None:
        return settings.workers
    if settings.device == "cuda" or (settings.device == "auto" and _driver_library()):
        return 1
    return max(1, min(_MOST_WORKERS, int(cpu_quota())))


def threads_for(settings: Settings) -> int:
    """Intra-op threads of each model's session: the CPU quota shared among the workers."""
    return max(1, int(cpu_quota()) // worker_count(settings))


def trainer_mode(settings: Settings) -> str:
    """`embedded`, `external` or `off`: as set, else embedded where torch is installed."""
    if settings.trainer is not None:
        return settings.trainer
    return "embedded" if find_spec("torch") is not None else "external"


def _driver_library() -> bool:
    """Whether the NVIDIA driver's library loads. Does not initialise CUDA: that would not survive a fork."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    return True
