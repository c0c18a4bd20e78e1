"""Reading a store: which versions there are, which one is live, and whether a version is what it was when published.

No lock is taken and nothing is written: a store on a read-only volume serves as well.
"""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from models import reference
from models.manifest import (
    NAME_PATTERN,
    Manifest,
    ManifestError,
    ManifestUnreadableError,
    file_entry,
    read_manifest,
)

LIVE_FILE = "live"
ROLLED_BACK_FILE = "rolled-back"
REFERENCE_FILE = "reference"
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class StoreError(Exception):
    """The store cannot do what was asked; the message says why."""


class StoreReadError(StoreError):
    """The system refused to read the store; the next try may succeed, and nothing is known to be damaged."""


class VersionNotFoundError(StoreError):
    """No such model or version."""


class VersionDamagedError(StoreError):
    """A version whose files are not what its manifest says."""


class VersionInUseError(StoreError):
    """The version is live."""


class VersionInCanaryError(VersionInUseError):
    """The version is the candidate of a running canary."""


class LiveChangedError(StoreError):
    """Another version has gone live meanwhile."""


class VersionGoneError(StoreError):
    """What a job has published was deleted since."""


class NothingToRollBackError(StoreError):
    """No earlier live version is left in the store."""


class StoreWriteError(StoreError):
    """The folder does not take what is to be written: full, read-only, damaged, or held by another process."""


class StoreHeldError(StoreWriteError):
    """Another process has been changing the model for too long: a stopped one, perhaps."""


class StoreReader:
    """The folder of models at `root`, as those see it who only look."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Models with at least one version, sorted."""
        return [name for name in self._folders() if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Version numbers of a model, ascending; empty for an unknown one."""
        folder = self._model(name)
        with _reading(folder):
            try:
                found = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(found)

    def folder(self, name: str, version: int) -> Path:
        """The folder of a version; VersionNotFoundError when there is none."""
        path = self._model(name) / str(version)
        if not _is_folder(path):
            known = ", ".join(map(str, self.versions(name)))
            what = f"it has {known}" if known else "it has none"
            raise VersionNotFoundError(f"{name} has no version {version}; {what}")
        return path

    def manifest(self, name: str, version: int) -> Manifest:
        """The manifest of a version; the hashes are not looked at."""
        folder = self.folder(name, version)
        try:
            return _manifest_of(folder, name, version)
        except VersionDamagedError:
            self.folder(name, version)  # deleted meanwhile is not damaged
            raise

    def live_history(self, name: str) -> list[int]:
        """The live version, then those live before it, newest first; empty when nothing is live."""
        path = self._model(name) / LIVE_FILE
        try:
            with _reading(path):
                return numbers_in(path)
        except ValueError:
            raise StoreError(f"the live pointer of {name} is unreadable; promote a version to write it anew") from None

    def live_history_or_empty(self, name: str) -> list[int]:
        """The history, or nothing when the pointer holds something else: promote is the way to mend it."""
        try:
            return self.live_history(name)
        except StoreReadError:
            raise  # what is there but cannot be read at present must not be written over
        except StoreError:
            return []

    def live(self, name: str) -> int | None:
        """The live version's number, or None."""
        history = self.live_history(name)
        return history[0] if history else None

    def previous(self, name: str) -> int | None:
        """The version that rollback would go to, or None."""
        there = set(self.versions(name))
        history = self.live_history(name)
        return next((old for old in history[1:] if old in there and old != history[0]), None)

    def contenders(self, name: str) -> list[int]:
        """The versions of which the best is the gate's reference, the best known first.

        They are those that were live since the reference was last reset, as far as they are still in the store.
        """
        there, known = set(self.versions(name)), self._numbers_or_none(name, REFERENCE_FILE)
        since = [*known, *self.live_history_or_empty(name)[:1]] if known else self.ever_live(name)
        return [version for version in dict.fromkeys(since) if version in there]

    def ever_live(self, name: str) -> list[int]:
        """The live version, those live before it, newest first, and those that were rolled back."""
        return [*self.live_history_or_empty(name), *self._numbers_or_none(name, ROLLED_BACK_FILE)]

    def reference(self, name: str) -> int | None:
        """The version that the gate compares candidates with, or None; it must outlive every other version.

        It is the best version that was ever live, by what the manifests record of the validation rows, or the live one
        where no manifest records anything.
        """
        manifests, there = [], self.contenders(name)
        for version in there:
            with contextlib.suppress(VersionDamagedError, VersionNotFoundError):
                manifests.append(self.manifest(name, version))
        found = reference.best(manifests)
        if found is not None:
            return found.version
        return next((version for version in self.live_history_or_empty(name)[:1] if version in there), None)

    def verify(self, name: str, version: int) -> Manifest:
        """The manifest of a version, after hashing all it lists; VersionDamagedError names the file that differs."""
        folder = self.folder(name, version)
        manifest = self.manifest(name, version)
        for relative, expected in manifest.files.items():
            path = folder / relative
            try:
                actual = file_entry(path)
            except _MISSING as exc:
                self.folder(name, version)  # deleted meanwhile is not damaged
                raise VersionDamagedError(f"{name} version {version}: {relative}: {exc.strerror}") from exc
            except OSError as exc:
                raise StoreReadError(f"{path} cannot be read: {exc.strerror or exc}") from exc
            if actual != expected:
                raise VersionDamagedError(
                    f"{name} version {version}: {relative} was changed after it was published "
                    f"(sha256 {actual.sha256[:12]}…, the manifest says {expected.sha256[:12]}…)"
                )
        return manifest

    # ------------------------------------------------------------------ inside

    def _numbers_or_none(self, name: str, file: str) -> list[int]:
        path = self._model(name) / file
        try:
            with _reading(path):
                return numbers_in(path)
        except ValueError:
            return []

    def _folders(self) -> list[str]:
        with _reading(self.root):
            try:
                return sorted(path.name for path in self.root.iterdir() if re.match(NAME_PATTERN, path.name))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _model(self, name: str) -> Path:
        if not re.match(NAME_PATTERN, name):
            raise VersionNotFoundError(f"{name!r} is not a model name")
        return self.root / name


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the system says against a look at `path`, as one sentence of the store."""
    try:
        yield
    except OSError as exc:
        raise StoreReadError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _is_folder(path: Path) -> bool:
    """Whether a folder is there; other than `Path.is_dir` it takes no error for an answer."""
    with _reading(path):
        try:
            return stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def _manifest_of(folder: Path, name: str, version: int) -> Manifest:
    try:
        manifest = read_manifest(folder)
    except ManifestUnreadableError as exc:
        raise StoreReadError(f"{name} version {version}: {exc}") from exc
    except ManifestError as exc:
        raise VersionDamagedError(f"{name} version {version}: {exc}") from exc
    if (manifest.name, manifest.version) != (name, version):
        raise VersionDamagedError(
            f"{name} version {version}: its manifest says it is {manifest.name} version {manifest.version}"
        )
    return manifest


def numbers_in(path: Path) -> list[int]:
    """The whole numbers in a file, none when there is no file; ValueError when there is something else in it."""
    try:
        lines = path.read_text("ascii").split()
    except (FileNotFoundError, NotADirectoryError):
        return []
    if not all(line.isdecimal() for line in lines):
        raise ValueError(f"{path.name} holds something else than whole numbers")
    return [int(line) for line in lines]
