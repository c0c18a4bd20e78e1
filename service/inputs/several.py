"""Whether a picture holds more than one digit, judged by its marks before one is chosen: what the network cannot see.

A logistic function of a few measures of the strongest mark beside the digit. A second digit is about as tall, as dark
and as thick as the first; a piece of a broken digit lies close to it or inside its box; dirt is small.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.inputs.marks import AREA, HEIGHT, LEFT, TOP, WIDTH, Marks
from service.warnings import AnswerWarning, Findings

_LEAST_SHARE = 1e-3
_LEAST_DARKNESS = 0.6
"""Fainter marks are shadows, fingers or print that shines through."""

# Fitted by `python -m tests.bench.several_marks`, on pictures made of MNIST's validation digits.
WEIGHTS = np.array([-4.671, 4.678, 9.098, -5.787, 2.158, -4.232, 6.114, -2.095, -0.05, 22.44, 2.037, 1.304,
                    -2.111, -0.951, 16.349, -0.092, -0.164, -5.835, 0.197])  # fmt: skip
THRESHOLD = 0.969
"""Pictures above it get the warning: of the single digits it was chosen on, 0.3 % do."""


def findings(probability: float) -> Findings:
    """What is known of a picture that holds no single digit with this probability."""
    if probability <= THRESHOLD:
        return Findings(no_label=probability)
    detail = (
        f"The picture holds several marks that could be digits (probability {probability:.2f}); the answer is for one "
        "of them. Send one digit a picture."
    )
    return Findings((AnswerWarning("several_marks", detail),), no_label=probability)


def probability(marks: Marks) -> float:
    """The fitted probability, 0..1, that the marks are not those of one digit."""
    return float(1 / (1 + np.exp(-np.clip(measures(marks) @ WEIGHTS, -30, 30))))


def measures(marks: Marks) -> NDArray[np.float64]:
    """The measures [19] of the marks that the fit weighs; the first is 1."""
    boxes, main = marks.boxes.astype(np.float64), marks.main
    union = boxes[marks.kept]
    across = (union[:, LEFT] + union[:, WIDTH]).max() - union[:, LEFT].min()
    down = (union[:, TOP] + union[:, HEIGHT]).max() - union[:, TOP].min()
    aspect, own = np.log(across / down), np.log(boxes[main, WIDTH] / boxes[main, HEIGHT])
    shape = [1.0, max(0.0, aspect), max(0.0, aspect - 0.25), max(0.0, own - 0.1), max(0.0, -aspect - 0.9)]
    share = marks.ink / marks.ink[main]
    darkness = share * boxes[main, AREA] / boxes[:, AREA]
    share[main] = 0
    share[darkness < _LEAST_DARKNESS] = 0
    rival = int(np.argmax(share))
    if share[rival] <= 0:
        return np.array([*shape, *[0.0] * 14])
    beside = [(share > 0.2).sum() - 1, np.log1p((share < 0.05).sum() - 1)]
    return np.array([*shape, 1.0, *_of_rival(boxes[main], boxes[rival], share[rival]), *beside,
                     darkness[rival] - 1, _is_cut(boxes[rival], marks)])  # fmt: skip


def _of_rival(main: NDArray[np.float64], rival: NDArray[np.float64], share: float) -> list[float]:
    """How much ink the strongest mark beside the digit has, how large it is, and how it lies to it."""
    ends, other_ends = main[:2] + main[2:4], rival[:2] + rival[2:4]
    apart = np.maximum(0, np.maximum(main[:2], rival[:2]) - np.minimum(ends, other_ends))
    inner = np.maximum(0, np.minimum(ends, other_ends) - np.maximum(main[:2], rival[:2]))
    size = main[2:4].max()
    relative = min(1.5, rival[2:4].max() / size)
    gap = float(np.hypot(*apart)) / size
    over = inner / np.minimum(main[2:4], rival[2:4])
    strength = np.log(max(_LEAST_SHARE, min(share, 2.0)) / _LEAST_SHARE) / 5
    thickness = np.log((rival[AREA] / rival[2:4].sum()) / (main[AREA] / main[2:4].sum()))
    return [
        strength**2,
        strength**2 * relative,
        relative,
        min(gap, 0.12),
        min(gap, 2.0),
        float(over[1] * (1 - over[0])),
        float(inner.prod() / rival[2:4].prod()),
        abs(float(thickness)),
        min(gap, 0.12) * relative,
    ]


def _is_cut(mark: NDArray[np.float64], marks: Marks) -> bool:
    """Whether a mark touches the picture's edge."""
    left, top, wide, high = mark[:4]
    return bool(left <= 1 or top <= 1 or left + wide >= marks.width - 1 or top + high >= marks.height - 1)
