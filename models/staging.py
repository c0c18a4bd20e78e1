"""The store's back room: versions being written, and deleted ones on their way out. Readers never look here.

ROOT/.staging/ID        a folder being written, or rubbish when no process holds the lock of …
ROOT/.staging/ID.owner  … this file, which exists before the folder does and goes after it has gone
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from models import disk

_OWNER = ".owner"
_held: dict[Path, int] = {}
"""Locks of the folders that this process writes, however many stores it has made of one root."""


class Staging:
    """The folder `.staging` of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self) -> Path:
        """A new empty folder, this process's own until it is released or dropped."""
        disk.make_folder(self.folder)
        path = self.folder / uuid.uuid4().hex
        handle = disk.take(_owner(path))
        try:
            path.mkdir()
        except BaseException:
            os.close(handle)
            raise
        _held[path] = handle
        return path

    def release(self, path: Path) -> None:
        """The folder has moved on: give up what says that this process writes it."""
        handle = _held.pop(path, None)
        if handle is not None:
            with contextlib.suppress(OSError):  # the next sweep takes it
                _owner(path).unlink(missing_ok=True)
            os.close(handle)

    def drop(self, path: Path) -> None:
        """Remove a folder that is not wanted any more; one that was moved on is no error."""
        with contextlib.suppress(OSError):  # the next sweep takes what is left
            disk.erase(path)
        self.release(path)

    def bury(self, path: Path) -> None:
        """Take a folder of the store out of sight by one rename, then remove it: nobody ever sees half of it."""
        disk.make_folder(self.folder)
        hidden = self.folder / uuid.uuid4().hex
        path.rename(hidden)
        disk.sync(path.parent)
        with contextlib.suppress(OSError):  # out of sight for good; the next sweep takes what is left
            disk.erase(hidden)

    def sweep(self) -> list[str]:
        """Remove what processes that are gone have left, and return its names. What a living one writes stays."""
        try:
            found = sorted({path.name.removesuffix(_OWNER) for path in self.folder.iterdir()})
        except FileNotFoundError:
            return []
        return [name for name in found if self._clear(self.folder / name)]

    def _clear(self, path: Path) -> bool:
        owner = _owner(path)
        if not owner.exists():
            # Its owner's file was there before it: what has none was deleted, or is gone already.
            left = path.exists()
            disk.erase(path)
            return left
        try:
            handle = disk.take(owner)
        except disk.LockedError:
            return False
        try:
            disk.erase(path)
            owner.unlink(missing_ok=True)
        finally:
            os.close(handle)
        return True


def _owner(path: Path) -> Path:
    return path.with_name(path.name + _OWNER)
