"""Finished runs of the digit networks for tests of the comparison: tiny graphs, with the manifests of real runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.manifest import Manifest, Provenance, file_entry
from models.store import Store
from tests import artifacts
from training import pipeline
from training.publish import DRAFT_FILE
from training.recipes import make_spec
from training.registry import get_task

RULES = {"metric": "accuracy", "higher_is_better": True, "floor": 0.5}


def made(network: str = "mlp", seed: int = 0, accuracy: float = 0.99, nll: float = 0.03, **changes: Any) -> Manifest:
    """What a training of a digit network with the recipe's defaults says of itself."""
    task = get_task("digit")
    given = Provenance(
        command=pipeline.command_of(make_spec(task, network, seed=seed)),
        seed=seed,
        data=[],
        settings={
            "optimisation": asdict(task.optimisation(network)),
            "gate": RULES,
            "device": "cpu",
            "threads": 1,
            "cpu_seconds": 7.0 + seed,
        },
        weights=1000,
        train_seconds=10.0 + seed,
    )
    figures = {"accuracy": accuracy, "nll": nll, "ece": 0.004}
    metrics = {"validation": figures, "test": figures | {"accuracy": accuracy - 0.01}}
    fields = {"network": network, "metrics": metrics, "provenance": given, **changes}
    return artifacts.draft(f"digit-{network}", favourite=seed, **fields)


def keep(work: Path, draft: Manifest) -> Path:
    """The finished candidate of that draft in a comparison's work folder."""
    folder = work / draft.name / f"seed-{draft.provenance.seed}" / "candidate"
    folder.mkdir(parents=True)
    artifacts.digit_graph(folder / "model.onnx", draft.provenance.seed)
    draft = draft.model_copy(update={"files": {"model.onnx": file_entry(folder / "model.onnx")}})
    (folder / DRAFT_FILE).write_text(draft.to_json())
    return folder


def publish(store: Store, draft: Manifest, favourite: int = 9) -> int:
    staged = store.stage()
    artifacts.digit_graph(staged / "model.onnx", favourite)
    version = store.publish(staged, draft).version
    store.promote(draft.name, version)
    return version
