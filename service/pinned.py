"""Host memory that the GPU reads by itself: page-locked by the CUDA driver.

ONNX Runtime's Python package makes page-locked tensors only for providers that are loaded as plug-ins, which its own
CUDA provider is not; so ordinary memory is made and the driver is asked to lock its pages.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import weakref
from typing import Any

import numpy as np

from service.tensors import Array

log = logging.getLogger(__name__)

_PORTABLE = 1
"""CU_MEMHOSTREGISTER_PORTABLE: locked for every thread and context of the process."""


class HostMemory:
    """One block of `size` bytes on pages of its own; `locked` when `driver` (the CUDA driver's library) locked it.

    Unlocked memory works too, with one more copy inside the driver. Close it before the device's last session.
    """

    def __init__(self, size: int, driver: Any | None) -> None:
        pages = max(1, -(-size // mmap.PAGESIZE))
        raw = np.zeros((pages + 1) * mmap.PAGESIZE, np.uint8)
        start = -raw.ctypes.data % mmap.PAGESIZE
        self._bytes = raw[start : start + pages * mmap.PAGESIZE]
        self.locked = driver is not None and self._lock(driver)

    def view(self, at: int, shape: tuple[int, ...], dtype: str) -> Array:
        """An array over the block, from byte `at` on; views may overlap. ValueError when the block is too small."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if at + size > self._bytes.size:
            raise ValueError(f"{size} bytes from {at} on do not fit into {self._bytes.size}")
        return self._bytes[at : at + size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Let the driver unlock the pages; the memory stays valid while views of it live."""
        if self.locked:
            self.locked = False
            self._unlock()

    def _lock(self, driver: Any) -> bool:
        address = ctypes.c_void_p(self._bytes.ctypes.data)
        code = driver.cuMemHostRegister_v2(address, ctypes.c_size_t(self._bytes.size), ctypes.c_uint(_PORTABLE))
        if code != 0:
            log.warning("the CUDA driver locks no host memory (error %d): copies to the device take longer", code)
            return False
        self._unlock = weakref.finalize(self, driver.cuMemHostUnregister, address)
        self._unlock.atexit = False  # the driver may be gone by then, and frees all it has
        return True
