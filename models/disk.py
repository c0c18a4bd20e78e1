"""Changes of files that survive a crash whole or not at all, and locks that end with the process that holds them.

Nothing here looks at a clock or at process numbers: whether an owner lives is what the kernel says of its lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_PAUSE_S = 0.01


class LockedError(Exception):
    """Another process did not give a lock back in time."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """The same for a folder and all that is in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they are missing; their names are on the disk then."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def write(path: Path, text: str) -> None:
    """Replace a small file: its name means the old content or the new, never a part of either."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(text, "utf-8")
        sync(draft)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def move(source: Path, target: Path) -> bool:
    """Move a folder to where none is, or only an empty one; False when a full one is there already."""
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def erase(path: Path) -> None:
    """Remove a file or a folder with all in it, even while another process does the same."""
    while path.is_dir() and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
    path.unlink(missing_ok=True)


def take(path: Path, wait_s: float = 0.0) -> int:
    """Lock a file, made if need be, and return the handle that holds the lock; LockedError when the time is over.

    The kernel opens the lock when the process ends, however it ends.
    """
    until = time.monotonic() + wait_s
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):
                return handle
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                raise LockedError(path.name) from None
            time.sleep(_PAUSE_S)
        except OSError:
            os.close(handle)
            raise
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    """Whether the locked file is the one of that name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of that file, which stays; LockedError when it cannot be had in time."""
    handle = take(path, wait_s)
    try:
        yield
    finally:
        os.close(handle)


def reason(exc: OSError) -> str:
    """What the system said, and what to do about it; a copy of many files tells of the first that failed."""
    number, said = exc.errno, exc.strerror or str(exc)
    if isinstance(exc, shutil.Error) and (told := re.search(r"\[Errno (\d+)\]", str(exc))):
        number = int(told[1])
        said = os.strerror(number)
    if number in {errno.ENOSPC, errno.EDQUOT}:
        return f"{said}; make room, or prune old versions, and try again"
    if number in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return f"{said}; the service and the trainer must be allowed to write there"
    return said
