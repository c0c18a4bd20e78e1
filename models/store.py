"""Versioned model folders with atomic publish, a live pointer, verify, rollback and prune.

    ROOT/NAME/VERSION/…   one version, complete or absent: it arrives by one rename
    ROOT/NAME/live        version numbers, one a line: the live one, then those that were live before it, newest first
    ROOT/NAME/last        the highest number ever given out, so that a deleted number is not used again
    ROOT/.staging/…       versions being written; never looked at by readers

Several processes may publish, promote and read at once; no lock is held, each change is one atomic rename.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from models.manifest import MANIFEST_FILE, NAME_PATTERN, Manifest, ManifestError, file_entry, read_manifest

LIVE_FILE = "live"
LAST_FILE = "last"
STAGING = ".staging"
_HISTORY_LINES = 20


class StoreError(Exception):
    """The store cannot do what was asked; the message says why."""


class VersionNotFoundError(StoreError):
    """No such model or version."""


class VersionDamagedError(StoreError):
    """A version whose files are not what its manifest says."""


class VersionInUseError(StoreError):
    """The version is live."""


class NothingToRollBackError(StoreError):
    """No earlier live version is left in the store."""


class Store:
    """The folder of models at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # ------------------------------------------------------------------ reading

    def names(self) -> list[str]:
        """Models with at least one version, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if re.match(NAME_PATTERN, path.name) and path.is_dir() and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Version numbers of a model, ascending; empty for an unknown one."""
        folder = self._model(name)
        try:
            found = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(found)

    def folder(self, name: str, version: int) -> Path:
        """The folder of a version; VersionNotFoundError when there is none."""
        path = self._model(name) / str(version)
        if not path.is_dir():
            known = ", ".join(map(str, self.versions(name)))
            what = f"it has {known}" if known else "it has none"
            raise VersionNotFoundError(f"{name} has no version {version}; {what}")
        return path

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version; the hashes are not looked at."""
        return _manifest_of(self.folder(name, version), name, version)

    def live_history(self, name: str) -> list[int]:
        """The live version, then those live before it, newest first; empty when nothing is live."""
        try:
            text = (self._model(name) / LIVE_FILE).read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            return []
        lines = text.split()
        if not all(line.isdecimal() for line in lines):
            raise StoreError(f"the live pointer of {name} is unreadable; promote a version to write it anew")
        return [int(line) for line in lines]

    def live(self, name: str) -> int | None:
        """The live version's number, or None."""
        history = self.live_history(name)
        return history[0] if history else None

    def previous(self, name: str) -> int | None:
        """The version that rollback would go to, or None."""
        there = set(self.versions(name))
        history = self.live_history(name)
        return next((old for old in history[1:] if old in there and old != history[0]), None)

    def verify(self, name: str, version: int) -> Manifest:
        """The manifest of a version, after hashing all it lists; VersionDamagedError names the file that differs."""
        folder = self.folder(name, version)
        manifest = _manifest_of(folder, name, version)
        for relative, expected in manifest.files.items():
            path = folder / relative
            try:
                actual = file_entry(path)
            except OSError as exc:
                raise VersionDamagedError(f"{name} version {version}: {relative}: {exc.strerror}") from exc
            if actual != expected:
                raise VersionDamagedError(
                    f"{name} version {version}: {relative} was changed after it was published "
                    f"(sha256 {actual.sha256[:12]}…, the manifest says {expected.sha256[:12]}…)"
                )
        return manifest

    # ------------------------------------------------------------------ writing

    def stage(self) -> Path:
        """A new empty folder to write a version into, on the store's own file system."""
        folder = self.root / STAGING / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    def publish(self, staged: Path, draft: Manifest) -> Manifest:
        """Make the staged folder the next version of `draft.name` and return its manifest.

        The draft's version and file table are replaced: the number by the next free one, the table by the hashes of
        what is really there. The version is on disk (fsync) before its name appears. Nothing becomes live.
        """
        name = draft.name
        model = self._model(name)
        model.mkdir(parents=True, exist_ok=True)
        (staged / MANIFEST_FILE).unlink(missing_ok=True)
        files = {
            path.relative_to(staged).as_posix(): file_entry(path)
            for path in sorted(staged.rglob("*"))
            if path.is_file()
        }
        while True:
            version = self._next_number(name)
            manifest = Manifest.model_validate({**dict(draft), "version": version, "files": files})
            (staged / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
            _sync_tree(staged)
            _write_atomically(model / LAST_FILE, f"{version}\n")
            if not _rename(staged, model / str(version)):
                continue  # another publisher took the number
            _sync(model)
            return manifest

    def promote(self, name: str, version: int) -> None:
        """Make a version live after verifying it; the one before it becomes what rollback goes to."""
        self.verify(name, version)
        history = [old for old in self.live_history_or_empty(name) if old != version]
        self._point(name, [version, *history])

    def rollback(self, name: str) -> int:
        """Make the previously live version live again and return its number."""
        if not self.versions(name):
            raise VersionNotFoundError(f"there is no model {name}")
        back_to = self.previous(name)
        if back_to is None:
            raise NothingToRollBackError(f"{name} has no earlier live version to roll back to")
        self.verify(name, back_to)
        history = self.live_history(name)
        self._point(name, history[history.index(back_to) :])
        return back_to

    def delete(self, name: str, version: int) -> None:
        """Remove a version that is not live."""
        folder = self.folder(name, version)
        if self.live(name) == version:
            raise VersionInUseError(f"{name} version {version} is live; promote another version first")
        _remove(folder, self.root / STAGING)

    def prune(self, name: str, keep: int = 5) -> list[int]:
        """Remove all but the newest `keep` versions, the live one and the one rollback goes to; the removed ones."""
        protected = {self.live(name), self.previous(name), *self.versions(name)[-keep:]}
        gone = [version for version in self.versions(name) if version not in protected]
        for version in gone:
            self.delete(name, version)
        return gone

    def seed(self, source: Store) -> list[str]:
        """Copy the models this store does not have yet from another, live pointers too; their names."""
        self.root.mkdir(parents=True, exist_ok=True)
        taken = [name for name in source.names() if not self.versions(name)]
        for name in taken:
            staged = self.stage()
            shutil.copytree(source.root / name, staged, dirs_exist_ok=True)
            _write_atomically(staged / LAST_FILE, f"{max(source.versions(name))}\n")
            _sync_tree(staged)
            if not _rename(staged, self._model(name)):
                shutil.rmtree(staged)  # another process seeded the same model
        _sync(self.root)
        return taken

    # ------------------------------------------------------------------ inside

    def live_history_or_empty(self, name: str) -> list[int]:
        """The history, or nothing when the pointer is unreadable: promote is the way to mend it."""
        try:
            return self.live_history(name)
        except StoreError:
            return []

    def _model(self, name: str) -> Path:
        if not re.match(NAME_PATTERN, name):
            raise VersionNotFoundError(f"{name!r} is not a model name")
        return self.root / name

    def _next_number(self, name: str) -> int:
        try:
            last = int((self._model(name) / LAST_FILE).read_text("ascii"))
        except (FileNotFoundError, ValueError):
            last = 0
        return max([last, *self.versions(name)]) + 1

    def _point(self, name: str, history: Iterable[int]) -> None:
        lines = [str(version) for version in history][:_HISTORY_LINES]
        _write_atomically(self._model(name) / LIVE_FILE, "\n".join(lines) + "\n")


def _manifest_of(folder: Path, name: str, version: int) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except ManifestError as exc:
        raise VersionDamagedError(f"{name} version {version}: {exc}") from exc
    if (manifest.name, manifest.version) != (name, version):
        raise VersionDamagedError(
            f"{name} version {version}: its manifest says it is {manifest.name} version {manifest.version}"
        )
    return manifest


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _rename(source: Path, target: Path) -> bool:
    """Move a folder to where none is, or only an empty one; False when a full one is there already."""
    try:
        source.rename(target)
    except OSError as exc:
        if exc.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            return False
        raise
    return True


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(text, "ascii")
        _sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


def _remove(folder: Path, staging: Path) -> None:
    """Out of sight by one rename, then gone: a reader never sees half a version."""
    staging.mkdir(parents=True, exist_ok=True)
    hidden = staging / uuid.uuid4().hex
    folder.rename(hidden)
    shutil.rmtree(hidden)
