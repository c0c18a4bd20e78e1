"""A disk that dies, forgets, fills up or fails at its k-th operation: the store's own code on a file system made worse.

`Disk.install` takes the place of the calls that change files, in this process only; use it in a child made for that.
Every open for writing, write, copy, fsync, rename, replace, mkdir, unlink and rmdir below `root` counts as one step.
"""

# ruff: noqa: PTH110, PTH112, PTH113, PTH115, PTH116, PTH118, PTH120
# The functions of `os` are what is replaced here, and pathlib calls them.

import builtins
import errno
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

DEAD = 77
_GROWS = {"open", "write", "copy", "mkdir"}
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
MODES = ("kill", "torn", "power", "power, contents only", *ERRORS)
"""Death before the step; in the middle of a write; with all unsynced lost, or unsynced contents only; errors."""


@dataclass
class Change:
    """One change of a folder's entries that a loss of power may undo, until that folder is synced."""

    what: str
    path: str
    source: str
    kept: str | None

    @property
    def parents(self) -> set[str]:
        return {os.path.dirname(path) for path in (self.path, self.source) if path}


def _renamed(path: str, source: str, target: str) -> str:
    return target + path[len(source) :] if path == source or path.startswith(source + "/") else path


class Disk:
    """Counts steps and does its worst at step `at`, numbered from 1; 0 is a disk that only counts."""

    def __init__(self, root: Path, mode: str = "kill", at: int = 0) -> None:
        self.root, self.mode, self.at = str(root.resolve()), mode, at
        self.kinds: list[str] = []
        self._unsynced: dict[int, bytes] = {}
        self._pending: list[Change] = []
        self._attic = root.with_name(root.name + ".attic")
        self._attic.mkdir(exist_ok=True)
        self._real = {name: getattr(os, name) for name in ("open", "fsync", "rename", "replace", "mkdir", "unlink")}
        self._real |= {"rmdir": os.rmdir, "sendfile": os.sendfile, "file": builtins.open}

    def install(self) -> None:
        for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "sendfile"):
            setattr(os, name, getattr(self, f"_{name}"))
        os.open = self._open
        builtins.open = io.open = self._file
        # rmtree and Path.rename look these up by the functions themselves
        os.supports_dir_fd |= {os.open, os.unlink, os.rmdir, os.mkdir, os.rename}
        os.remove = os.unlink

    # ------------------------------------------------------------------ what happens at a step

    def _step(self, kind: str, path: str) -> None:
        if not path.startswith(self.root):
            return
        self.kinds.append(kind)
        now = len(self.kinds)
        if self.mode in ERRORS:
            lasts = self.mode == "EROFS" or (self.mode == "ENOSPC" and kind in _GROWS)
            if self.at and (now == self.at or (lasts and now > self.at)):
                raise OSError(ERRORS[self.mode], os.strerror(ERRORS[self.mode]), path)
        elif now == self.at and not (self.mode == "torn" and kind in {"write", "copy"}):
            self.die()

    def die(self) -> None:
        """The process ends here; with a loss of power what was not synced is gone as well."""
        if self.mode.startswith("power"):
            self._lose_contents()
        while self.mode == "power" and self._pending:
            self._undo(self._pending.pop())
        os._exit(DEAD)

    def _torn(self) -> bool:
        return self.mode == "torn" and len(self.kinds) == self.at

    def _lose_contents(self) -> None:
        for folder, _, files in os.walk(self.root):
            for name in files:
                path = os.path.join(folder, name)
                if (old := self._unsynced.get(os.stat(path).st_ino)) is not None:
                    with self._real["file"](path, "wb") as stream:
                        stream.write(old)

    def _later(self, what: str, path: str, source: str = "", kept: str | None = None) -> None:
        self._pending.append(Change(what, path, source, kept))

    def _undo(self, change: "Change") -> None:
        """Latest first: what the folders' entries were before."""
        if change.what == "made":
            self._forget(change.path)
        elif change.what == "moved":
            self._real["rename"](change.path, change.source)
            self._moved(change.path, change.source)
        elif change.what == "rmdir":
            self._real["mkdir"](change.path)
        if change.kept and os.path.isdir(os.path.dirname(change.path)):
            os.link(change.kept, change.path)

    def _moved(self, source: str, target: str) -> None:
        """What was done in a folder is done under its new name from here on."""
        for change in self._pending:
            change.path = _renamed(change.path, source, target)
            change.source = _renamed(change.source, source, target)

    def _keep(self, path: str) -> str | None:
        """Another name for what a step takes away, outside the store."""
        if not os.path.isfile(path):
            return None
        kept = str(self._attic / str(len(self.kinds)))
        os.link(path, kept)
        return kept

    # ------------------------------------------------------------------ the calls

    def _fsync(self, handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        self._step("fsync", path)
        self._unsynced.pop(os.fstat(handle).st_ino, None)
        if os.path.isdir(path):
            self._pending = [each for each in self._pending if path not in each.parents]

    def _rename(self, source, target, **_) -> None:
        self._move("rename", str(source), str(target))

    def _replace(self, source, target, **_) -> None:
        self._move("replace", str(source), str(target))

    def _move(self, kind: str, source: str, target: str) -> None:
        self._step(kind, target)
        kept = self._keep(target)
        self._real[kind](source, target)
        self._moved(source, target)
        self._later("moved", target, source, kept)

    def _mkdir(self, path, mode=0o777, **_) -> None:
        path = str(path)
        self._step("mkdir", path)
        self._real["mkdir"](path, mode)
        self._later("made", path)

    def _forget(self, path: str) -> None:
        if os.path.isdir(path):
            for folder, names, files in os.walk(path, topdown=False):
                for name in files:
                    self._real["unlink"](os.path.join(folder, name))
                for name in names:
                    self._real["rmdir"](os.path.join(folder, name))
            self._real["rmdir"](path)
        elif os.path.exists(path):
            self._real["unlink"](path)

    def _unlink(self, path, *, dir_fd=None) -> None:
        path = self._whole(path, dir_fd)
        self._step("unlink", path)
        kept = self._keep(path) if path.startswith(self.root) else None
        self._real["unlink"](path)
        if kept:
            self._later("unlinked", path, kept=kept)

    def _rmdir(self, path, *, dir_fd=None) -> None:
        path = self._whole(path, dir_fd)
        self._step("rmdir", path)
        self._real["rmdir"](path)
        self._later("rmdir", path)

    def _open(self, path, flags, mode=0o777, *, dir_fd=None) -> int:
        if flags & os.O_CREAT:
            self._begin(str(path))
        return self._real["open"](path, flags, mode, dir_fd=dir_fd)

    def _sendfile(self, target: int, source: int, offset: int, count: int) -> int:
        if offset == 0:  # a second call only finds the end
            self._step("copy", os.readlink(f"/proc/self/fd/{target}"))
            if self._torn():
                self._real["sendfile"](target, source, 0, os.fstat(source).st_size // 2)
                self.die()
        return self._real["sendfile"](target, source, offset, count)

    def _file(self, file, mode="r", *rest, **named):
        if isinstance(file, int) or mode[0] == "r" or not str(file).startswith(self.root):
            return self._real["file"](file, mode, *rest, **named)
        self._begin(str(file))
        return _Written(self._real["file"](file, mode, *rest, **named), self)

    def _begin(self, path: str) -> None:
        """A file is made, or emptied."""
        self._step("open", path)
        if not path.startswith(self.root):
            return
        if os.path.exists(path):
            self._unsynced.setdefault(os.stat(path).st_ino, Path(path).read_bytes())
        else:
            os.close(self._real["open"](path, os.O_CREAT | os.O_WRONLY, 0o666))
            self._unsynced[os.stat(path).st_ino] = b""
            self._later("made", path)

    def _whole(self, path, dir_fd: int | None) -> str:
        return str(path) if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), str(path))


