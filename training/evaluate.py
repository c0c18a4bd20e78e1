"""What an exported graph answers for the rows of a split, and its loss on each validation row.

A version keeps its losses in a file beside its graph. Versions that the gate may have to compare a candidate with and
whose losses are missing, or were measured on other rows, are measured here, on the rows that the candidate saw.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import disk
from models.manifest import MANIFEST_FILE, Losses, Manifest, file_entry
from models.store import Store, StoreError
from training import export, reference, runtime
from training.datasets.files import data_root
from training.tasks.base import RetokenizedTask, Split, Splits, Task

LOSSES_FILE = "validation-losses.npy"
_SCORE_BATCH = 256

log = logging.getLogger(__name__)


class EvaluationError(Exception):
    """The exported graph's figures are not finite numbers."""


def outputs(task: Task, path: Path, split: Split) -> dict[str, Tensor]:
    """What the ONNX file gives for every row of a split, by output name."""
    engine = export.session(path, runtime.threads())
    parts = [export.run(engine, inputs) for inputs, _ in task.batches(split, _SCORE_BATCH, None)]
    return {name: torch.cat([torch.from_numpy(part[name]) for part in parts]) for name in parts[0]}


def rows_digest(splits: Splits) -> str:
    """What identifies the rows of the validation split: the data files and the targets in order."""
    found = hashlib.sha256(splits.validation.targets.numpy().tobytes())
    for digest in sorted(source.sha256 for source in splits.sources):
        found.update(digest.encode())
    return found.hexdigest()


def losses(task: Task, answers: dict[str, Tensor], split: Split) -> NDArray[np.float32]:
    """The loss of each row or block, float32 [count]; EvaluationError when one is not a finite number."""
    found: NDArray[np.float32] = task.losses(answers, split).numpy().astype(np.float32)
    if not len(found) or not np.isfinite(found).all():
        raise EvaluationError("the losses of the exported network on the validation rows are not finite numbers")
    return found


def save_losses(folder: Path, found: NDArray[np.float32], rows_sha256: str) -> Losses:
    """Write the losses into a version's folder and return what its manifest says of them."""
    np.save(folder / LOSSES_FILE, found)
    mean = float(found.mean(dtype=np.float64))
    return Losses(file=LOSSES_FILE, rows_sha256=rows_sha256, count=len(found), mean=mean)


def measure_references(task: Task, candidate: Path, draft: Manifest, store: Store, splits: Splits | None) -> None:
    """Leave in the candidate's folder the losses of versions that have none of these validation rows.

    A version that cannot be measured is noted with the reason; the gate passes it over. `splits` are loaded where they
    are not given and needed.
    """
    (candidate / reference.MEASURED_FILE).unlink(missing_ok=True)
    missing = reference.unmeasured(draft, store)
    if not missing:
        return
    log.info(
        "measuring version %s of %s on the present validation rows",
        ", ".join(str(manifest.version) for manifest in missing),
        draft.name,
    )
    splits = splits or task.load(data_root(), draft.provenance.seed)
    reference.write_measured(candidate, [(manifest, _measured(task, store, manifest, splits)) for manifest in missing])


def complete(task: Task, store: Store, name: str, version: int, splits: Splits) -> Losses:
    """Write the losses into the folder and manifest of the version itself: for a store that is not served from."""
    manifest = store.verify(name, version)
    folder = store.folder(name, version)
    found = _losses_of_version(task, folder, manifest, splits)
    made = save_losses(folder, found, rows_digest(splits))
    files = {**manifest.files, LOSSES_FILE: file_entry(folder / LOSSES_FILE)}
    written = Manifest.model_validate({**dict(manifest), "losses": made, "files": dict(sorted(files.items()))})
    disk.write(folder / MANIFEST_FILE, written.to_json())
    return made


def _measured(task: Task, store: Store, manifest: Manifest, splits: Splits) -> NDArray[np.float32] | str:
    """The losses, or why there are none, as the end of a sentence."""
    try:
        store.verify(manifest.name, manifest.version)
        return _losses_of_version(task, store.folder(manifest.name, manifest.version), manifest, splits)
    except (StoreError, EvaluationError, OSError) as exc:
        return str(exc)
    except Exception as exc:  # ONNX Runtime's errors have no common class
        first: Sequence[str] = str(exc).strip().splitlines()
        return f"its file does not run on the validation rows: {first[0] if first else type(exc).__name__}"


def _losses_of_version(task: Task, folder: Path, manifest: Manifest, splits: Splits) -> NDArray[np.float32]:
    split = splits.validation
    if manifest.text is not None and isinstance(task, RetokenizedTask):
        tokenizer = folder / manifest.text.tokenizer
        if tokenizer.read_bytes() not in splits.assets.values():
            split = task.validation_with(data_root(), tokenizer)
    return losses(task, outputs(task, folder / manifest.model_file, split), split)
