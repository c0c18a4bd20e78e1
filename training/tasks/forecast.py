"""Oil temperature of a transformer, the next 24 hours, from hourly loads and temperatures (ETTh1).

Every network is the same forecaster with another encoder in its correction (see `nets/forecaster.py`). Training shows
half of the rows with a shorter past of random length, so that two days of readings are answered nearly as well as two
weeks.

The interval is split conformal: its half widths, beside each series' restlessness, are quantiles of the errors on the
validation split (Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018). Its windows overlap
and seasons differ, so that `level` is a target and not a guarantee; the manifest says what it came to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from models.jobs import NetworkRecipe, Range, TaskRecipe
from models.manifest import Buckets, SeriesSpec, TensorSpec
from training.datasets import ett
from training.nets.forecaster import CLOCK_FEATURES, LOOK_BACK, RECENT, WEEK, Forecaster
from training.nets.series import encoder_of
from training.tasks.base import Inputs, Optimisation, ServingSpec, Split, Splits, Task

HORIZON = 24
MIN_LENGTH = 24
LEVEL = 0.8
PASTS = [24, 48, 96, 168, LOOK_BACK]
"""Lengths of the past that the interval is fitted and figures are told for; the last is what the metric is about."""
SHORTER_EVERY = 5
"""Figures for a shorter past come from every fifth window: fewer rows, and all hours of the day among them."""

_COLUMNS = len(ett.COLUMNS)
_TARGET = ett.COLUMNS.index(ett.TARGET)
_SHORTENED = 0.5
_SPREAD_POWER = 1.5
"""How the interval's width grows with restlessness: 2 would be in proportion to the hourly changes, 0 a fixed width."""


