"""Digits as other hands write them, drawn in code: ways of writing that MNIST's writers lack or rarely have.

A 1 with a long flag or a foot, a crossed 7, an open 4, a hooked 9, an angular 6, felt pens and fine pens. Each digit
has several forms with lengths and angles of their own, and every picture is drawn anew by `strokes.by_hand`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.datasets.strokes import Rng, Way, by_hand, framed, ring, way

ROWS = 12_000
"""As many as a full training draws from; smaller data sets need fewer."""
_SHARES = (0.04, 0.04, 0.05, 0.04)
"""Shares of the rows that `restyled` gives a felt pen, a fine pen, few pixels, and another slant and width."""
_SLANT, _WIDTH = 0.35, (0.7, 1.25)
_COARSE = (11, 13, 16, 19)
"""Sides that a picture of 28 pixels is read at: scans and other corpora have digits of 8 to 16 pixels."""


def restyled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Images uint8 [rows, 28, 28], a sixth of them as with another pen, another slant, or of fewer pixels."""
    styles = torch.rand(len(pixels), generator=generator)
    limits = torch.tensor((0.0, *_SHARES)).cumsum(0)
    images = pixels.unsqueeze(1).float()
    for low, high, style in zip(limits[:-1], limits[1:], (_felt, _fine, _coarse, _slanted), strict=True):
        rows = ((styles >= low) & (styles < high)).nonzero().squeeze(1)
        if len(rows):
            images[rows] = style(images[rows], generator)
    return images.squeeze(1).round().clamp(0, 255).to(torch.uint8)


def _felt(images: Tensor, generator: torch.Generator) -> Tensor:
    weight = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.7 + 0.3
    return torch.lerp(images, F.max_pool2d(images, 3, 1, 1), weight)


def _fine(images: Tensor, generator: torch.Generator) -> Tensor:
    weight = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.5 + 0.2
    return torch.lerp(images, -F.max_pool2d(-images, 3, 1, 1), weight)


def _coarse(images: Tensor, generator: torch.Generator) -> Tensor:
    side = _COARSE[int(torch.randint(len(_COARSE), (), generator=generator))]
    small = F.interpolate(images, (side, side), mode="area")
    return F.interpolate(small, images.shape[2:], mode="bicubic", align_corners=False)


