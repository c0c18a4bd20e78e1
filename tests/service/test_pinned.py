"""Host memory that the CUDA driver locks: on pages of its own, unlocked once, usable where nothing locks it."""

import gc
import mmap

import numpy as np
import pytest

from service.pinned import HostMemory


class Driver:
    """The two calls of the CUDA driver that matter here; answers `code`."""

    def __init__(self, code=0):
        self.code = code
        self.locked = {}

    def cuMemHostRegister_v2(self, address, size, flags):  # noqa: N802
        assert flags.value == 1
        if self.code == 0:
            self.locked[address.value] = size.value
        return self.code

    def cuMemHostUnregister(self, address):  # noqa: N802
        del self.locked[address.value]
        return 0


def test_whole_pages_are_locked_and_unlocked_once():
    """The driver gets page-aligned memory that nobody else uses."""
    driver = Driver()
    memory = HostMemory(5000, driver)
    assert memory.locked
    ((address, size),) = driver.locked.items()
    assert address % mmap.PAGESIZE == 0
    assert size == 2 * mmap.PAGESIZE
    assert memory.view(0, (5000,), "uint8").ctypes.data == address
    memory.close()
    memory.close()
    assert driver.locked == {}


def test_forgotten_memory_is_unlocked_before_it_is_freed():
    """Pages that go back to the allocator must not stay locked."""
    driver = Driver()
    memory = HostMemory(100, driver)
    assert driver.locked
    del memory
    gc.collect()
    assert driver.locked == {}


def test_a_driver_that_locks_nothing_is_a_line_in_the_log(caplog):
    """Slower copies are no reason not to serve, but nothing is silent."""
    memory = HostMemory(100, Driver(code=304))
    assert not memory.locked
    assert "locks no host memory (error 304)" in caplog.text
    memory.view(0, (10,), "int64")[:] = 7
    memory.close()


def test_views_share_the_block_and_end_where_it_ends():
    """Two buckets' inputs overlap; none reaches beyond."""
    memory = HostMemory(mmap.PAGESIZE, None)
    wide, narrow = memory.view(64, (4, 8), "float32"), memory.view(64, (2, 8), "float32")
    wide[:] = 3
    assert (narrow == 3).all()
    assert wide.flags.c_contiguous
    with pytest.raises(ValueError, match="do not fit"):
        memory.view(mmap.PAGESIZE - 4, (2,), "float32")
    assert not HostMemory(1, None).locked
    assert np.all(HostMemory(64, None).view(0, (8,), "int64") == 0)
