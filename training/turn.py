"""A job's folder on disk, and who may write in it: one attempt at a time, whatever became of the one before.

    WORK/…          checkpoints and candidate of the first turn
    WORK/turn-2/…   of the second, begun as a copy of the first; the last turn counts

A child holds the lock of its turn as long as a process of it lives. What is left of a worker that lost the job on this
machine is ended; on another machine, frozen perhaps, it keeps its turn, and the next attempt gets a turn of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import time
import uuid
from pathlib import Path

LOCK_FILE = "lock"
LOCK_WAIT_S = 5.0
_TURN = re.compile(r"turn-(\d+)")
_NOT_COPIED = shutil.ignore_patterns(LOCK_FILE, "*.tmp", "turn-*", ".turn-*")

log = logging.getLogger("training.worker")


def ready_folder(work: Path, wait_s: float = LOCK_WAIT_S) -> Path:
    """The folder in which the next attempt may write. Only for the job's owner: it ends the children of all others.

    Blocks for at most about `wait_s` seconds and the copying. OSError when the folder cannot be written.
    """
    work.mkdir(parents=True, exist_ok=True)
    while True:
        number, folder = last_turn(work)
        end_strays(folder)
        if _free(folder, wait_s):
            return folder
        log.warning("%s is held by a process elsewhere: a copy of it is used", folder)
        with contextlib.suppress(FileExistsError):
            _copy(folder, work / f"turn-{number + 1}")


def end_strays(folder: Path) -> list[int]:
    """Kill the training processes on this machine that write in the folder, with their groups; their ids."""
    ended = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if b"--work" in arguments and os.fsencode(folder) in arguments:
                os.killpg(int(entry.name), signal.SIGKILL)  # even a frozen one dies
                ended.append(int(entry.name))
    return ended


def last_turn(work: Path) -> tuple[int, Path]:
    """Number and folder of the turn that counts."""
    turns = {int(found[1]): path for path in work.iterdir() if (found := _TURN.fullmatch(path.name))}
    return max(turns.items(), default=(1, work))


def _free(folder: Path, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    with (folder / LOCK_FILE).open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.05)
            else:
                return True


def _copy(source: Path, target: Path) -> None:
    """Complete or absent: what the other side replaces by renaming is copied as it was before or after."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, draft, ignore=_NOT_COPIED)
        if target.exists():
            raise FileExistsError(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
