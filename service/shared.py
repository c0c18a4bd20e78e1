"""Numbers that the parent shares with its workers, in memory that no file backs: a full `/tmp` cannot take it away."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import sys
from typing import Any


def array(kind: type[ctypes._SimpleCData[Any]], length: int) -> Any:
    """`length` zeros of a ctypes kind, seen by this process and by those that are forked from it later."""
    if sys.platform != "linux":  # processes are spawned there, and are handed the array
        return multiprocessing.RawArray(kind, length)
    return (kind * length).from_buffer(mmap.mmap(-1, max(1, length * ctypes.sizeof(kind))))
