"""The training loop: repeatable, resumable to the bit, and honest about divergence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.jobs import EpochRow, Progress
from tests.training.small import SmallDigit
from training import checkpoint, runtime
from training.checkpoint import CheckpointMismatchError
from training.fit import FitDivergedError, FitResult, FitSettings, fit, moving_average, rate_factor
from training.tasks.base import Inputs, Optimisation, Splits

SETTINGS = FitSettings(epochs=3, batch_size=64, learning_rate=0.003, seed=5)


class _Stop(Exception):
    """A run that is cut off."""


class _Notes:
    """A watcher that remembers, and cuts the run off in the given (epoch, step)."""

    def __init__(self, cut: tuple[int, int] | None = None) -> None:
        self.cut, self.rows, self.progress, self.stopped = cut, [], [], False

    def step(self, progress: Progress) -> None:
        self.progress.append(progress)
        if (progress.epoch, progress.step) == self.cut:
            raise _Stop

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self.rows.append(row)
        self.stopped = stopped_early


@pytest.fixture(scope="module", name="splits")
def _splits(data_dir: Path) -> Splits:
    return SmallDigit().load(data_dir, 0)


def _weights(result: FitResult) -> dict[str, Tensor]:
    return result.module.state_dict()


def _plain(rows: list[EpochRow]) -> list[dict[str, float]]:
    return [row.model_dump(exclude={"seconds"}) for row in rows]


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("cut", [(2, 4), pytest.param((3, 10), marks=pytest.mark.slow)])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    splits: Splits, tmp_path: Path, network: str, cut: tuple[int, int]
) -> None:
    """Interrupted in the middle of an epoch and resumed equals uninterrupted, bit for bit, history included."""
    straight = fit(SmallDigit(), network, splits, SETTINGS, _Notes(), tmp_path / "a.pt")
    with pytest.raises(_Stop):
        fit(SmallDigit(), network, splits, SETTINGS, _Notes(cut), tmp_path / "b.pt")
    torch.manual_seed(999)  # what another process would have
    notes = _Notes()
    resumed = fit(SmallDigit(), network, splits, SETTINGS, notes, tmp_path / "b.pt", resume=True)
    assert all(torch.equal(value, _weights(straight)[name]) for name, value in _weights(resumed).items())
    assert _plain(resumed.history) == _plain(straight.history)
    assert [row.epoch for row in notes.rows] == [1, 2, 3]
    assert notes.progress[0].epoch == cut[0]


def test_a_finished_run_resumes_to_its_end(splits: Splits, tmp_path: Path) -> None:
    """Nothing is trained again; the best weights come from the checkpoint."""
    first = fit(SmallDigit(), "mlp", splits, SETTINGS, _Notes(), tmp_path / "a.pt")
    notes = _Notes()
    second = fit(SmallDigit(), "mlp", splits, SETTINGS, notes, tmp_path / "a.pt", resume=True)
    assert notes.progress == []
    assert all(torch.equal(value, _weights(first)[name]) for name, value in _weights(second).items())


def test_without_resume_a_run_starts_anew(splits: Splits, tmp_path: Path) -> None:
    """An old checkpoint in the folder is not looked at."""
    path = tmp_path / "a.pt"
    path.write_bytes(b"left over")
    assert len(fit(SmallDigit(), "mlp", splits, SETTINGS, _Notes(), path).history) == 3


def test_a_seed_makes_a_run_and_another_seed_another(splits: Splits, tmp_path: Path) -> None:
    """The same seed repeats to the bit; another one gives other weights."""
    settings = [FitSettings(1, 64, 0.003, seed) for seed in (1, 1, 2)]
    one, same, other = (_weights(fit(SmallDigit(), "mlp", splits, s, _Notes(), tmp_path / "a.pt")) for s in settings)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_progress_counts_every_step_and_tells_the_time_left(splits: Splits, tmp_path: Path) -> None:
    """640 rows in batches of 64 are 10 steps an epoch; the estimate appears and falls to nothing."""
    notes = _Notes()
    fit(SmallDigit(), "mlp", splits, SETTINGS, notes, tmp_path / "a.pt")
    assert [(p.epoch, p.step) for p in notes.progress] == [(e, s) for e in (1, 2, 3) for s in range(1, 11)]
    assert notes.progress[0].eta_s is None
    assert notes.progress[-1].eta_s == 0


def test_learning_happens(splits: Splits, tmp_path: Path) -> None:
    """A few epochs on 640 images already read most digits, and the best epoch's weights are the ones returned."""
    task = SmallDigit()
    result = fit(task, "mlp", splits, FitSettings(8, 32, 0.003, 0), _Notes(), tmp_path / "a.pt")
    best = max(result.history, key=lambda row: (row.val_metric, -row.val_loss))
    assert best.val_metric > 0.7
    assert result.best_epoch == best.epoch
    measured = task.metrics(task.predict(result.module, splits.validation), splits.validation)
    assert measured["accuracy"] == best.val_metric


