"""The folder in which the workers share their counts.

Loads no metrics: they choose their form when they are imported.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The client library's variable for the folder; without it each process counts for itself."""


def make_folder(state: Path) -> Path | None:
    """A new folder for the files: a temporary one, else one in the state folder; None where neither can be made."""
    for place in (None, state):
        try:
            return Path(tempfile.mkdtemp(prefix="neuroserve-metrics-", dir=place))
        except OSError as exc:
            log.warning("no folder for the workers' counts can be made in %s: %s", place or "/tmp", exc)  # noqa: S108
    log.warning("each worker shows its own counts only, for want of a folder to share them in; make room and restart")
    return None


def remove_folder(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
