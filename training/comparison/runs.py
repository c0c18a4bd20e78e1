"""Where the runs of a comparison come from: its work folder, a store's live versions, or a training now.

WORK/MODEL/seed-N/candidate   the finished run of seed N; what else lies in seed-N is the training's own
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import models
from models.manifest import Manifest, file_entry
from models.store import Store
from training import pipeline
from training.checkpoint import CheckpointMismatchError
from training.publish import CandidateError, read_draft
from training.recipes import make_spec
from training.registry import UnknownTaskError, get_task, task_names
from training.reporters import Reporter
from training.tasks.base import Optimisation, Task

ZOO = Path(models.__file__).parent / "zoo"


@dataclass(frozen=True)
class Entry:
    """One network of one task."""

    task: Task
    network: str

    @property
    def model(self) -> str:
        return self.task.recipe.networks[self.network].model


@dataclass(frozen=True)
class Run:
    """One trained network: its folder, what its manifest says, and where it came from."""

    folder: Path
    manifest: Manifest
    origin: str
    by_recipe: bool
    """Whether it was made with the settings that are the recipe's defaults today."""

    @property
    def seed(self) -> int:
        return self.manifest.provenance.seed

    @property
    def file(self) -> Path:
        return self.folder / self.manifest.model_file


@dataclass(frozen=True)
class Plan:
    """How many seeds each network has, where runs are kept, and whether live versions of `store` stand for theirs."""

    work: Path
    store: Store
    seeds: int = 1
    load: bool = True


def chosen(tasks: Sequence[str], networks: Sequence[str], names: Sequence[str]) -> list[Entry]:
    """The networks that fit all three lists (an empty one fits everything), by task and in the recipe's order.

    UnknownTaskError names what is in a list and nowhere else, and what there is.
    """
    asked = [get_task(name) for name in dict.fromkeys(tasks or task_names())]
    entries = [Entry(task, network) for task in asked for network in task.recipe.networks]
    entries = _filtered(entries, "network", [entry.network for entry in entries], networks)
    return _filtered(entries, "model", [entry.model for entry in entries], names)


def _filtered(entries: list[Entry], what: str, known: list[str], wanted: Sequence[str]) -> list[Entry]:
    for name in wanted:
        if name not in known:
            there = ", ".join(dict.fromkeys(known))
            raise UnknownTaskError(f"there is no {what} {name!r} among those chosen; there are {there}")
    return [entry for entry, name in zip(entries, known, strict=True) if not wanted or name in wanted]


def obtain(entry: Entry, seed: int, plan: Plan, reporter: Reporter) -> Run:
    """The run of a network and seed: loaded if there is one, else trained, from where an earlier try stopped.

    Errors are those of `pipeline.train`, the store's, and CandidateError for files that were changed.
    """
    home = plan.work / entry.model / f"seed-{seed}"
    run = kept(entry, seed, home) or live(entry, seed, plan)
    if run is None:
        reporter.log(f"{entry.model}, seed {seed}: training")
        return _trained(entry, seed, home, reporter)
    metric, figures = entry.task.recipe.metric, run.manifest.metrics
    if not all(metric in figures.get(split, {}) for split in ("validation", "test")):
        raise CandidateError(f"{entry.model}: {run.origin} does not tell its {metric} on both splits; try --train")
    reporter.log(f"{entry.model}, seed {run.seed}: loaded ({run.origin})")
    return run


def kept(entry: Entry, seed: int, home: Path) -> Run | None:
    """The finished run in the folder `home`, None when there is none or it was made with other settings."""
    candidate = home / pipeline.CANDIDATE
    try:
        draft = read_draft(candidate)
    except CandidateError:
        return None
    return _checked(candidate, draft) if _by_recipe(entry, seed, draft) else None


def live(entry: Entry, seed: int, plan: Plan) -> Run | None:
    """The live version of the store, else the shipped one, where it may stand for the run of that seed.

    Where one seed is asked for, any live version may; among several only the very run that would be trained.
    """
    for store in (plan.store, Store(ZOO)) if plan.load else ():
        version = store.live(entry.model)
        if version is None:
            continue
        manifest = store.verify(entry.model, version)
        by_recipe = _by_recipe(entry, manifest.provenance.seed, manifest)
        if plan.seeds > 1 and not (by_recipe and manifest.provenance.seed == seed):
            return None
        whose = "the shipped models" if store.root.resolve() == ZOO.resolve() else "the store"
        return Run(store.folder(entry.model, version), manifest, f"version {version} of {whose}", by_recipe)
    return None


def _trained(entry: Entry, seed: int, home: Path, reporter: Reporter) -> Run:
    spec = make_spec(entry.task, entry.network, seed=seed)
    _set_aside(home / pipeline.CANDIDATE)
    try:
        candidate = pipeline.train(entry.task, spec, home, reporter, resume=True)
    except CheckpointMismatchError:
        reporter.log("what was begun there had other settings: starting anew")
        candidate = pipeline.train(entry.task, spec, home, reporter, resume=False)
    return _checked(candidate, read_draft(candidate))


def _set_aside(candidate: Path) -> None:
    """Keep a finished run of other settings (of these it would have been loaded) out of the way, the last one only."""
    if candidate.is_dir():
        before = candidate.with_name(f"{candidate.name}.before")
        shutil.rmtree(before, ignore_errors=True)
        candidate.rename(before)


def _by_recipe(entry: Entry, seed: int, manifest: Manifest) -> bool:
    """Whether today's defaults would be told to train just so."""
    made = manifest.provenance
    try:
        # what a manifest leaves out had its default
        optimisation = Optimisation(**made.settings.get("optimisation", {}))
    except TypeError:
        return False
    asked = pipeline.command_of(make_spec(entry.task, entry.network, seed=seed))
    return made.command == asked and asdict(optimisation) == asdict(entry.task.optimisation(entry.network))


def _checked(candidate: Path, draft: Manifest) -> Run:
    path = candidate / draft.model_file
    if not path.is_file() or file_entry(path) != draft.files[draft.model_file]:
        raise CandidateError(f"{path} is not the file that was measured; remove {candidate} to train it again")
    return Run(candidate, draft, "trained for the comparison", by_recipe=True)
