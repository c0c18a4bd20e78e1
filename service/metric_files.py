"""The files in which each worker keeps its counts for the others to read, on a disk that may be full.

A write to a mapped page that the disk has no room for ends the process (SIGBUS). So room is taken before it is used,
and where there is none the counts go to memory, with a link in the file's place: the others read them there as long as
the process lives.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import Metric, multiprocess, values
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict

from service.metric_folder import VARIABLE

log = logging.getLogger(__name__)

_FIRST_BYTES = 1 << 16  # what the client library takes for a new file
_SAFE = hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate")


def install() -> None:
    """Have the client library keep its counts in such files from here on."""
    if _SAFE:
        values.MmapedDict = multiprocess.MmapedDict = CountFile  # type: ignore[attr-defined]


def in_memory() -> Metric:
    """How many files of counts are in memory for want of room on the disk, of all workers."""
    family = GaugeMetricFamily(
        "neuroserve_metrics_in_memory",
        "Files of counts kept in memory for want of room on the disk; a worker's are lost when it ends",
    )
    folder = os.environ.get(VARIABLE)
    links = [path for path in Path(folder).glob("*.db") if path.is_symlink()] if folder else []
    family.add_metric([], len(links) + len(CountFile.unseen))
    return family


def forget_links(pid: int) -> None:
    """Remove the links to the counts that a dead process had in memory."""
    folder = os.environ.get(VARIABLE)
    for path in Path(folder).glob(f"*_{pid}.db") if folder else []:
        if path.is_symlink():
            path.unlink(missing_ok=True)


class CountFile(MmapedDict):
    """One file of counts; the client library's, but for where it lies when the disk is full."""

    unseen: dict[str, CountFile] = {}  # noqa: RUF012 (of the process) in memory that no link leads to, by name
    _told = False

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            if not read_mode:
                _reserve(filename)
            super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
        except (OSError, struct.error, ValueError) as exc:
            if read_mode:
                raise
            self._fname = filename
            self._positions: dict[str, int] = {}
            self._used = 8
            self._to_memory(_FIRST_BYTES, struct.pack("ii", self._used, 0))
            self._link(exc)

    def _init_value(self, key: str) -> None:
        """Make room for a value before the library does, in the file or else in memory. Its lock is held."""
        size = self._capacity
        while self._used + len(key.encode()) + 64 > size:
            size *= 2
        if size > self._capacity:
            self._grow(size)
        super()._init_value(key)  # type: ignore[no-untyped-call]

    @staticmethod
    def read_all_values_from_file(filename: str) -> Iterator[Any]:
        """The values in a file; none when it is gone, or is not one yet."""
        if (mine := CountFile.unseen.get(filename)) is not None:
            return iter(list(mine._read_all_values()))  # type: ignore[no-untyped-call]
        try:
            return iter(list(MmapedDict.read_all_values_from_file(filename)))  # type: ignore[no-untyped-call]
        except (OSError, struct.error, RuntimeError, ValueError):
            return iter(())

    def _grow(self, size: int) -> None:
        try:
            os.posix_fallocate(self._f.fileno(), 0, size)
            self._m, self._capacity = mmap.mmap(self._f.fileno(), size), size
        except (OSError, ValueError) as exc:
            held, content = self._f, self._m
            self._to_memory(size, content[: self._used])
            held.close()
            self._link(exc)

    def _to_memory(self, size: int, content: bytes) -> None:
        """Go on in memory that others can map, or where even that is refused in memory of this process alone."""
        try:
            self._f = os.fdopen(os.memfd_create("neuroserve-counts"), "a+b")
            os.posix_fallocate(self._f.fileno(), 0, size)
            self._m = mmap.mmap(self._f.fileno(), size)
        except OSError:
            CountFile.unseen[self._fname] = self
            self._f = open(os.devnull, "a+b")  # noqa: SIM115, PTH123 (the library closes it)
            self._m = mmap.mmap(-1, size)
        self._m[: len(content)] = content
        self._capacity = size

    def _link(self, exc: Exception) -> None:
        """Put a link where the file was, which makes room for it, and say so once."""
        place = Path(self._fname)
        try:
            place.unlink(missing_ok=True)
            if self._fname in CountFile.unseen:
                place.touch()  # so that a scrape of this process finds it
            else:
                place.symlink_to(f"/proc/{os.getpid()}/fd/{self._f.fileno()}")
        except OSError:
            CountFile.unseen[self._fname] = self
        if not CountFile._told:
            CountFile._told = True
            log.warning("%s: %s; the counts of this process are kept in memory. Make room there", place.parent, exc)


def _reserve(filename: str) -> None:
    """Make the file with all the room it has at first; OSError when there is none, and no file is left."""
    handle = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(handle).st_size < _FIRST_BYTES:
            os.posix_fallocate(handle, 0, _FIRST_BYTES)
    finally:
        os.close(handle)
