"""The comparison as two pictures: quality by network over its seeds, and quality against latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from training.comparison.results import Comparison, ModelRow, TaskTable

QUALITY, LATENCY = "compare-quality.png", "compare-latency.png"
_WORDS = {
    QUALITY: "Test figure of each network: every seed, mean and standard deviation, and the bar it is meant to reach",
    LATENCY: "Test figure of each network against its latency on one CPU thread",
}
# Colours that colour-blind eyes tell apart: M. Okabe and K. Ito, "Color Universal Design", 2008.
_MEAN, _SEED, _BEST, _BAR = "#0072B2", "#56B4E9", "#009E73", "#D55E00"
_DPI = 120
PANEL = (265.0, 235.0)
"""About the size of a panel, in points."""

Circle = tuple[float, float, float]
"""Centre and radius, in points from a panel's lower left corner."""
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge, in the same points."""


def draw(found: Comparison, folder: Path) -> dict[str, str]:
    """Write the pictures into the folder; what each file shows, by its name."""
    for name, panel in ((QUALITY, _quality), (LATENCY, _latency)):
        figure = Figure(figsize=(4.2 * len(found.tasks) + 0.4, 4.2), layout="constrained", facecolor="white")
        panels: Sequence[Axes] = figure.subplots(1, len(found.tasks), squeeze=False)[0]
        for axes, table in zip(panels, found.tasks, strict=True):
            panel(axes, table)
            axes.set_title(_title(table), fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        if name == QUALITY:
            figure.legend(handles=_legend(found), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        _save(figure, folder / name)
    return dict(_WORDS)


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of few colours, which is a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(64).save(path, optimize=True)


def _title(table: TaskTable) -> str:
    figure = {"accuracy": "accuracy, %", "mse": "MSE, scaled"}.get(table.metric, table.metric)
    side = "higher" if table.higher_is_better else "lower"
    return f"{table.task}: test {figure} ({side} is better)"


def _scale(table: TaskTable) -> float:
    return 100.0 if table.metric == "accuracy" else 1.0


def _quality(axes: Axes, table: TaskTable) -> None:
    scale = _scale(table)
    for place, row in enumerate(table.models):
        if len(row.runs) > 1:
            over = row.test[table.metric]
            axes.errorbar(place, over.mean * scale, (over.std or 0.0) * scale, fmt="s", color=_MEAN, capsize=4)
        aside = 0.14 if len(row.runs) > 1 else 0.0
        seeds = [run.metrics["test"][table.metric] * scale for run in row.runs if run.seed != row.best_seed]
        axes.plot([place + aside] * len(seeds), seeds, "o", color=_SEED, markersize=5)
        axes.plot(place + aside, row.best.metrics["test"][table.metric] * scale, "D", color=_BEST, markersize=6)
        if row.bar is not None:
            axes.hlines(row.bar * scale, place - 0.35, place + 0.35, color=_BAR, linestyle="--", linewidth=1.4)
    axes.set_xticks(range(len(table.models)), [row.network for row in table.models])
    axes.set_xlim(-0.6, len(table.models) - 0.4)
    axes.margins(y=0.15)


def _legend(found: Comparison) -> list[Line2D]:
    def mark(marker: str, colour: str, label: str) -> Line2D:
        return Line2D([], [], marker=marker, color=colour, linestyle="none", label=label)

    marks = [mark("D", _BEST, "the seed best on validation")]
    if any(len(row.runs) > 1 for table in found.tasks for row in table.models):
        marks = [mark("s", _MEAN, "mean and standard deviation"), *marks, mark("o", _SEED, "other seeds")]
    if any(row.bar is not None for table in found.tasks for row in table.models):
        marks.append(Line2D([], [], color=_BAR, linestyle="--", label="meant to reach"))
    return marks


def _latency(axes: Axes, table: TaskTable) -> None:
    """A circle's area is in proportion to the number of weights, the largest of the panel alike in all."""
    scale, most = _scale(table), max(1, *(row.weights for row in table.models))
    heights = [row.test[table.metric].mean * scale for row in table.models]
    slowest = max(row.latency_ms[1] for row in table.models)
    room = max(0.35 * (max(heights) - min(heights)), 0.003 * max(heights))
    low, high = min(heights) - room, max(heights) + room
    circles: list[Circle] = []
    for row, up in zip(table.models, heights, strict=True):
        across, area = row.latency_ms[1], 400 * row.weights / most + 20
        axes.scatter(across, up, s=area, color=_SEED, linewidths=0, alpha=0.75)
        axes.plot(across, up, ".", color=_MEAN, markersize=4)
        spot = (across / (1.35 * slowest) * PANEL[0], (up - low) / (high - low) * PANEL[1])
        circles.append((*spot, area**0.5 / 2))
    names = [_named(row) for row in table.models]
    for row, up, name, offset in zip(table.models, heights, names, places(circles, names), strict=True):
        at = (row.latency_ms[1], up)
        axes.annotate(name, at, offset, textcoords="offset points", ha="center", va="center", fontsize=8.5)
    axes.set_xlim(0, 1.35 * slowest)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("milliseconds for one row, one CPU thread\n(area: number of weights)", fontsize=9)


def _named(row: ModelRow) -> str:
    weights = f"{row.weights / 1e6:.2f}M" if row.weights >= 1e6 else f"{row.weights / 1e3:.0f}k"
    return f"{row.network} ({weights})"


def places(circles: Sequence[Circle], names: Sequence[str]) -> list[tuple[float, float]]:
    """Where each circle's name goes, from its centre, all in points: the nearest place that hides the least.

    Above, below, right or left of it; what is hidden is the area of other circles, other names and of the name itself
    beyond the panel.
    """
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y, radius in circles]
    found = []
    for (x, y, radius), name in zip(circles, names, strict=True):
        wide, tall = 2.5 * len(name), 6.0  # halves, for a font of 8.5 points
        boxes = {
            (across, up): (x + across - wide, y + up - tall, x + across + wide, y + up + tall)
            for far in (3, 14, 25)
            for across, up in _around(radius + wide + far, radius + tall + far)
        }
        best = min(boxes, key=lambda offset: _hidden(boxes[offset], taken))
        taken.append(boxes[best])
        found.append(best)
    return found


def _around(across: float, up: float) -> list[tuple[float, float]]:
    return [(0.0, up), (0.0, -up), (across, 0.0), (-across, 0.0)]


def _hidden(box: Box, taken: Sequence[Box]) -> float:
    """Area of a box that lies on others or outside the panel."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + whole - _shared(box, (0.0, 0.0, *PANEL))


def _shared(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(tall, 0.0)