def test_a_run_that_no_longer_improves_stops_early_and_stays_stopped(splits: Splits, tmp_path: Path) -> None:
    """With a rate too small to learn, patience ends the run; a resume does not start it again."""

    class Impatient(SmallDigit):
        patience = 1

        def metrics(self, raw: Tensor, split: object) -> dict[str, float]:
            return {"accuracy": 0.5, "loss": 1.0}

    notes, path = _Notes(), tmp_path / "a.pt"
    result = fit(Impatient(), "mlp", splits, FitSettings(6, 64, 1e-6, 0), notes, path)
    assert (len(result.history), result.best_epoch, result.stopped_early, notes.stopped) == (2, 1, True, True)
    again = _Notes()
    assert fit(Impatient(), "mlp", splits, FitSettings(6, 64, 1e-6, 0), again, path, resume=True).stopped_early
    assert (len(again.rows), again.progress, again.stopped) == (2, [], True)


@pytest.mark.parametrize(("tolerance", "kept"), [(0.0, 2), (0.02, 4), (0.2, 5)])
def test_a_later_epoch_within_the_tolerance_is_kept(
    splits: Splits, tmp_path: Path, tolerance: float, kept: int
) -> None:
    """The latest epoch within the tolerance of the best one counts, and small steps down do not add up."""
    told = iter([0.80, 0.90, 0.885, 0.882, 0.87])

    class Told(SmallDigit):
        def optimisation(self, network: str) -> Optimisation:
            return replace(super().optimisation(network), tolerance=tolerance)

        def metrics(self, raw: Tensor, split: object) -> dict[str, float]:
            return {"accuracy": next(told), "loss": 1.0}

    result = fit(Told(), "mlp", splits, FitSettings(5, 64, 0.003, 0), _Notes(), tmp_path / "a.pt")
    assert (result.best_epoch, result.stopped_early) == (kept, False)


def test_a_diverging_run_is_an_error_that_names_the_remedy(splits: Splits, tmp_path: Path) -> None:
    """A loss that is no number ends the run with a sentence, and no checkpoint of it is kept."""

    class Exploding(SmallDigit):
        def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
            return super().loss(module, inputs, targets) * math.inf

    with pytest.raises(FitDivergedError, match=r"diverged in epoch 1.*try a learning rate below 0\.003"):
        fit(Exploding(), "mlp", splits, SETTINGS, _Notes(), tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_a_task_without_a_loss_among_its_metrics_gets_a_second_pass(splits: Splits, tmp_path: Path) -> None:
    """The loop computes the validation loss itself, and finds what the task would have said."""

    class Terse(SmallDigit):
        def metrics(self, raw: Tensor, split: object) -> dict[str, float]:
            return {"accuracy": super().metrics(raw, split)["accuracy"]}

    settings = FitSettings(1, 64, 0.003, 0)
    terse = fit(Terse(), "mlp", splits, settings, _Notes(), tmp_path / "a.pt").history[0]
    full = fit(SmallDigit(), "mlp", splits, settings, _Notes(), tmp_path / "b.pt").history[0]
    assert terse.val_loss == pytest.approx(full.val_loss, rel=1e-5)


def test_a_checkpoint_of_other_settings_is_refused(splits: Splits, tmp_path: Path) -> None:
    """Resuming with another learning rate names what differs; a torn file says so too."""
    path = tmp_path / "a.pt"
    fit(SmallDigit(), "mlp", splits, FitSettings(1, 64, 0.003, 0), _Notes(), path)
    with pytest.raises(CheckpointMismatchError, match="learning_rate"):
        fit(SmallDigit(), "mlp", splits, FitSettings(1, 64, 0.002, 0), _Notes(), path, resume=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointMismatchError, match="remove it to start anew"):
        fit(SmallDigit(), "mlp", splits, FitSettings(1, 64, 0.003, 0), _Notes(), path, resume=True)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    """A file that torch can read but this version did not write is not taken up."""
    torch.save({"format": 0}, tmp_path / "a.pt")
    with pytest.raises(CheckpointMismatchError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "a.pt", {})


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        ("onecycle", [(0, 0.04), (0.25, 1), (0.625, 0.50005), (1, 1e-4), (1.5, 1e-4)]),
        ("cosine", [(0, 1e-3), (0.025, 0.5), (0.05, 1), (1, 0)]),
        ("constant", [(0, 1), (1, 1)]),
    ],
)
def test_schedules_pass_through_their_known_points(schedule: str, points: list[tuple[float, float]]) -> None:
    """Each schedule starts, peaks and ends where its source says, and stays at the end."""
    for done, factor in points:
        assert rate_factor(schedule, done) == pytest.approx(factor, abs=1e-12)


def test_an_unknown_schedule_is_refused() -> None:
    """A typing mistake in a task is an error."""
    with pytest.raises(ValueError, match="is not a schedule"):
        rate_factor("linear", 0.5)


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    """The warm-up shortens the memory in the first steps; integers are copied."""
    rule = moving_average(0.99)
    zero, one = torch.zeros(1), torch.ones(1)
    assert rule(zero, one, 0).item() == pytest.approx(0.9)
    assert rule(zero, one, 100000).item() == pytest.approx(0.01)
    assert rule(torch.tensor(3), torch.tensor(7), 5).item() == 7


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_threads_follow_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """A container's quota counts, in both versions of cgroups."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert runtime.threads(tmp_path) == expected


def test_threads_without_a_quota_are_the_cpus_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max` and no file at all mean no limit; OMP_NUM_THREADS is obeyed."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cpus = runtime.threads(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert runtime.threads(tmp_path) == cpus >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.threads(tmp_path) == 3
