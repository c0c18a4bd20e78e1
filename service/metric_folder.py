"""The folder in which the workers share their counts.

Loads no metrics: they choose their form when they are imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from models import disk

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The client library's variable for the folder; without it each process counts for itself."""


_PREFIX = "neuroserve-metrics-"
_LOCK = "service.lock"
_held: dict[Path, int] = {}


def make_folder(state: Path) -> Path | None:
    """A new folder for the files: a temporary one, else one in the state folder; None where neither can be made.

    Folders of services that were killed are removed: each holds a lock in its own, which ends with its processes.
    """
    for place in (Path(tempfile.gettempdir()), state):
        _remove_left(place)
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as exc:
            log.warning("no folder for the workers' counts can be made in %s: %s", place, exc)
            continue
        with contextlib.suppress(OSError, disk.LockedError):  # without a lock, no service will remove it
            _held[folder] = disk.take(folder / "new.lock")
            (folder / "new.lock").rename(folder / _LOCK)  # locked before it can be seen
        return folder
    log.warning("each worker shows its own counts only, for want of a folder to share them in; make room and restart")
    return None


def remove_folder(folder: Path | None) -> None:
    """Remove the folder of this service, at its end."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        if (handle := _held.pop(folder, None)) is not None:
            os.close(handle)


def _remove_left(place: Path) -> None:
    """Remove this user's folders whose service is gone."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, disk.LockedError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid() or not (folder / _LOCK).is_file():
                continue
            handle = disk.take(folder / _LOCK)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
