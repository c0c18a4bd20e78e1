"""One training end to end: data, fit, export, parity, evaluate, and the finished candidate folder.

It knows no network; what it leaves is judged and published by `training.publish`. A store is only read, for the
versions that the candidate will be compared with.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.jobs import JobSpec
from models.manifest import FileEntry, Golden, Manifest, Provenance, file_entry, now
from models.store import Store
from training import drift, evaluate, export, outliers, report, runtime
from training.datasets.files import data_root
from training.evaluate import EvaluationError, outputs
from training.fit import FitResult, FitSettings, fit
from training.gate import SETTING, VALIDATION, GateRules
from training.publish import DRAFT_FILE, CandidateError, read_draft
from training.reporters import Reporter
from training.tasks.base import Split, Splits, Task

MODEL_FILE = "model.onnx"
CANDIDATE = "candidate"
CHECKPOINT = "checkpoint.pt"
_GOLDEN_ROWS = 3

__all__ = ["EvaluationError", "command_of", "outputs", "score", "train"]


def command_of(spec: JobSpec) -> str:
    """What a user would type to train this again."""
    return (
        f"python -m training fit {spec.task} --network {spec.network} --epochs {spec.epochs} "
        f"--batch-size {spec.batch_size} --learning-rate {spec.learning_rate:g} --seed {spec.seed}"
    )


def train(
    task: Task, spec: JobSpec, work: Path, reporter: Reporter, resume: bool = False, store: Store | None = None
) -> Path:
    """Train what `spec` says in the folder `work` and return the finished candidate's folder in it.

    With `resume` the run goes on from the last epoch in `work`. Versions of `store` that the gate may compare the
    candidate with are measured on its validation rows where they have no losses of these. Errors are those of the
    stages: files.DataError, fit.FitDivergedError, checkpoint.CheckpointMismatchError, export.ExportError,
    EvaluationError.
    """
    candidate = work / CANDIDATE
    if resume and _finished(candidate, spec):
        if store is not None:
            evaluate.measure_references(task, candidate, read_draft(candidate), store, None)
        reporter.stage("candidate", str(candidate))
        return candidate
    work.mkdir(parents=True, exist_ok=True)
    splits = task.load(data_root(), spec.seed)
    reporter.stage("data")
    settings = FitSettings(spec.epochs, spec.batch_size, spec.learning_rate, spec.seed)
    result = fit(task, spec.network, splits, settings, reporter, work / CHECKPOINT, resume)
    reporter.stage("fit")
    draft_folder = work / f"{CANDIDATE}.tmp"
    shutil.rmtree(draft_folder, ignore_errors=True)
    draft_folder.mkdir()
    manifest = _candidate(task, spec, splits, result, draft_folder, reporter)
    (draft_folder / DRAFT_FILE).write_text(manifest.to_json(), "utf-8")
    if store is not None:
        evaluate.measure_references(task, draft_folder, manifest, store, splits)
    shutil.rmtree(candidate, ignore_errors=True)
    draft_folder.rename(candidate)
    reporter.stage("candidate", str(candidate))
    return candidate


def _finished(candidate: Path, spec: JobSpec) -> bool:
    """Whether the folder holds what this very spec made."""
    try:
        return read_draft(candidate).provenance.command == command_of(spec)
    except CandidateError:
        return False


def _candidate(
    task: Task, spec: JobSpec, splits: Splits, result: FitResult, folder: Path, reporter: Reporter
) -> Manifest:
    """Export into the folder, check and measure the file, and draft its manifest."""
    for name, content in splits.assets.items():
        (folder / name).write_bytes(content)
    path = folder / MODEL_FILE
    promised = task.spec(splits)
    module, calibration = task.serving(result.module, splits, len(result.history))
    lengths = task.parity_lengths()
    export.export(module, task.example(2, lengths[len(lengths) // 2], spec.seed), promised, path)
    reporter.stage("export")
    parity = export.check_parity(module, path, task.example, lengths)
    reporter.stage("parity")
    answers = outputs(task, path, splits.test)
    validated = outputs(task, path, splits.validation)
    metrics = {
        "validation": _figures(task, validated, splits.validation),
        "test": _figures(task, answers, splits.test),
    }
    rows = evaluate.rows_digest(splits)
    losses = evaluate.save_losses(folder, evaluate.losses(task, validated, splits.validation), rows)
    golden = _golden(task, path, splits.validation)
    reporter.stage("evaluate")
    draft = Manifest(
        name=task.recipe.networks[spec.network].model,
        version=1,
        task=spec.task,
        network=spec.network,
        kind=task.recipe.kind,
        created_at=now(),
        model_file=MODEL_FILE,
        files=_files(folder),
        **vars(promised),
        metrics=metrics,
        calibration=calibration,
        golden=golden,
        parity=parity,
        provenance=_provenance(task, spec, splits, result, module, rows),
        drift=drift.reference(task, path, splits, promised),
        doubt=outliers.doubt(calibration),
        losses=losses,
    )
    report.write(folder, draft, task.recipe, splits.test, answers)
    return draft.model_copy(update={"files": _files(folder)})


def _files(folder: Path) -> dict[str, FileEntry]:
    """Every file in the folder, by its path in it."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in found}


def score(task: Task, path: Path, split: Split) -> dict[str, float]:
    """The figures of a split from the ONNX file itself; EvaluationError when one is not a finite number."""
    return _figures(task, outputs(task, path, split), split)


def _figures(task: Task, answers: dict[str, Tensor], split: Split) -> dict[str, float]:
    figures = task.score(answers, split)
    for name, value in figures.items():
        if not math.isfinite(value):
            raise EvaluationError(f"{name} of the exported network is {value}, not a finite number")
    return figures


def _golden(task: Task, path: Path, split: Split) -> Golden:
    """A few real rows and what ONNX Runtime gives for them."""
    few = Split({name: rows[:_GOLDEN_ROWS] for name, rows in split.inputs.items()}, split.targets[:_GOLDEN_ROWS])
    inputs, _ = next(iter(task.batches(few, _GOLDEN_ROWS, None)))
    outputs = export.run(export.session(path), inputs)
    return Golden(
        inputs={name: rows.tolist() for name, rows in inputs.items()},
        outputs={name: values.tolist() for name, values in outputs.items()},
    )


def _provenance(
    task: Task, spec: JobSpec, splits: Splits, result: FitResult, module: nn.Module, rows: str
) -> Provenance:
    rules = GateRules(
        metric=task.recipe.metric,
        higher_is_better=task.recipe.metric_higher_is_better,
        floor=task.floor,
    )
    settings: dict[str, Any] = {
        **spec.model_dump(include={"epochs", "batch_size", "learning_rate"}),
        "optimisation": asdict(task.optimisation(spec.network)),
        "best_epoch": result.best_epoch,
        "stopped_early": result.stopped_early,
        **({} if result.halved_after is None else {"batch_size_halved_after_epoch": result.halved_after}),
        "rows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "device": runtime.device().type,
        "threads": runtime.threads(),
        "cpu_seconds": round(result.cpu_seconds, 1),
        VALIDATION: rows,
        SETTING: rules.model_dump(),
    }
    return Provenance(
        command=command_of(spec),
        seed=spec.seed,
        data=splits.sources,
        settings=settings,
        weights=export.count_weights(module),
        epochs_run=len(result.history),
        train_seconds=round(result.seconds, 1),
        history=[row.model_dump() for row in result.history],
        libraries=runtime.libraries(),
    )
