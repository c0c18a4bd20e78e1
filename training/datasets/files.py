"""Finds the files of a data set, downloads what is missing, and believes no file before its sha256 is checked.

A file that lies in the data folder is never replaced: if it is damaged, that is an error for a person to look at.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

Log = Callable[[str], None]

_CHUNK = 1 << 16
_TIMEOUT_S = 20.0


class DataError(Exception):
    """A data file cannot be used; the message is a sentence for the user."""


class DataMissingError(DataError):
    """The file is neither there nor to be had from a mirror."""


class DataDamagedError(DataError):
    """The file is there, and it is not the one that was published."""


class _MirrorError(Exception):
    """One mirror did not give the file; the next may."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name in the data folder, hash (hex), size in bytes, and mirrors in order of preference."""

    name: str
    sha256: str
    bytes: int
    urls: tuple[str, ...]


def data_root() -> Path:
    """Where data sets lie: the environment's `DATA_DIR`, else `var/data`."""
    return Path(os.environ.get("DATA_DIR") or "var/data")


def cache_root() -> Path:
    """Where downloads go when the data folder cannot be written: `data` in the state folder."""
    return Path(os.environ.get("NEUROSERVE_STATE") or "var") / "data"


def fetch(folder: Path, file: RemoteFile, log: Log) -> Path:
    """The verified file in `folder`, or in the cache of the same name, downloaded first if it is in neither.

    Raises DataDamagedError for a file that is there with another hash, DataMissingError when no mirror gives it.
    """
    places = [folder / file.name, cache_root() / folder.name / file.name]
    for place in places:
        if place.is_file():
            return _verified(place, file)
    target = next((place for place in places if _writable(place.parent)), None)
    if target is None:
        raise DataMissingError(
            f"{file.name} is missing and neither {places[0].parent} nor {places[1].parent} can be written: "
            f"put the file at {places[0]}, or set DATA_DIR to a folder that holds {folder.name}/{file.name}"
        )
    return _download(target, file, log)


def _verified(path: Path, file: RemoteFile) -> Path:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise DataDamagedError(
            f"{path} is damaged or another file: its sha256 is {found}, expected {file.sha256} "
            f"({path.stat().st_size} bytes, expected {file.bytes}); move it away and try again"
        )
    return path


def _writable(folder: Path) -> bool:
    """Whether files can be made in `folder`; tried, as permission bits say little (root, read-only mounts)."""
    probe = folder / f".probe.{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _download(target: Path, file: RemoteFile, log: Log) -> Path:
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    failures = []
    try:
        for url in file.urls:
            log(f"downloading {file.name} ({file.bytes / 1e6:.1f} MB) from {url}")
            try:
                _receive(url, draft, file, log)
            except _MirrorError as exc:
                failures.append(f"{url}: {exc}")
                log(f"{file.name}: {exc}; {len(file.urls) - len(failures)} more mirrors to try")
                continue
            draft.replace(target)
            return target
    finally:
        draft.unlink(missing_ok=True)
    tried = "; ".join(failures) or "it has no mirror"
    raise DataMissingError(
        f"{file.name} is missing and could not be downloaded ({tried}): put the file at {target}, "
        f"or set DATA_DIR to a folder that holds {target.parent.name}/{file.name} (sha256 {file.sha256})"
    )


def _receive(url: str, draft: Path, file: RemoteFile, log: Log) -> None:
    """Write the body at `url` to `draft` and check it; _MirrorError says what was wrong with it."""
    digest, size = hashlib.sha256(), 0
    try:
        # the addresses are constants of this package, not user input
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as body, draft.open("wb") as out:  # noqa: S310
            with _Meter(file, log) as meter:
                while size <= file.bytes and (chunk := body.read(_CHUNK)):
                    out.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    meter.add(len(chunk))
            out.flush()
            os.fsync(out.fileno())
    except (OSError, urllib.error.URLError, http.client.HTTPException) as exc:
        raise _MirrorError(f"it cannot be read ({exc})") from exc
    if size != file.bytes:
        more = "more than" if size > file.bytes else f"{size} of"
        raise _MirrorError(f"it gave {more} {file.bytes} bytes")
    if digest.hexdigest() != file.sha256:
        raise _MirrorError(f"it gave a file with sha256 {digest.hexdigest()}, expected {file.sha256}")


class _Meter:
    """A progress bar on a terminal, a line every quarter otherwise."""

    def __init__(self, file: RemoteFile, log: Log) -> None:
        self.file, self.log, self.seen, self.told = file, log, 0, 0
        self.bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from tqdm import tqdm  # type: ignore[import-untyped] # comes with torch's extra

            self.bar = tqdm(total=self.file.bytes, desc=self.file.name, unit="B", unit_scale=True, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int) -> None:
        self.seen += count
        if self.bar is not None:
            self.bar.update(count)
            return
        quarter = 4 * self.seen // max(self.file.bytes, 1)
        if quarter > self.told:
            self.told = quarter
            self.log(f"{self.file.name}: {25 * min(quarter, 4)} % of {self.file.bytes / 1e6:.1f} MB")
