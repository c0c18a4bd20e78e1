"""What the store holds, as `GET /models` tells it: a published version never changes, so its manifest is read once.

Whether a manifest is still the one that was read is asked of the file system, each time: a few microseconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from models.manifest import MANIFEST_FILE, Manifest, ManifestError, ManifestUnreadableError, read_manifest
from models.store import Store
from service.schemas import ModelInfo, VersionInfo

_Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Entry:
    """One version: what is told of it while it is not live, and the same as JSON."""

    stamp: _Stamp
    info: VersionInfo
    text: bytes
    task: str | None = None
    kind: Any = None


@dataclass(frozen=True)
class Listing:
    """A model's versions, ascending, the live one and the one before it."""

    live: int | None
    previous: int | None
    entries: list[Entry]

    @property
    def newest(self) -> Entry | None:
        """The newest version whose manifest can be read."""
        return next((entry for entry in reversed(self.entries) if entry.task is not None), None)

    def text(self, info: ModelInfo, refused: dict[int, str]) -> bytes:
        """The model as JSON; `info` is without versions. `refused` tells why a version cannot be served."""
        parts = []
        for entry in self.entries:
            version = entry.info.version
            if version == self.live or version in refused:
                problem = refused.get(version) or entry.info.problem
                told = entry.info.model_copy(update={"live": version == self.live, "problem": problem})
                parts.append(told.model_dump_json().encode())
            else:
                parts.append(entry.text)
        return info.model_dump_json(exclude={"versions"}).encode()[:-1] + b',"versions":[' + b",".join(parts) + b"]}"


class Catalogue:
    """The versions of a store, for one process; every call looks at the disk. For any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[int, Entry]] = {}

    def listing(self, name: str) -> Listing:
        """A model's versions. StoreReadError while the store cannot be read."""
        history = self._store.live_history_or_empty(name)
        entries = self.entries(name)
        there = {entry.info.version for entry in entries}
        previous = next((old for old in history[1:] if old in there and old != history[0]), None)
        return Listing(history[0] if history else None, previous, entries)

    def entries(self, name: str) -> list[Entry]:
        """The versions alone, with what is wrong with their manifests."""
        known = self._known.get(name, {})
        found: dict[int, Entry] = {}
        for version in self._store.versions(name):
            path = f"{self._store.root}/{name}/{version}/{MANIFEST_FILE}"
            stamp = _stamp(path)
            entry = known.get(version)
            found[version] = entry if entry is not None and entry.stamp == stamp else self._read(name, version, stamp)
        self._known[name] = found
        return list(found.values())

    def _read(self, name: str, version: int, stamp: _Stamp) -> Entry:
        try:
            manifest = read_manifest(self._store.root / name / str(version))
        except ManifestError as exc:
            info = VersionInfo(version=version, live=False, problem=str(exc))
            # what could not be read at present is tried again the next time
            return Entry(None if isinstance(exc, ManifestUnreadableError) else stamp, info, _text(info))
        info = _info(version, manifest)
        return Entry(stamp, info, _text(info), manifest.task, manifest.kind)


def _stamp(path: str) -> _Stamp:
    try:
        stat = os.stat(path)  # noqa: PTH116 (many of them)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _text(info: VersionInfo) -> bytes:
    return info.model_dump_json().encode()


def _info(version: int, manifest: Manifest) -> VersionInfo:
    return VersionInfo(
        version=version,
        network=manifest.network,
        created_at=manifest.created_at,
        live=False,
        metrics=manifest.metrics,
        calibration=manifest.calibration,
        provenance=manifest.provenance.model_dump(mode="json"),
        gate=manifest.gate.model_dump(mode="json") if manifest.gate else None,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
    )