class Serving(nn.Module):
    """`mean`, `lower` and `upper` [batch, horizon] in degrees.

    `widths` [len(PASTS), horizon] are half widths in degrees at a spread of 1, by length of the past.
    """

    def __init__(self, network: nn.Module, widths: Tensor) -> None:
        super().__init__()
        self.network = network
        self.widths: Tensor
        self.pasts: Tensor
        self.register_buffer("widths", widths)
        self.register_buffer("pasts", torch.tensor(PASTS[1:]))

    def forward(self, values: Tensor, lengths: Tensor, hour_of_week: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, scale = self.network(values, lengths, hour_of_week)
        width = self.widths[(lengths.unsqueeze(1) >= self.pasts).sum(1)] * spread(scale)
        return mean, mean - width, mean + width


def windows(readings: ett.Readings, begin: int, end: int, horizon: int = HORIZON) -> Split:
    """Every window whose `horizon` target hours lie in [begin, end), one an hour, with LOOK_BACK hours of past."""
    values = torch.from_numpy(readings.values)
    first, last = max(begin, LOOK_BACK), end - horizon
    now = torch.arange(first, last + 1)
    inputs = {
        # views: no window is copied
        "values": values.unfold(0, LOOK_BACK, 1).transpose(1, 2)[first - LOOK_BACK : last - LOOK_BACK + 1],
        "lengths": torch.full_like(now, LOOK_BACK),
        "hour_of_week": (readings.hour_of_week(0) + now - LOOK_BACK) % WEEK,
    }
    return Split(inputs, values[:, _TARGET].unfold(0, horizon, 1)[first : last + 1])


def with_shorter(full: Split) -> Split:
    """The full windows, then every SHORTER_EVERY-th of them cut to each shorter length of PASTS."""
    parts, targets = [full.inputs], [full.targets]
    some = {name: rows[::SHORTER_EVERY] for name, rows in full.inputs.items()}
    for past in PASTS[:-1]:
        parts.append(shortened(some, torch.full_like(some["lengths"], past)))
        targets.append(full.targets[::SHORTER_EVERY])
    return Split({name: torch.cat([part[name] for part in parts]) for name in some}, torch.cat(targets))


def shortened(inputs: Inputs, lengths: Tensor) -> Inputs:
    """Full rows [rows, LOOK_BACK, columns] cut to their last `lengths` steps, moved to the front, zeros behind them."""
    dropped, place = LOOK_BACK - lengths, torch.arange(LOOK_BACK)
    index = (dropped.unsqueeze(1) + place).clamp(max=LOOK_BACK - 1)
    values = inputs["values"].gather(1, index.unsqueeze(2).expand(-1, -1, _COLUMNS))
    values[place >= lengths.unsqueeze(1)] = 0.0
    return {"values": values, "lengths": lengths, "hour_of_week": (inputs["hour_of_week"] + dropped) % WEEK}


def spread(scale: Tensor) -> Tensor:
    """How wide the interval of a series is beside others, from its restlessness in degrees."""
    return (scale / ett.TARGET_STD) ** _SPREAD_POWER


def conformal_widths(errors: Tensor, spreads: Tensor, lengths: Tensor, level: float = LEVEL) -> Tensor:
    """For each of PASTS and each step ahead the quantile of |error| / spread, with the finite-sample correction."""
    ratios = errors.abs() / spreads
    rows = []
    for past in PASTS:
        found = ratios[lengths == past].sort(dim=0).values
        rank = min(math.ceil((len(found) + 1) * level), len(found))
        rows.append(found[rank - 1])
    return torch.stack(rows)


def _range(default: float, least: float, most: float) -> Range:
    return Range(default=default, min=least, max=most)


def _recipe(network: str, encoder: str) -> NetworkRecipe:
    return NetworkRecipe(
        model=f"forecast-{network}",
        summary=f"A linear map of the last two weeks, corrected by {encoder}.",
        epochs=_range(5, 1, 100),
        batch_size=_range(64, 8, 1024),
        learning_rate=_range(0.001, 1e-6, 0.1),
    )


class ForecastTask:
    """ETTh1, 12, 4 and 4 months; errors are told in units of the target's standard deviation over the 12.

    What is served looks HORIZON hours ahead; studies may ask for another `horizon`.
    """

    name = "forecast"
    floor = 0.055
    recipe = TaskRecipe(
        summary="Oil temperature of a transformer, the next 24 hours (ETTh1).",
        kind="series",
        default_network="lstm",
        metric="mse",
        metric_higher_is_better=False,
        networks={
            "lstm": _recipe("lstm", "an LSTM of 2 layers of 50 units"),
            "gru": _recipe("gru", "a GRU of 2 layers of 50 units"),
            "rnn": _recipe("rnn", "a plain RNN of 2 layers of 50 units"),
            "transformer": _recipe("transformer", "a transformer encoder of 2 layers of 32 features and 4 heads"),
        },
    )

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon = horizon

    def load(self, data_dir: Path, seed: int) -> Splits:  # noqa: ARG002 (the split is frozen, whatever the seed)
        """For 24 hours 8,281 training windows, 2,857 and shortened ones in each other split; targets in degrees."""
        readings = ett.read(data_dir)
        train = readings.values[: ett.TRAIN_END].astype("float64")
        bounds = ((ett.TRAIN_END, ett.VALIDATION_END), (ett.VALIDATION_END, ett.TEST_END))
        validation, test = (with_shorter(windows(readings, *bound, self.horizon)) for bound in bounds)
        return Splits(
            train=windows(readings, 0, ett.TRAIN_END, self.horizon),
            validation=validation,
            test=test,
            sources=ett.sources(),
            assets={},
            facts={
                "mean": train.mean(0).tolist(),
                "std": train.std(0).tolist(),
                "low": [float(f"{each:.7g}") for each in train.min(0)],  # as the file writes them
                "high": [float(f"{each:.7g}") for each in train.max(0)],
            },
        )

    def optimisation(self, network: str) -> Optimisation:  # noqa: ARG002 (the same for all)
        """AdamW, one cycle, averaged weights."""
        return Optimisation(weight_decay=0.1, average_decay=0.99, clip_norm=1.0, patience=3)

    def build(self, network: str, splits: Splits) -> nn.Module:
        """A fresh forecaster around the encoder of that name."""
        encoder = encoder_of(network, _COLUMNS + CLOCK_FEATURES, RECENT)
        mean, std = splits.facts["mean"], splits.facts["std"]
        return Forecaster(encoder, encoder.features, mean=mean, std=std, target=_TARGET, horizon=self.horizon)

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Windows and targets; with a generator shuffled, and half of them cut to a random shorter past."""
        rows = len(split)
        order = torch.arange(rows) if generator is None else torch.randperm(rows, generator=generator)
        for chosen in torch.split(order, batch_size):
            inputs = {name: values[chosen] for name, values in split.inputs.items()}
            if generator is not None:
                cut = torch.rand(len(chosen), generator=generator) < _SHORTENED
                shorter = torch.randint(MIN_LENGTH, LOOK_BACK + 1, (len(chosen),), generator=generator)
                inputs = shortened(inputs, torch.where(cut, shorter, LOOK_BACK))
            yield inputs, split.targets[chosen]

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Mean squared error in scaled units."""
        forecast: Tensor = module(**inputs)[0]
        return ((forecast - targets) / ett.TARGET_STD).square().mean()

    def predict(self, module: nn.Module, split: Split, batch_size: int = 256) -> Tensor:
        """Forecasts and restlessness side by side, [rows, horizon + 1] in degrees."""
        module.eval()
        with torch.no_grad():
            found = [torch.cat(module(**inputs), dim=1) for inputs, _ in self.batches(split, batch_size, None)]
        return torch.cat(found)

    def metrics(self, raw: Tensor, split: Split) -> dict[str, float]:
        """`mse` over the rows with a full past; `loss` over all."""
        errors = ((raw[:, : self.horizon] - split.targets) / ett.TARGET_STD).square()
        full = split.inputs["lengths"] == LOOK_BACK
        return {"mse": errors[full].mean().item(), "loss": errors.mean().item()}

    def score(self, outputs: Mapping[str, Tensor], split: Split) -> dict[str, float]:
        """Errors in scaled units, of the last value repeated as well; coverage and width (degrees) of the interval.

        Plain names are about rows with a full past, a number behind them tells another length of the past.
        """
        errors = (outputs["mean"] - split.targets) / ett.TARGET_STD
        inside = ((outputs["lower"] <= split.targets) & (split.targets <= outputs["upper"])).double()
        lengths = split.inputs["lengths"]
        rows = torch.arange(len(split))
        last = split.inputs["values"][rows, lengths - 1, _TARGET].unsqueeze(1)
        full = lengths == LOOK_BACK
        figures = {
            "mse": errors[full].square().mean().item(),
            "mae": errors[full].abs().mean().item(),
            "mae_degrees": errors[full].abs().mean().item() * ett.TARGET_STD,
            "coverage": inside[full].mean().item(),
            "interval_width_degrees": (outputs["upper"] - outputs["lower"])[full].mean().item(),
            "last_value_mse": ((last - split.targets) / ett.TARGET_STD)[full].square().mean().item(),
        }
        for past in PASTS[:-1]:
            figures[f"mse_{past}"] = errors[lengths == past].square().mean().item()
            figures[f"coverage_{past}"] = inside[lengths == past].mean().item()
        return figures

    def losses(self, outputs: Mapping[str, Tensor], split: Split) -> Tensor:
        """Mean squared error in scaled units of each block of `horizon` windows in a row with a full past.

        Windows an hour apart share most of their hours; blocks of one horizon do not overlap. What is left after the
        last whole block is not counted.
        """
        full = split.inputs["lengths"] == LOOK_BACK
        errors = ((outputs["mean"] - split.targets)[full] / ett.TARGET_STD).square().double().mean(1)
        blocks = len(errors) // self.horizon
        return errors[: blocks * self.horizon].view(blocks, self.horizon).mean(1)

    def serving(
        self,
        module: nn.Module,
        splits: Splits,
        epochs: int | None = None,  # noqa: ARG002 (nothing costly is trained behind it)
    ) -> tuple[nn.Module, dict[str, float]]:
        """The network with the interval around its forecast."""
        raw, split = self.predict(module, splits.validation), splits.validation
        errors, spreads = raw[:, : self.horizon] - split.targets, spread(raw[:, self.horizon :])
        widths = conformal_widths(errors, spreads, split.inputs["lengths"])
        calibration = {"level": LEVEL} | {
            f"width_{past}_{when}": widths[row, step].item()
            for row, past in enumerate(PASTS)
            for when, step in (("first", 0), ("last", self.horizon - 1))
        }
        return Serving(module, widths).eval(), calibration

    def spec(self, splits: Splits) -> ServingSpec:
        """Raw readings in, three forecasts in degrees out."""
        ranges = zip(splits.facts["low"], splits.facts["high"], strict=True)
        return ServingSpec(
            inputs=[
                TensorSpec(name="values", dtype="float32", shape=["batch", "length", _COLUMNS]),
                TensorSpec(name="lengths", dtype="int64", shape=["batch"]),
                TensorSpec(name="hour_of_week", dtype="int64", shape=["batch"]),
            ],
            outputs=[
                TensorSpec(name=name, dtype="float32", shape=["batch", self.horizon])
                for name in ("mean", "lower", "upper")
            ],
            buckets=Buckets(rows=[1, 2, 4, 8, 16, 32, 64], lengths=[48, 96, 192, LOOK_BACK]),
            labels=[],
            series=SeriesSpec(
                columns=ett.COLUMNS,
                target=ett.TARGET,
                horizon=self.horizon,
                step_s=ett.STEP_S,
                min_length=MIN_LENGTH,
                look_back=LOOK_BACK,
                level=LEVEL,
                ranges=dict(zip(ett.COLUMNS, ranges, strict=True)),
            ),
        )

    def example(self, batch: int, length: int, seed: int) -> Inputs:
        """Days with a wandering level, the first row of full length; padding holds junk."""
        generator = torch.Generator().manual_seed(seed)
        hours = torch.arange(length).view(1, -1, 1)
        level = torch.randn(batch, length, _COLUMNS, generator=generator).cumsum(1)
        values = 10 + 5 * torch.sin(hours * (2 * math.pi / 24)) + 0.5 * level
        lengths = torch.randint(min(MIN_LENGTH, length), length + 1, (batch,), generator=generator)
        lengths[0] = length
        values[hours.squeeze(2) >= lengths.unsqueeze(1)] = 1e6
        return {
            "values": values,
            "lengths": lengths,
            "hour_of_week": torch.randint(0, WEEK, (batch,), generator=generator),
        }

    def parity_lengths(self) -> list[int]:
        """From the shortest to beyond the look-back."""
        return [MIN_LENGTH, 25, 48, 100, LOOK_BACK, 400]


TASK: Task = ForecastTask()
