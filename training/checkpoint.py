"""The state of a run after an epoch, on disk: complete or absent, and only for the run that wrote it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

_FORMAT = 1


class CheckpointMismatchError(Exception):
    """The checkpoint belongs to a run with other settings."""


def save(path: Path, run: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the state of the run described by `run`; when this returns it survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as stream:
        torch.save({"format": _FORMAT, "run": run, "state": state}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """The state last saved for the run, None when there is none; CheckpointMismatchError for another run's."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as exc:
        raise CheckpointMismatchError(f"{path} cannot be read ({exc}); remove it to start anew") from exc
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointMismatchError(f"{path} is not a checkpoint of this version; remove it to start anew")
    if content["run"] != run:
        differing = sorted(key for key in run if content["run"].get(key) != run[key])
        raise CheckpointMismatchError(
            f"{path} is of a run with other settings ({', '.join(differing)}): "
            "use those, another --work, or no --resume"
        )
    state: dict[str, Any] = content["state"]
    return state
