"""What a comparison found, as records: `compare.json` is the whole of it, the page and the pictures are views."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.jobs import TaskRecipe
from models.manifest import Manifest, Record
from training.comparison import latency
from training.comparison.runs import Entry, Run

BARS = {
    "digit-cnn": 0.996,
    "digit-mlp": 0.988,
    "forecast-lstm": 0.027,
    "forecast-gru": 0.03,
    "forecast-rnn": 0.03,
    "forecast-transformer": 0.03,
    "topic-transformer": 0.907,
    "topic-lstm": 0.895,
    "topic-gru": 0.895,
    "topic-rnn": 0.87,
}
"""The test figure that each model is meant to reach at least (accuracy) or at most (mse)."""

_TIE_BREAKERS = ("ece", "nll", "mse", "mae")
"""Validation figures that part runs of the same validation metric; less is better in each."""


class Spread(Record):
    """A figure over the runs: mean, sample standard deviation (none for one run), least and greatest."""

    mean: float
    std: float | None
    min: float
    max: float


class RunRow(Record):
    """One run: a network trained with one seed."""

    seed: int
    origin: str
    by_recipe: bool
    command: str
    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float]
    parity: float
    weights: int
    file_bytes: int
    sha256: str
    epochs_run: int
    train_seconds: float
    train_cpu_seconds: float | None
    device: str | None
    threads: int | None
    libraries: dict[str, str]


class Shipped(Record):
    """What became of the best run in the store it was published into; `version` is None where the gate refused it."""

    version: int | None
    reasons: list[str]


class ModelRow(Record):
    """One network over its seeds; `bar` is for the test metric of the best seed, `latency_ms` by batch size."""

    model: str
    network: str
    runs: list[RunRow]
    best_seed: int
    validation: dict[str, Spread]
    test: dict[str, Spread]
    bar: float | None
    reached: bool | None
    weights: int
    file_bytes: int
    parity: float
    latency_ms: dict[int, float]
    latency_rows: dict[str, list[int]]
    train_seconds: Spread
    train_cpu_seconds: Spread | None
    shipped: Shipped | None = None

    @property
    def best(self) -> RunRow:
        return next(run for run in self.runs if run.seed == self.best_seed)


class TaskTable(Record):
    """The networks of one task; `metric` is what the best seed is chosen by, on the validation split."""

    task: str
    metric: str
    higher_is_better: bool
    models: list[ModelRow]


class Failure(Record):
    """A run that could not be had."""

    model: str
    seed: int
    reason: str


class Comparison(Record):
    """All of it, with the processor and the libraries that latency was measured with, on one thread."""

    seeds: int
    cpu: str
    libraries: dict[str, str]
    latency_repeats: int
    tasks: list[TaskTable]
    failed: list[Failure]

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(mean=statistics.fmean(values), std=std, min=min(values), max=max(values))


def best_of(runs: Sequence[Run], recipe: TaskRecipe) -> Run:
    """The run with the best validation metric; ties go to the other validation figures, then to the smaller seed."""
    sign = -1 if recipe.metric_higher_is_better else 1

    def key(run: Run) -> tuple[float, ...]:
        figures = run.manifest.metrics["validation"]
        others = (figures.get(name, 0.0) for name in _TIE_BREAKERS if name != recipe.metric)
        return (sign * figures[recipe.metric], *others, run.seed)

    return min(runs, key=key)


def model_row(entry: Entry, runs: Sequence[Run], timings: Mapping[int, float], shipped: Shipped | None) -> ModelRow:
    """The row of one network from its runs (at least one)."""
    recipe, best = entry.task.recipe, best_of(runs, entry.task.recipe)
    bar, reached = BARS.get(entry.model), None
    if bar is not None:
        figure = best.manifest.metrics["test"][recipe.metric]
        reached = figure >= bar if recipe.metric_higher_is_better else figure <= bar
    made = [_run_row(run) for run in runs]
    return ModelRow(
        model=entry.model,
        network=entry.network,
        runs=made,
        best_seed=best.seed,
        validation=_spreads([run.manifest for run in runs], "validation"),
        test=_spreads([run.manifest for run in runs], "test"),
        bar=bar,
        reached=reached,
        weights=best.manifest.provenance.weights,
        file_bytes=best.manifest.files[best.manifest.model_file].bytes,
        parity=max(row.parity for row in made),
        latency_ms={batch: round(value, 3) for batch, value in timings.items()},
        latency_rows={name: list(values.shape[1:]) for name, values in latency.rows(best.manifest, 1).items()},
        train_seconds=spread([row.train_seconds for row in made]),
        train_cpu_seconds=_spread_of_all([row.train_cpu_seconds for row in made]),
        shipped=shipped,
    )


def _spread_of_all(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return spread(known) if len(known) == len(values) else None


def task_table(recipe: TaskRecipe, task: str, models: Sequence[ModelRow]) -> TaskTable:
    return TaskTable(
        task=task, metric=recipe.metric, higher_is_better=recipe.metric_higher_is_better, models=list(models)
    )


def _run_row(run: Run) -> RunRow:
    made, entry = run.manifest.provenance, run.manifest.files[run.manifest.model_file]
    return RunRow(
        seed=run.seed,
        origin=run.origin,
        by_recipe=run.by_recipe,
        command=made.command,
        metrics=run.manifest.metrics,
        calibration=run.manifest.calibration,
        parity=run.manifest.parity.max_abs_diff,
        weights=made.weights,
        file_bytes=entry.bytes,
        sha256=entry.sha256,
        epochs_run=made.epochs_run,
        train_seconds=made.train_seconds,
        train_cpu_seconds=made.settings.get("cpu_seconds"),
        device=made.settings.get("device"),
        threads=made.settings.get("threads"),
        libraries=made.libraries,
    )


def _spreads(manifests: Sequence[Manifest], split: str) -> dict[str, Spread]:
    """Of the figures that every run has."""
    figures = [manifest.metrics.get(split, {}) for manifest in manifests]
    shared = [name for name in figures[0] if all(name in other for other in figures)]
    return {name: spread([one[name] for one in figures]) for name in shared}


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor as it calls itself."""
    try:
        lines = cpuinfo.read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
