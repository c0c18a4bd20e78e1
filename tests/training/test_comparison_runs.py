"""Where the runs of a comparison come from: the work folder, a live version, or a training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from models.jobs import TaskRecipe
from models.store import Store
from tests.training.kept import keep, made, publish
from tests.training.small import SmallDigit
from training.comparison.runs import ZOO, Entry, Plan, live, obtain
from training.publish import CandidateError, read_draft
from training.registry import get_task
from training.reporters import ConsoleReporter
from training.tasks.digit import DigitTask


def entry(network: str = "mlp") -> Entry:
    return Entry(get_task("digit"), network)


def test_a_finished_run_in_the_work_folder_is_loaded(tmp_path: Path) -> None:
    """It goes before a live version, and nothing is trained."""
    plan = Plan(tmp_path / "work", Store(tmp_path / "store"))
    publish(plan.store, made(seed=0))
    folder = keep(plan.work, made(seed=0))
    run = obtain(entry(), 0, plan, ConsoleReporter())
    assert (run.folder, run.seed, run.by_recipe) == (folder, 0, True)


def test_one_seed_is_the_live_version_whatever_its_seed(tmp_path: Path) -> None:
    """The store's first, then the shipped one; a version of other settings is told apart."""
    plan = Plan(tmp_path / "work", Store(tmp_path / "store"))
    shipped = live(entry(), 0, plan)
    assert shipped is not None
    assert shipped.origin == f"version {Store(ZOO).live('digit-mlp')} of the shipped models"
    other = made(seed=7)
    publish(plan.store, other.model_copy(update={"provenance": other.provenance.model_copy(update={"command": "x"})}))
    mine = live(entry(), 0, plan)
    assert mine is not None
    assert (mine.seed, mine.origin, mine.by_recipe) == (7, "version 1 of the store", False)


def test_among_several_seeds_a_live_version_stands_for_its_own_only(tmp_path: Path) -> None:
    """Seed 1 of today's recipe is seed 1, not seed 0; without --load it is nobody's."""
    store = Store(tmp_path / "store")
    publish(store, made(seed=1))
    plan = Plan(tmp_path / "work", store, seeds=3)
    assert live(entry(), 0, plan) is None
    run = live(entry(), 1, plan)
    assert run is not None
    assert run.by_recipe
    assert live(entry(), 1, Plan(tmp_path / "work", store, seeds=3, load=False)) is None


class TinyDigit(SmallDigit):
    """One short epoch by default."""

    epochs = 1

    @property
    def recipe(self) -> TaskRecipe:
        whole = DigitTask.recipe
        mlp = whole.networks["mlp"]
        few = mlp.model_copy(update={"epochs": mlp.epochs.model_copy(update={"default": float(self.epochs)})})
        return whole.model_copy(update={"networks": {"mlp": few}})


class Tiny2(TinyDigit):
    """The same with other defaults, as after a change of the recipe."""

    epochs = 2


@pytest.mark.slow
def test_what_is_not_there_is_trained_and_found_the_next_time(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real training; then it is loaded; cut off before its end it goes on; a new recipe's run sets it aside."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    plan = Plan(tmp_path, Store(tmp_path / "none"), load=False)
    first = obtain(Entry(TinyDigit(), "mlp"), 2, plan, ConsoleReporter())
    assert "digit-mlp, seed 2: training" in capsys.readouterr().out
    again = obtain(Entry(TinyDigit(), "mlp"), 2, plan, ConsoleReporter())
    assert again == first
    assert "loaded" in capsys.readouterr().out
    shutil.rmtree(first.folder)
    resumed = obtain(Entry(TinyDigit(), "mlp"), 2, plan, ConsoleReporter())
    assert resumed.manifest.provenance.history == first.manifest.provenance.history  # with its seconds: not trained
    assert resumed.manifest.metrics == first.manifest.metrics
    changed = obtain(Entry(Tiny2(), "mlp"), 2, plan, ConsoleReporter())
    said = capsys.readouterr().out
    assert "had other settings: starting anew" in said
    assert changed.manifest.provenance.epochs_run == 2
    assert read_draft(first.folder.with_name("candidate.before")) == resumed.manifest


def test_a_changed_file_is_no_run(tmp_path: Path) -> None:
    """The table must not mix a draft's figures with another file's latency."""
    folder = keep(tmp_path, made())
    (folder / "model.onnx").write_bytes(b"x")
    with pytest.raises(CandidateError, match=r"model\.onnx is not the file that was measured; remove"):
        obtain(entry(), 0, Plan(tmp_path, Store(tmp_path / "store")), ConsoleReporter())


def test_a_version_without_figures_is_named(tmp_path: Path) -> None:
    """One put into the store by hand, say: nothing can be compared, and training it is offered."""
    plan = Plan(tmp_path / "work", Store(tmp_path / "store"))
    publish(plan.store, made(metrics={"validation": {"accuracy": 0.9}}))
    with pytest.raises(CandidateError, match="digit-mlp: version 1 of the store does not tell its accuracy on both"):
        obtain(entry(), 0, plan, ConsoleReporter())
