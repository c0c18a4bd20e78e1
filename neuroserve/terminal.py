"""Answers as text for a terminal: block characters, bars, a sparkline."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

from neuroserve.answers import Digit, Forecast, Model, Topic

_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
_INK = 96  # of 255: a pixel that is as dark counts as ink
_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"
_BAR = 30


def digit(found: Digit) -> list[str]:
    """The picture as the model saw it, where the answer has it, and a bar for each digit."""
    lines = _blocks(found.explanation.input) if found.explanation is not None else []
    return [*lines, *_bars((str(number), share) for number, share in enumerate(found.probabilities)), _by(found)]


def topic(found: Topic) -> list[str]:
    """A bar for each label, the likeliest first."""
    return [*_bars(sorted(found.probabilities.items(), key=lambda item: -item[1])), _by(found)]


def forecast(found: Forecast) -> list[str]:
    """The mean as a sparkline, with its ends and the interval."""
    low, high = min(found.mean), max(found.mean)
    last = f"{found.lower[-1]:.2f} to {found.upper[-1]:.2f} with {found.level:.0%}"
    return [
        f"{found.target}  {sparkline(found.mean)}  {low:.2f} to {high:.2f}",
        f"{found.times[0]:%Y-%m-%d %H:%M}  {found.mean[0]:.2f}",
        f"{found.times[-1]:%Y-%m-%d %H:%M}  {found.mean[-1]:.2f} ({last})",
        _by(found),
    ]


def models(found: Sequence[Model]) -> list[str]:
    """One line a model."""
    rows = [("model", "task", "live", "before", "versions", "runs on", "")]
    for each in found:
        note = each.problem or ("default" if each.default else "")
        numbers = [_number(each.live), _number(each.previous), str(len(each.versions))]
        rows.append((each.name, each.task or "-", numbers[0], numbers[1], numbers[2], each.provider or "-", note))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def sparkline(values: Sequence[float]) -> str:
    """One character a value, from the lowest to the highest."""
    low = min(values)
    span = (max(values) - low) or 1.0
    return "".join(_LEVELS[round((value - low) / span * (len(_LEVELS) - 1))] for value in values)


def _bars(shares: Iterable[tuple[str, float]]) -> list[str]:
    found = list(shares)
    width = max(len(name) for name, _ in found)
    return [f"{name.rjust(width)} {_bar(share)} {share:6.1%}" for name, share in found]


def _bar(share: float) -> str:
    whole, part = divmod(round(share * _BAR * 8), 8)
    return ("█" * whole + _EIGHTHS[part].strip()).ljust(_BAR)


def _blocks(png: str) -> list[str]:
    """A 28x28 grey PNG as 14 lines of half blocks."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        grey = image.convert("L")
        wide, high, flat = grey.width, grey.height, grey.tobytes()
    rows = [[value >= _INK for value in flat[top * wide : (top + 1) * wide]] for top in range(high)]
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(_HALVES[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _by(found: Digit | Topic | Forecast) -> str:
    return f"{found.model.name} version {found.model.version}"
