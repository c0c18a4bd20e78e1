"""Publishes the best run of each network."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from models.store import Store
from training.comparison.results import Shipped
from training.comparison.runs import Run
from training.publish import DRAFT_FILE, publish
from training.reporters import Reporter


def ship(run: Run, store: Store, reporter: Reporter) -> Shipped:
    """Publish the run into the store and make it live, unless a version with the same model file is there already.

    The gate may refuse it; errors are those of `training.publish`.
    """
    name, there = run.manifest.name, _same(run, store)
    if there is not None:
        if store.live(name) != there:
            store.promote(name, there)
        reporter.log(f"{name}, seed {run.seed}: is version {there} already")
        return Shipped(version=there, reasons=[])
    with _as_candidate(run) as candidate:
        result = publish(candidate, store, "always")
    if result.model is None:
        reporter.log(f"{name}, seed {run.seed}: refused by the gate: {'; '.join(result.gate.reasons)}")
        return Shipped(version=None, reasons=result.gate.reasons)
    reporter.log(f"{name}, seed {run.seed}: published as version {result.model.version}")
    return Shipped(version=result.model.version, reasons=result.gate.reasons)


def _same(run: Run, store: Store) -> int | None:
    """The newest version whose model file is that of the run."""
    name, file = run.manifest.name, run.manifest.model_file
    for version in reversed(store.versions(name)):
        manifest = store.manifest(name, version)
        if manifest.files[manifest.model_file] == run.manifest.files[file]:
            return version
    return None


@contextlib.contextmanager
def _as_candidate(run: Run) -> Iterator[Path]:
    """The run's folder, or a copy with a draft where it is a version of another store."""
    if (run.folder / DRAFT_FILE).is_file():
        yield run.folder
        return
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / "candidate"
        shutil.copytree(run.folder, candidate)
        (candidate / DRAFT_FILE).write_text(run.manifest.model_copy(update={"gate": None}).to_json(), "utf-8")
        yield candidate
