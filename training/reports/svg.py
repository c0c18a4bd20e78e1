"""Line and bar charts as inline SVG: sharp at any size, coloured by the page, the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.reports.html import Html, tag

WIDTH = 380
_MARKS = 5
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 22, 22, 38

Numbers = Sequence[float] | NDArray[Any]


@dataclass(frozen=True)
class Axis:
    """From `low` to `high` in data units, with the places of its marks and how they are written."""

    low: float
    high: float
    label: str
    marks: Sequence[float]
    write: Callable[[float], str]


def plain(value: float) -> str:
    """Six digits at most, no exponent where it can be helped."""
    return f"{value:g}"


def axis(values: Numbers, label: str, write: Callable[[float], str] = plain, most: float = math.inf) -> Axis:
    """An axis that holds all values, with about six round marks (1, 2 or 5 times a power of ten) and ends on them.

    It does not reach beyond `most`, which values cannot pass.
    """
    low, high = float(np.min(values)), float(np.max(values))
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.05 * (abs(low) or 1.0), high + 0.05 * (abs(high) or 1.0)
    rough = (high - low) / _MARKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    places = [round(number * step, 12) for number in range(first, last + 1)]
    places = [place for place in places if place <= most]
    return Axis(places[0], places[-1], label, places, write)


def steps_axis(count: int, label: str, first: int = 1) -> Axis:
    """Whole numbers from `first` on, marked every so often."""
    every = next(step for step in (1, 2, 3, 4, 6, 12, 24, 48, 100, count) if count / step <= 8)
    marks = [first, *(number for number in range(every, first + count) if number % every == 0 and number > first)]
    if len(marks) > 1 and marks[1] - marks[0] < every / 2:
        del marks[1]
    if count > 1 and first + count - 1 - marks[-1] >= 2 * every / 3:
        marks.append(first + count - 1)
    spare = 0.5 if count == 1 else 0.0
    return Axis(first - spare, first + count - 1 + spare, label, marks, plain)


class Chart:
    """One chart: what is drawn first lies below."""

    def __init__(self, across: Axis, up: Axis, height: int = 230) -> None:
        self._across, self._up, self._height = across, up, height
        self._parts: list[str] = []

    def line(self, xs: Numbers, ys: Numbers, kind: str) -> None:
        """A line through the points; a lone point is a dot."""
        if len(xs) == 1:
            self.dot(float(xs[0]), float(ys[0]), kind)
        else:
            self._parts.append(f'<path class="line {kind}" d="{self._path(xs, ys)}"/>')

    def dot(self, x: float, y: float, kind: str) -> None:
        self._parts.append(f'<circle class="dot {kind}" cx="{self._x(x)}" cy="{self._y(y)}" r="3.5"/>')

    def band(self, xs: Numbers, low: Numbers, high: Numbers) -> None:
        """The area between two lines."""
        there = self._path(xs, high)
        back = self._path(xs[::-1], low[::-1]).replace("M", "L", 1)
        self._parts.append(f'<path class="band" d="{there}{back}Z"/>')

    def bar(self, left: float, right: float, top: float) -> None:
        """A bar from the foot of the chart."""
        x, y = self._x(left), self._y(top)
        width, height = round(self._x(right) - x, 1), round(self._y(self._up.low) - y, 1)
        self._parts.append(f'<rect class="bar" x="{x}" y="{y}" width="{width}" height="{height}"/>')

    def svg(self, alt: str) -> Html:
        """The picture; `alt` says in words what it shows."""
        foot, right = self._height - _BOTTOM, WIDTH - _RIGHT
        drawn = []
        for mark in self._up.marks:
            y = self._y(mark)
            drawn.append(f'<path class="rule" d="M{_LEFT} {y}H{right}"/>')
            drawn.append(tag("text", self._up.write(mark), x=str(_LEFT - 6), y=f"{y + 4:g}", class_="end"))
        for mark in self._across.marks:
            x = self._x(mark)
            drawn.append(f'<path class="frame" d="M{x} {foot}v4"/>')
            drawn.append(tag("text", self._across.write(mark), x=f"{x:g}", y=str(foot + 16), class_="mid"))
        drawn.append(f'<path class="frame" d="M{_LEFT} {foot}H{right}"/>')
        drawn.append(tag("text", self._up.label, x="2", y="12"))
        drawn.append(tag("text", self._across.label, x=str(right), y=str(self._height - 5), class_="end"))
        inner = Html("".join([*drawn, *self._parts]))
        return tag("svg", inner, viewBox=f"0 0 {WIDTH} {self._height}", role="img", aria_label=alt)

    def _x(self, value: float) -> float:
        share = (float(value) - self._across.low) / (self._across.high - self._across.low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def _y(self, value: float) -> float:
        share = (float(value) - self._up.low) / (self._up.high - self._up.low)
        return round(self._height - _BOTTOM - share * (self._height - _TOP - _BOTTOM), 1)

    def _path(self, xs: Numbers, ys: Numbers) -> str:
        points = (f"{self._x(x):g} {self._y(y):g}" for x, y in zip(xs, ys, strict=True))
        return "M" + "L".join(points)
