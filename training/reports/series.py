"""Forecasts beside what came: windows of the test months, the error by step ahead, and whether the band holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.manifest import SeriesSpec
from training.reports.answers import Answers, Array
from training.reports.html import Html, details, figure, grid, join, paragraph, section, table
from training.reports.svg import Axis, Chart, axis, steps_axis
from training.reports.words import percent, round_percent

WINDOWS = 6
_PAST = 48
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Forecasts:
    """Rows with a full past, in the order of time; all [rows, horizon], `past` [rows, steps], `last` [rows, 1]."""

    spec: SeriesSpec
    mean: Array
    lower: Array
    upper: Array
    truth: Array
    past: Array
    last: Array
    hours: Array
    """Hour of the week [rows] of the first step ahead."""

    @property
    def errors(self) -> Array:
        """Of the mean, squared, by row."""
        found: Array = ((self.mean - self.truth).astype(np.float64) ** 2).mean(1)
        return found

    @property
    def step(self) -> str:
        return "hour" if self.spec.step_s == 3600 else "step"

    @property
    def unit(self) -> str:
        return "degrees"


def read(answers: Answers) -> Forecasts:
    """The rows of the test split whose past is `look_back` long; ValueError when there are none."""
    spec = answers.manifest.series
    if spec is None:
        raise ValueError("a series model's manifest has no `series`")
    lengths = answers.inputs["lengths"]
    full = np.flatnonzero(lengths == spec.look_back)
    if not len(full):
        raise ValueError(f"no row of the test split has a past of {spec.look_back} steps")
    values = answers.inputs["values"][full, : spec.look_back, spec.columns.index(spec.target)]
    return Forecasts(
        spec,
        mean=answers.outputs["mean"][full],
        lower=answers.outputs["lower"][full],
        upper=answers.outputs["upper"][full],
        truth=answers.targets[full],
        past=values[:, -_PAST:],
        last=values[:, -1:],
        hours=(answers.inputs["hour_of_week"][full] + spec.look_back) % 168,
    )


def draw(answers: Answers) -> Html:
    """Seven windows, then errors and coverage by step."""
    found = read(answers)
    return join([_windows(found), _by_step(found)], "\n")


def chosen(found: Forecasts) -> list[int]:
    """Windows spread evenly over the test split."""
    rows = len(found.truth)
    return sorted({int((number + 0.5) * rows / WINDOWS) for number in range(WINDOWS)})


def _windows(found: Forecasts) -> Html:
    rows, worst = chosen(found), int(found.errors.argmax())
    shown = [*rows, worst]
    past = found.past[shown]
    up = axis(
        [float(part[shown].min()) for part in (found.lower, found.truth)]
        + [float(past.min()), float(past.max())]
        + [float(part[shown].max()) for part in (found.upper, found.truth)],
        f"{found.spec.target}, {found.unit}",
    )
    pictures = [_window(found, row, up, "") for row in rows] + [_window(found, worst, up, "The worst: ")]
    level = round_percent(found.spec.level)
    return section(
        "Forecast against truth",
        paragraph(
            f"The next {found.spec.horizon} {found.step}s of {found.spec.target}, forecast at {len(rows)} moments "
            f"spread evenly over the test split, and at the moment with the largest error of all {len(found.truth):,}. "
            f"The band is meant to hold {level} of the truths. Days are counted from the "
            "start of the split. All charts have the same scale."
        ),
        grid(pictures),
    )


def _window(found: Forecasts, row: int, up: Axis, before: str) -> Html:
    ahead = np.arange(1, found.spec.horizon + 1)
    behind = np.arange(1 - found.past.shape[1], 1)
    first, last = int(behind[0]) - 1, int(ahead[-1])
    marks = [float(mark) for mark in range(-48, last + 1, 24) if mark >= first]
    chart = Chart(
        Axis(first, last, f"{found.step}s from now", marks, lambda value: f"{value:+g}" if value else "now"), up
    )
    chart.line([0.0, 0.0], [up.low, up.high], "d")
    chart.band(ahead, found.lower[row], found.upper[row])
    chart.line([*behind, *ahead], [*found.past[row], *found.truth[row]], "c")
    chart.line(ahead, found.mean[row], "b")
    inside = int(((found.lower[row] <= found.truth[row]) & (found.truth[row] <= found.upper[row])).sum())
    error = float(np.abs(found.mean[row] - found.truth[row]).mean())
    held = f"{inside} of {found.spec.horizon} truths are inside the band"
    note = f"The forecast is off by {error:.2f} {found.unit} on average; {held}."
    hour = int(found.hours[row])
    when = f"{_DAYS[hour // 24]} {hour % 24:02}:00, day {1 + row * found.spec.step_s // 86400}"
    keys = [("c", "measured"), ("b", "forecast"), ("band", "band")]
    title = f"{before}{when}" if before else when
    return figure(title, chart.svg(f"{title}. {note}"), note, keys)


def _by_step(found: Forecasts) -> Html:
    model = np.abs(found.mean - found.truth).astype(np.float64).mean(0)
    repeated = np.abs(found.last - found.truth).astype(np.float64).mean(0)
    held = ((found.lower <= found.truth) & (found.truth <= found.upper)).mean(0)
    rows = [
        [f"{step}", f"{model[step - 1]:.3f}", f"{repeated[step - 1]:.3f}", percent(held[step - 1])]
        for step in range(1, found.spec.horizon + 1)
    ]
    head = [f"{found.step} ahead", "forecast is off by", "last value is off by", "truth inside the band"]
    return section(
        f"Error and band by {found.step} ahead",
        paragraph(
            f"Means over all {len(found.truth):,} moments of the test split with a full past of "
            f"{found.spec.look_back} {found.step}s. Repeating the last measured value is the forecast to beat."
        ),
        grid([_errors(found, model, repeated), _coverage(found, held)]),
        details("The same as a table", table(f"Mean absolute errors in {found.unit}.", head, rows)),
    )


def _errors(found: Forecasts, model: Array, repeated: Array) -> Html:
    ahead = np.arange(1, found.spec.horizon + 1)
    chart = Chart(
        steps_axis(found.spec.horizon, f"{found.step}s ahead"),
        axis([0.0, float(model.max()), float(repeated.max())], f"mean absolute error, {found.unit}"),
    )
    chart.line(ahead, repeated, "d")
    chart.line(ahead, model, "a")
    alt = (
        f"Mean absolute error from {model[0]:.2f} {found.unit} one {found.step} ahead to {model[-1]:.2f} at "
        f"{found.spec.horizon}; repeating the last value gives {repeated[0]:.2f} and {repeated[-1]:.2f}."
    )
    return figure("Error", chart.svg(alt), alt, [("a", "forecast"), ("d", "last value repeated")])


def _coverage(found: Forecasts, held: Array) -> Html:
    ahead, level = np.arange(1, found.spec.horizon + 1), found.spec.level
    low = min(0.5, float(held.min()))
    chart = Chart(
        steps_axis(found.spec.horizon, f"{found.step}s ahead"),
        axis([low, 1.0], "truth inside the band", round_percent, 1.0),
    )
    chart.line([1, found.spec.horizon], [level, level], "d")
    chart.line(ahead, held, "a")
    alt = (
        f"The band holds {percent(held.mean())} of the truths over all steps, {percent(held.min())} at the worst step "
        f"and {percent(held.max())} at the best; {round_percent(level)} is meant."
    )
    return figure(
        "Does the band hold?", chart.svg(alt), alt, [("a", "share inside"), ("d", f"meant: {round_percent(level)}")]
    )
