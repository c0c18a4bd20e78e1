"""The state of a run after an epoch, on disk: complete or absent, and only for the run that wrote it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from training.memory import is_out_of_memory

_FORMAT = 1


class CheckpointMismatchError(Exception):
    """The checkpoint belongs to a run with other settings."""


class CheckpointWriteError(OSError):
    """The checkpoint could not be written; the one before it is still there."""


def save(path: Path, run: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the state of the run described by `run`; when this returns it survives a power cut.

    Raises CheckpointWriteError, and leaves nothing half-written, when the disk is full, say.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(draft, {"format": _FORMAT, "run": run, "state": state})
        draft.replace(path)
    except (OSError, RuntimeError) as exc:
        draft.unlink(missing_ok=True)
        if is_out_of_memory(exc):
            raise
        # torch wraps what the file said in a RuntimeError of several lines
        said = exc if isinstance(exc, OSError) or exc.__context__ is None else exc.__context__
        reason = getattr(said, "strerror", None) or str(said).splitlines()[0]
        raise CheckpointWriteError(f"the checkpoint {path} could not be written: {reason}; make room there") from exc
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())


def load(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The state last saved for the run, None when there is none; CheckpointMismatchError for another run's.

    A run with half the batch size is the same run: it goes on after the memory did not suffice for the whole.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as exc:
        raise CheckpointMismatchError(f"{path} cannot be read ({exc}); remove it to start anew") from exc
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointMismatchError(f"{path} is not a checkpoint of this version; remove it to start anew")
    halved = {**run, "batch_size": 2 * run["batch_size"]} if "batch_size" in run else run
    if content["run"] not in (run, halved):
        differing = sorted(key for key in run if content["run"].get(key) != run[key])
        raise CheckpointMismatchError(
            f"{path} is of a run with other settings ({', '.join(differing)}): "
            "use those, another --work, or no --resume"
        )
    state: dict[str, Any] = content["state"]
    return state
