"""Versioned model folders with atomic publish, a live pointer, verify, rollback and prune.

    ROOT/NAME/VERSION/…    one version, complete or absent: it arrives by one rename
    ROOT/NAME/live         version numbers, one a line: the live one, then those that were live before it, newest first
    ROOT/NAME/last         the highest number ever given out, so that a deleted number is not used again
    ROOT/NAME/reference    versions that were live since the gate's reference was last reset, the best known first
    ROOT/NAME/rolled-back  versions that were live until a rollback: only an order of its own brings one back
    ROOT/NAME/deleted      jobs whose version was deleted, as JSON strings, one a line: none publishes a second one
    ROOT/.locks/NAME       held while a model is changed; a process that dies gives it back
    ROOT/.staging/…        versions being written; never looked at by readers

Several processes may publish, promote, prune and read at once. Changes of one model wait for each other; readers wait
for nobody, as each change is one atomic rename of something that is on the disk already.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from models import disk
from models.canary import CanaryError, candidate_of
from models.manifest import MANIFEST_FILE, Manifest, file_entry
from models.reading import (
    LIVE_FILE,
    REFERENCE_FILE,
    ROLLED_BACK_FILE,
    LiveChangedError,
    NothingToRollBackError,
    StoreError,
    StoreHeldError,
    StoreReader,
    StoreReadError,
    StoreWriteError,
    VersionDamagedError,
    VersionGoneError,
    VersionInCanaryError,
    VersionInUseError,
    VersionNotFoundError,
    numbers_in,
)
from models.staging import Staging

__all__ = [
    "LiveChangedError",
    "NothingToRollBackError",
    "Store",
    "StoreError",
    "StoreHeldError",
    "StoreReadError",
    "StoreWriteError",
    "VersionDamagedError",
    "VersionGoneError",
    "VersionInCanaryError",
    "VersionInUseError",
    "VersionNotFoundError",
]

LAST_FILE = "last"
DELETED_FILE = "deleted"
LOCKS = ".locks"
STAGING = ".staging"
LOCK_WAIT_S = 15.0


class Store(StoreReader):
    """The folder of models at `root`, for those who also change it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._staging = Staging(root / STAGING)

    def stage(self) -> Path:
        """A new empty folder to write a version into, on the store's own file system; this process's until it ends."""
        with self._writing("nothing was published"):
            return self._staging.new()

    def discard(self, staged: Path) -> None:
        """Remove a staged folder; one that was published is no error."""
        self._staging.drop(staged)

    def publish(self, staged: Path, draft: Manifest, once: str | None = None) -> Manifest:
        """Make the staged folder the next version of `draft.name` and return its manifest.

        The draft's version and file table are replaced: the number by the next free one, the table by the hashes of
        what is really there. The version is on disk (fsync) before its name appears. Nothing becomes live.

        `once` is the id of the job that publishes, written into the provenance. However often, late or in how many
        processes at once a job publishes, there is one version: a repeat discards the staged folder and returns the
        manifest of that version, or raises VersionGoneError when it was deleted since.
        """
        name, model = draft.name, self._model(draft.name)
        if once is not None:
            draft = draft.model_copy(update={"provenance": draft.provenance.model_copy(update={"job_id": once})})
        with self._writing(f"no version of {name} was published"):
            disk.make_folder(model)
            (staged / MANIFEST_FILE).unlink(missing_ok=True)
            paths = [path for path in sorted(staged.rglob("*")) if path.is_file()]
            files = {path.relative_to(staged).as_posix(): file_entry(path) for path in paths}
            disk.sync_tree(staged)
            with self._locked(name):
                if once is not None and (earlier := self.published_by(name, once)) is not None:
                    self.discard(staged)
                    return earlier
                while True:
                    version = self._next_number(name)
                    manifest = Manifest.model_validate({**dict(draft), "version": version, "files": files})
                    (staged / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
                    disk.sync(staged / MANIFEST_FILE)
                    disk.sync(staged)
                    self._give_out(name, version)
                    if disk.move(staged, model / str(version)):
                        break
                self._staging.release(staged)
                disk.sync(model)
                return manifest

    def published_by(self, name: str, job_id: str) -> Manifest | None:
        """What a job has published, or None; VersionGoneError when that was deleted since."""
        for version in reversed(self.versions(name)):
            with contextlib.suppress(
                VersionDamagedError, VersionNotFoundError
            ):  # a damaged neighbour is no reason to lose a job
                manifest = self.manifest(name, version)
                if manifest.provenance.job_id == job_id:
                    return manifest
        if job_id in self._deleted_jobs(name):
            raise VersionGoneError(
                f"the version of {name} that job {job_id} published was deleted since; a job publishes only once"
            )
        return None

    def promote(self, name: str, version: int) -> None:
        """Make a version live after verifying it; the one before it becomes what rollback goes to."""
        self._promote(name, version)

    def promote_first(
        self,
        name: str,
        version: int,
        over: int | None,
        *,
        among: Sequence[int] | None = None,
        best: int | None = None,
        reset: bool = False,
    ) -> None:
        """Make a version live that was judged beside the live one, `over`; LiveChangedError when another is live now.

        With `among` the error is raised, too, when `contenders` gives other versions than those. `best` is the one of
        them, or the version itself, that was measured to be the best: the new reference. With `reset` the version
        becomes the reference whatever was live before. A version that was live before is left as it is: what others
        have decided since stands.
        """
        history = [] if over is None else [over]
        self._promote(name, version, history, among=among, best=best, reset=reset)

    def rollback(self, name: str) -> int:
        """Make the previously live version live again and return its number."""
        if not self.versions(name):
            raise VersionNotFoundError(f"there is no model {name}")
        with self._writing(f"{name} was not rolled back"), self._locked(name):
            back_to = self.previous(name)
            if back_to is None:
                raise NothingToRollBackError(f"{name} has no earlier live version to roll back to")
            self.verify(name, back_to)
            history = self.live_history(name)
            left, kept = history[: history.index(back_to)], history[history.index(back_to) :]
            self._write_numbers(name, ROLLED_BACK_FILE, sorted({*self._rolled_back(name), *left}))
            self._write_contenders(name, [*self.contenders(name), back_to])
            self._point(name, kept)
        return back_to

    def delete(self, name: str, version: int) -> None:
        """Remove a version that is not live."""
        self.folder(name, version)
        with self._writing(f"{name} version {version} was not deleted"), self._locked(name):
            self._delete(name, version)

    def prune(self, name: str, keep: int = 5, also: Collection[int] = ()) -> list[int]:
        """Remove all but the newest `keep` versions, the live one, the reference and the one rollback goes to.

        Those in `also` stay too. The numbers of the removed ones are returned. What dead processes have left in the
        staging folder goes too.
        """
        if not self.versions(name):
            raise VersionNotFoundError(f"there is no model {name}")
        with self._writing(f"{name} was not pruned to the end"), self._locked(name):
            there = self.versions(name)
            protected = {self.live(name), self.previous(name), *there[len(there) - min(max(keep, 0), len(there)) :]}
            protected |= {self.reference(name), self._candidate(name), *also}
            gone = [version for version in there if version not in protected]
            for version in gone:
                self._delete(name, version)
        self.sweep()
        return gone

    def sweep(self) -> list[str]:
        """Remove what processes that are gone have left unfinished, and return its names; safe beside living ones."""
        with self._writing("leftovers were not removed"):
            left = self._staging.sweep()
            for name in self._folders():
                if any(self._model(name).glob(".*")):
                    with self._locked(name):
                        left += self._clear_drafts(name)
            return left

    def seed(self, source: Store) -> list[str]:
        """Copy the models this store does not have yet from another, live pointers too; their names.

        A model that had versions of its own here gets the other's live one under its next number.
        """
        missing = [name for name in source.names() if not self.versions(name)]
        return [name for name in missing if self._seed(source, name)]

    # ------------------------------------------------------------------ inside

    def _promote(
        self,
        name: str,
        version: int,
        over: list[int] | None = None,
        *,
        among: Sequence[int] | None = None,
        best: int | None = None,
        reset: bool = False,
    ) -> None:
        self.folder(name, version)
        with self._writing(f"{name} version {version} was not made live"), self._locked(name):
            history = self.live_history_or_empty(name)
            if over is not None:
                if version in {*history, *self._rolled_back(name)}:
                    return
                if history[:1] != over:
                    raise LiveChangedError(f"{name}: version {history[:1] or None} is live now, not {over or None}")
            contenders = self.contenders(name)
            if among is not None and contenders != list(among):
                raise LiveChangedError(f"{name}: other versions have been live than {', '.join(map(str, among))}")
            self.verify(name, version)
            first = [] if best is None else [best]
            self._write_contenders(name, [version] if reset else [*first, *contenders, version])
            self._point(name, [version, *(old for old in history if old != version)])

    def _seed(self, source: Store, name: str) -> bool:
        with self._writing(f"{name} was not copied from {source.root}"):
            staged = self.stage()
            try:
                if (self._model(name) / LAST_FILE).exists():
                    # another process may have seeded it since it was found missing
                    return not self.versions(name) and self._adopt(source, name, staged)
                shutil.copytree(source.root / name, staged, dirs_exist_ok=True)
                disk.write(staged / LAST_FILE, f"{max(source.versions(name))}\n")
                disk.sync_tree(staged)
                with self._locked(name):
                    self._clear_drafts(name)
                    moved = not self.versions(name) and disk.move(staged, self._model(name))
                    disk.sync(self.root)
                    return moved
            finally:
                self.discard(staged)

    def _adopt(self, source: Store, name: str, staged: Path) -> bool:
        version = source.live(name) or source.versions(name)[-1]
        shutil.copytree(source.folder(name, version), staged, dirs_exist_ok=True)
        self.promote(name, self.publish(staged, source.manifest(name, version)).version)
        return True

    def _delete(self, name: str, version: int) -> None:
        folder = self.folder(name, version)
        if self.live(name) == version:
            raise VersionInUseError(f"{name} version {version} is live; promote another version first")
        if self._candidate(name) == version:
            raise VersionInCanaryError(f"{name} version {version} is in a canary; end that first")
        with contextlib.suppress(VersionDamagedError):
            job_id = self.manifest(name, version).provenance.job_id
            if job_id is not None and job_id not in (jobs := self._deleted_jobs(name)):
                disk.write(
                    self._model(name) / DELETED_FILE, "".join(f"{json.dumps(each)}\n" for each in [*jobs, job_id])
                )
        self._give_out(name, self._next_number(name) - 1)
        self._staging.bury(folder)

    def _candidate(self, name: str) -> int | None:
        """The version that must stay for a running canary; what cannot be read at present may name any."""
        try:
            return candidate_of(self._model(name), self.live(name))
        except CanaryError as exc:
            raise StoreReadError(str(exc)) from exc

    def _deleted_jobs(self, name: str) -> list[str]:
        path = self._model(name) / DELETED_FILE
        try:
            return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
        except ValueError:
            raise StoreError(f"{path} is unreadable; remove it to forget which jobs' versions were deleted") from None

    def _rolled_back(self, name: str) -> list[int]:
        path = self._model(name) / ROLLED_BACK_FILE
        try:
            return numbers_in(path)
        except ValueError:
            raise StoreError(f"{path} is unreadable; remove it to forget which versions were rolled back") from None

    def _next_number(self, name: str) -> int:
        try:
            last = numbers_in(self._model(name) / LAST_FILE)
        except ValueError:
            last = []
        return max([0, *last, *self.versions(name)]) + 1

    def _give_out(self, name: str, number: int) -> None:
        """Note on the disk that the number is taken, before anything bears it."""
        path = self._model(name) / LAST_FILE
        try:
            known = number in numbers_in(path)
        except ValueError:
            known = False
        if not known:
            disk.write(path, f"{number}\n")

    def _clear_drafts(self, name: str) -> list[str]:
        """Whoever writes a small file holds the model's lock, so what its holder finds half-written is nobody's."""
        drafts = list(self._model(name).glob(".*"))
        for path in drafts:
            disk.erase(path)
        return [path.name for path in drafts]

    def _point(self, name: str, history: Iterable[int]) -> None:
        there = set(self.versions(name))
        self._write_numbers(name, LIVE_FILE, [version for version in history if version in there])

    def _write_contenders(self, name: str, versions: Iterable[int]) -> None:
        self._write_numbers(name, REFERENCE_FILE, dict.fromkeys(versions))

    def _write_numbers(self, name: str, file: str, numbers: Iterable[int]) -> None:
        disk.write(self._model(name) / file, "".join(f"{number}\n" for number in numbers))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        disk.make_folder(self.root / LOCKS)
        try:
            with disk.locked(self.root / LOCKS / name, LOCK_WAIT_S):
                yield
        except disk.LockedError:
            raise StoreHeldError(
                f"{name} has been held by another process for {LOCK_WAIT_S:g} seconds, which may be stopped; "
                f"continue or end that process and try again"
            ) from None

    @contextlib.contextmanager
    def _writing(self, outcome: str) -> Iterator[None]:
        """What the system says against a change, as one sentence of the store."""
        try:
            yield
        except OSError as exc:
            raise StoreWriteError(f"{outcome}: {self.root}: {disk.reason(exc)}") from exc
