"""Trainings that run out of memory: what an error says, what the kernel counts, and the smaller batch to try then.

A killed process says nothing, and SIGKILL alone is no proof: the kernel's own count is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_SAYS_SO = re.compile(
    r"out of memory|out_of_memory|bad_alloc|MemoryError|(can't|cannot|failed to|unable to) allocate|not enough memory",
    re.IGNORECASE,
)
_CGROUPS = Path("/sys/fs/cgroup")
_M_ARENA_MAX = -8  # <malloc.h>


class Batch:
    """The batch size of a job's next training process: the one asked for, or half of it once that was too much.

    It is kept in the job's folder, for the job may change its worker.
    """

    def __init__(self, folder: Path, full: int) -> None:
        self._file, self.full = folder / "batch_size", full

    @property
    def size(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(self._file.read_text("ascii"))
        return self.full

    @property
    def halved(self) -> bool:
        return self.size < self.full

    def halve(self) -> bool:
        """Halve it; False when it was halved before or is one row. OSError when that cannot be kept."""
        if self.halved or self.full < 2:
            return False
        self._file.write_text(str(self.full // 2), "ascii")
        return True


def share_arenas() -> None:
    """Have the threads of this process share two heaps: the engine's many threads would each keep one of its own."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 2)


def give_back() -> None:
    """Give the system back what this process's heaps hold free."""
    if (trim := _of_libc("malloc_trim")) is not None:
        trim(0)


def _of_libc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None on other systems."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether the error is a refused allocation: Python's, NumPy's, torch's on any device or ONNX Runtime's."""
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno == errno.ENOMEM):
        return True
    # torch's CPU allocator and ONNX Runtime raise a plain RuntimeError, or one of their own
    return not isinstance(exc, OSError | ValueError) and says_out_of_memory(f"{type(exc).__name__}: {exc}")


def says_out_of_memory(words: str) -> bool:
    """Whether a line of an error names the want of memory."""
    return _SAYS_SO.search(words) is not None


def oom_kills(places: Sequence[Path] | None = None) -> int | None:
    """How many processes the kernel has killed for memory, in this cgroup if it counts them; None: nobody counts."""
    for place in _counters() if places is None else places:
        try:
            found = re.search(r"^oom_kill (\d+)$", place.read_text("ascii"), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if found:
            return int(found[1])
    return None


def _counters() -> list[Path]:
    """Where the count may stand: the cgroup's (version 2, then 1, as seen from a container too), the machine's."""
    try:
        lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
    except (OSError, ValueError):
        lines = []
    places = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            places += [_CGROUPS / inside / "memory.events", _CGROUPS / "memory.events"]
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            places += [root / inside / "memory.oom_control", root / "memory.oom_control"]
    return [*places, Path("/proc/vmstat")]