def _slanted(images: Tensor, generator: torch.Generator) -> Tensor:
    slant, width = torch.rand(2, len(images), generator=generator)
    maps = torch.zeros(len(images), 2, 3)
    maps[:, 0, 0] = 1 / (_WIDTH[0] + width * (_WIDTH[1] - _WIDTH[0]))
    maps[:, 0, 1] = (slant * 2 - 1) * _SLANT
    maps[:, 1, 1] = 1
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@functools.cache
def bank(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Digits uint8 [rows, 28, 28] and their labels [rows], all ten in turn; the same for the same seed."""
    rng = np.random.default_rng(seed)
    pictures = np.stack([framed(by_hand(FORMS[row % 10](rng), rng)) for row in range(rows)])
    return torch.from_numpy(pictures), torch.arange(rows) % 10


def _zero(rng: Rng) -> list[Way]:
    sweep = rng.choice([-1, 1]) * (360 + rng.uniform(-25, 25))
    return [ring(0.5, 0.5, rng.uniform(0.3, 0.5), 0.5, rng.uniform(-130, -50), sweep)]


def _one(rng: Rng) -> list[Way]:
    """A bar, with a short or long flag that falls steeply to the left, with or without a foot."""
    look = int(rng.choice(4, p=[0.15, 0.3, 0.4, 0.15]))
    bar = way((0.5, 0), (0.5 + rng.normal(0, 0.03), 1))
    if look in {1, 2}:
        length, angle = (rng.uniform(0.12, 0.3), rng.uniform(25, 65)) if look == 1 else _long_flag(rng)
        flag = bar[:1] + length * np.array([[-np.sin(np.radians(angle)), np.cos(np.radians(angle))]])
        bar = np.concatenate([flag, bar])
    foot = way((0.5 - rng.uniform(0.12, 0.35), 1), (0.5 + rng.uniform(0.12, 0.35), 1 + rng.normal(0, 0.02)))
    return [bar, foot] if look == 3 or (look and rng.random() < 0.4) else [bar]


def _long_flag(rng: Rng) -> tuple[float, float]:
    """Length, and angle to the bar in degrees: the longer, the steeper."""
    length = rng.uniform(0.3, 0.75)
    return length, rng.uniform(15, 62 - 28 * length)


def _two(rng: Rng) -> list[Way]:
    head = [(0.05, rng.uniform(0.15, 0.3)), (0.2, 0.05), (0.5, 0), (0.85, 0.08), (0.95, 0.28), (0.75, 0.5)]
    look = int(rng.integers(3))
    if look == 0:
        return [way(*head, (0.35, 0.75), (0, 1), (0, 1), (1, rng.uniform(0.93, 1.03)))]
    if look == 1:
        return [way(*head, (0.3, 0.85), (0.05, 0.98), (0, 0.85), (0.2, 0.8), (0.55, 0.97), (1, rng.uniform(0.85, 1)))]
    return [way(*head, (0.35, 0.78), (0.02, 0.97), (0.4, 0.9), (0.7, 1), (1, 0.92))]


def _three(rng: Rng) -> list[Way]:
    low = [(0.75, 0.52), (1, 0.72), (0.8, 0.95), (0.4, 1), (0, rng.uniform(0.8, 0.95))]
    if rng.random() < 0.3:
        return [way((0.02, 0.02), (0.9, 0), (0.9, 0), (0.4, 0.4), *low)]
    waist = rng.uniform(0.2, 0.55)
    return [way((0.05, rng.uniform(0.05, 0.2)), (0.4, 0), (0.85, 0.08), (0.88, 0.28), (waist, 0.46), *low)]


def _four(rng: Rng) -> list[Way]:
    """Open at the top in many ways, closed, or a hook and a stem; the bar may cross the stem or only touch it."""
    bar, right, look = rng.uniform(0.48, 0.72), rng.uniform(0.72, 1.05), int(rng.integers(4))
    stem = rng.uniform(0.6, 0.75)
    if look == 0:
        arm = way((rng.uniform(0.15, 0.4), 0), (rng.uniform(0, 0.12), bar), (right, bar + rng.normal(0, 0.03)))
        return [arm, way((stem + 0.05, rng.uniform(0, 0.4)), (stem, 1))]
    if look == 1:
        return [way((stem, 0), (0, bar), (right, bar)), way((stem, rng.uniform(0, 0.1)), (stem, 1))]
    if look == 2:
        return [way((stem, 1), (stem + 0.03, 0), (0, bar), (right, bar))]
    return [way((0.02, 0), (0, bar * 0.8), (0.2, bar), (stem, bar - 0.05)), way((stem + 0.03, 0), (stem, 1))]


def _five(rng: Rng) -> list[Way]:
    belly = [(0.1, 0.45), (0.5, 0.38), (0.9, 0.5), (0.95, 0.75), (0.7, 0.97), (0.3, 1), (0, rng.uniform(0.8, 0.95))]
    bar = rng.uniform(0.7, 1.1)
    if rng.random() < 0.5:
        return [way((bar, 0), (0.18, 0.02), (0.18, 0.02), *belly)]
    drop = rng.uniform(0, 0.05)
    return [way((0.18, drop), *belly), way((rng.uniform(0.15, 0.3), 0.02), (bar, rng.uniform(-0.1, 0.04)))]


def _six(rng: Rng) -> list[Way]:
    """Round with a bent or straight back, or angular: a stem and a box."""
    if rng.random() < 0.3:
        back, top = rng.uniform(0.05, 0.5), rng.uniform(0.42, 0.6)
        return [way((back, 0), (0, rng.uniform(0.7, 1)), (0.05, 1), (0.9, 1), (0.95, top), (0.03, top + 0.03))]
    start = rng.uniform(0.15, 0.85)
    loop = ring(0.5, 0.74, 0.45, 0.26, 180, -rng.uniform(330, 390))
    return [np.concatenate([way((start, 0), (0.05 + 0.4 * start, 0.22), (0.06, 0.55)), loop])]


def _seven(rng: Rng) -> list[Way]:
    """A nearly level bar with or without a drop at its left, a straight or bent stem, often crossed."""
    foot, lift = rng.uniform(0.15, 0.6), rng.uniform(-0.03, 0.12)
    head: list[tuple[float, float]] = [(0, lift), (1, 0), (1, 0)]
    if rng.random() < 0.3:
        head.insert(0, (rng.uniform(-0.02, 0.05), lift + rng.uniform(0.08, 0.25)))
    bent = rng.uniform(-0.12, 0.05)
    strokes = [way(*head, ((1 + foot) / 2 + bent, 0.5), (foot, 1))]
    if rng.random() < 0.55:
        middle, reach, height = (1 + foot) / 2 + bent, rng.uniform(0.15, 0.38), rng.uniform(0.4, 0.62)
        tilt = rng.normal(0, 0.05)
        strokes.append(way((middle - reach, height + tilt), (middle + reach, height - tilt)))
    return strokes


def _eight(rng: Rng) -> list[Way]:
    look, waist = rng.random(), rng.uniform(0.42, 0.52)
    if look < 0.35:
        top = ring(0.5, waist / 2, rng.uniform(0.25, 0.4), waist / 2, 90, 360)
        return [top, ring(0.5, (1 + waist) / 2, rng.uniform(0.35, 0.5), (1 - waist) / 2, -90, 360)]
    low = [(0.85, 0.65), (0.9, 0.88), (0.5, 1), (0.08, 0.88), (0.15, 0.65)]
    end = (rng.uniform(0.7, 0.9), rng.uniform(0, 0.15))
    return [way((0.85, 0.12), (0.5, 0), (0.12, 0.12), (0.2, 0.33), (0.5, waist), *low, (0.5, waist), (0.8, 0.33), end)]


def _nine(rng: Rng) -> list[Way]:
    """A loop with a straight, leaning or hooked tail; some angular or open at the top."""
    look = int(rng.integers(4))
    tails: list[list[tuple[float, float]]] = [
        [(rng.uniform(0.75, 0.95), 1)],
        [(0.8, 0.6), (rng.uniform(0.3, 0.6), 1)],
        [(0.9, 0.7), (0.75, 0.97), (0.4, 1), (rng.uniform(0, 0.2), rng.uniform(0.8, 0.95))],
        [(0.88, 0.8), (0.6, 1), (0.15, 0.95)],
    ]
    if rng.random() < 0.2:
        low = rng.uniform(0.4, 0.55)
        box = way((0.9, 0.1), (0.85, 0), (0.08, 0.03), (0.03, low), (0.9, low - 0.05))
        return [box, way((0.9, 0.02), (0.9, 0.5), *tails[look])]
    start = rng.uniform(-40, 10)
    loop = ring(0.47, 0.27, 0.43, 0.27, start, -rng.uniform(330, 360) - start)
    return [np.concatenate([loop, way((0.92, 0.3), *tails[look])])]


FORMS: tuple[Callable[[Rng], list[Way]], ...] = (
    *(_zero, _one, _two, _three, _four, _five, _six, _seven, _eight, _nine),
)
