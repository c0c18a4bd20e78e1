"""What the forecaster owes to each of its parts, and how it does four days ahead.

`python -m training.studies.forecast --output DIR` trains every variant with every seed, by the recipe of
`forecast-lstm`, and writes `study-forecast.json` and `study-forecast.md`. All errors are mean squared errors of the
scaled target, as published for ETTh1, over the windows with a full past; weights are chosen by the validation split.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training import runtime
from training.datasets import ett
from training.datasets.files import DataError, data_root
from training.fit import FitSettings, fit
from training.nets.forecaster import LOOK_BACK, Forecaster
from training.reporters import ConsoleReporter, Reporter
from training.tasks.base import Split, Splits
from training.tasks.forecast import HORIZON, ForecastTask

FAR = 96
NAME = "study-forecast"
_RECIPE = ForecastTask.recipe.networks["lstm"]


class Nothing(nn.Module):
    """An encoder that reads nothing: zeros [batch, features] of any steps."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 (an encoder's signature)
        return x, x.new_zeros(len(x), self.features)


class Variant(ForecastTask):
    """The forecast task with a part of its network held at zero from the start.

    `whole` is the recipe's own network; `linear` leaves the map of the past and the hour table; `encoder` leaves the
    LSTM, on differences to the last value. What is switched off keeps its zeros, as no gradient reaches it.
    """

    def __init__(self, parts: str = "whole", horizon: int = HORIZON) -> None:
        super().__init__(horizon)
        self.parts = parts

    def build(self, network: str, splits: Splits) -> nn.Module:
        module = super().build(network, splits)
        if not isinstance(module, Forecaster):
            raise TypeError(f"{type(module).__name__} has no parts to switch off")
        if self.parts == "linear":
            module.encoder = Nothing(module.head.in_features)
            _freeze(module.head)
        elif self.parts == "encoder":
            _freeze(module.past, module.hour)
        elif self.parts != "whole":
            raise ValueError(f"{self.parts!r} is no part of a forecaster; there are whole, linear and encoder")
        return module


@dataclass(frozen=True)
class Plan:
    """One row of the tables: a variant, how far it looks ahead, and how it is trained where the recipe does not say."""

    name: str
    parts: str
    horizon: int
    epochs: int = int(_RECIPE.epochs.default)
    learning_rate: float = _RECIPE.learning_rate.default


PLANS = [
    Plan("linear map alone", "linear", HORIZON),
    Plan("linear map alone", "linear", FAR, epochs=3),
    Plan("whole network", "whole", FAR, epochs=2),
    Plan("LSTM alone", "encoder", HORIZON),
    Plan("whole network", "whole", HORIZON),
]
"""The recipe's epochs, and fewer where more were no better on the validation split; the cheapest first."""


@dataclass(frozen=True)
class Run:
    """What one seed of a plan came to."""

    seed: int
    validation: float
    test: float
    best_epoch: int
    seconds: float


def _freeze(*layers: nn.Module) -> None:
    for layer in layers:
        layer.requires_grad_(False)


def run(plan: Plan, splits: Splits, seed: int, reporter: Reporter) -> Run:
    """Train and score a plan once; errors are those of `fit`."""
    task = Variant(plan.parts, plan.horizon)
    settings = FitSettings(plan.epochs, int(_RECIPE.batch_size.default), plan.learning_rate, seed)
    with tempfile.TemporaryDirectory() as folder:
        result = fit(task, "lstm", splits, settings, reporter, Path(folder) / "checkpoint.pt")
    scores = {
        name: task.metrics(task.predict(result.module, split), split)["mse"]
        for name, split in (("validation", splits.validation), ("test", splits.test))
    }
    return Run(seed, scores["validation"], scores["test"], result.best_epoch, round(result.seconds, 1))


def last_value(split: Split) -> float:
    """The error of the last reading repeated, over the windows with a full past."""
    full = split.inputs["lengths"] == LOOK_BACK
    target = ett.COLUMNS.index(ett.TARGET)
    last = split.inputs["values"][full, LOOK_BACK - 1, target].unsqueeze(1)
    return ((last - split.targets[full]) / ett.TARGET_STD).square().mean().item()


def study(plans: Sequence[Plan], seeds: Sequence[int], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Run every plan with every seed, and return what `folder` holds in the end; it grows with each run.

    Errors are those of `load` and `fit`.
    """
    data = {horizon: ForecastTask(horizon).load(data_root(), 0) for horizon in sorted({one.horizon for one in plans})}
    baselines = {
        horizon: {"validation": last_value(splits.validation), "test": last_value(splits.test)}
        for horizon, splits in data.items()
    }
    runs: dict[Plan, list[Run]] = {plan: [] for plan in plans}
    found: dict[str, Any] = {}
    for plan in plans:
        for seed in seeds:
            reporter.log(f"{plan.horizon} hours, {plan.name}, seed {seed}")
            runs[plan].append(run(plan, data[plan.horizon], seed, reporter))
            found = _found(seeds, baselines, runs)
            write(found, folder)
    return found


def _found(seeds: Sequence[int], baselines: dict[int, dict[str, float]], runs: dict[Plan, list[Run]]) -> dict[str, Any]:
    return {
        "command": "python -m training.studies.forecast --seeds " + " ".join(map(str, seeds)),
        "metric": "mean squared error of the scaled target",
        "threads": runtime.threads(),
        "libraries": runtime.libraries(),
        "horizons": {
            str(horizon): {
                "last_value": baseline,
                "variants": [_row(plan, done) for plan, done in runs.items() if done and plan.horizon == horizon],
            }
            for horizon, baseline in baselines.items()
        },
    }


def _row(plan: Plan, runs: list[Run]) -> dict[str, Any]:
    row = asdict(plan) | {"runs": [asdict(one) for one in runs]}
    for split in ("validation", "test"):
        values = [getattr(one, split) for one in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        row[split] = {"mean": statistics.fmean(values), "spread": spread}
    return row


def as_markdown(found: dict[str, Any]) -> str:
    """A table for each horizon: means and standard deviations over the seeds."""
    lines = [f"<!-- {found['command']} -->"]
    for horizon, part in found["horizons"].items():
        lines += [
            "",
            f"### The next {horizon} hours",
            "",
            "| forecast | validation MSE | test MSE | epochs | seconds a run |",
            "|---|---|---|---|---|",
            "| last value repeated | {validation:.4f} | {test:.4f} | | |".format(**part["last_value"]),
        ]
        for row in part["variants"]:
            seconds = statistics.fmean(one["seconds"] for one in row["runs"])
            scores = " | ".join(
                f"{row[name]['mean']:.4f} ± {row[name]['spread']:.4f}" for name in ("validation", "test")
            )
            lines.append(f"| {row['name']} | {scores} | {row['epochs']} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def write(found: dict[str, Any], folder: Path) -> None:
    """Both files, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (folder / f"{NAME}.md").write_text(as_markdown(found), "utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the whole study; the exit code is 0, or 1 where the data cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m training.studies.forecast", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--output", type=Path, default=Path("var/studies"), metavar="DIR")
    args = parser.parse_args(argv)
    reporter = ConsoleReporter()
    begun = time.monotonic()
    try:
        study(PLANS, args.seeds, args.output, reporter)
    except DataError as exc:
        reporter.error(str(exc))
        return 1
    reporter.log(f"wrote {args.output / NAME}.json and .md after {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