class _Written:
    """A file open for writing whose writes are steps."""

    def __init__(self, stream, disk: Disk) -> None:
        self._stream, self._disk = stream, disk

    def write(self, content):
        self._disk._step("write", self._stream.name if isinstance(self._stream.name, str) else str(self._stream.name))
        if self._disk._torn():
            self._stream.write(content[: len(content) // 2])
            self._stream.flush()
            self._disk.die()
        return self._stream.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def __getattr__(self, name):
        return getattr(self._stream, name)


class Reads:
    """A disk that cannot be read: every look below `root` is a step; step `at`, or all from there on, fails.

    A context manager, for this process. `at` 0 only counts; `lasts` may be cleared while it is in use.
    """

    def __init__(self, root: Path, number: int = errno.EMFILE, at: int = 0, *, lasts: bool = False) -> None:
        self.root, self.number, self.at, self.lasts = str(root.resolve()), number, at, lasts
        self.steps = 0

    def _step(self, path) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.root):
            return
        self.steps += 1
        if self.at and (self.steps == self.at or (self.lasts and self.steps > self.at)):
            raise OSError(self.number, os.strerror(self.number), str(path))

    def _wrapped(self, call):
        def wrapper(path=".", *rest, **named):
            self._step(path)
            return call(path, *rest, **named)

        return wrapper

    def __enter__(self):
        self._real = os.stat, os.listdir, io.open
        os.stat, os.listdir = self._wrapped(os.stat), self._wrapped(os.listdir)
        builtins.open = io.open = self._wrapped(io.open)
        return self

    def __exit__(self, *_):
        os.stat, os.listdir, io.open = self._real
        builtins.open = io.open


def run(act, root: Path, mode: str, at: int, said) -> None:
    """In a child: do `act` on the bad disk; send the steps it took and the sentence it was refused with, if any."""
    from models.store import StoreError

    disk = Disk(root, mode, at)
    disk.install()
    refused = None
    try:
        act(root)
    except StoreError as exc:
        refused = str(exc)
    said.send((disk.kinds, refused))
    if mode.startswith("power") and at > len(disk.kinds):
        disk.die()


def fresh(template: Path, target: Path) -> Path:
    """A copy of a store to be hurt."""
    shutil.copytree(template, target)
    return target
