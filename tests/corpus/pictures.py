"""Pictures drawn in code, the same on every machine: only NumPy draws, and only lossless files are written."""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
from PIL import Image

from tests.server import EXAMPLES

SEVEN = (EXAMPLES / "seven.png").read_bytes()
STROKES = {
    1: [(0.5, 0.1, 0.5, 0.9)],
    4: [(0.65, 0.1, 0.2, 0.6), (0.2, 0.6, 0.85, 0.6), (0.65, 0.1, 0.65, 0.9)],
    5: [(0.75, 0.12, 0.3, 0.12), (0.3, 0.12, 0.28, 0.45), (0.28, 0.45, 0.7, 0.5), (0.7, 0.5, 0.7, 0.8),
        (0.7, 0.8, 0.25, 0.88)],
    7: [(0.2, 0.15, 0.8, 0.15), (0.8, 0.15, 0.4, 0.9)],
}  # fmt: skip
"""Digits as lines x, y, x, y in a unit square."""


@cache
def ink(digit: int, size: int, width: float = 0.1) -> np.ndarray:
    """A digit with 255 as ink, uint8 [size, size]; its edges are hard."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    nearest = np.full((size, size), np.inf)
    for x0, y0, x1, y1 in STROKES[digit]:
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        at = np.clip(along, 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - at * (x1 - x0), y - y0 - at * (y1 - y0)))
    return np.where(nearest < width / 2, 255, 0).astype(np.uint8)


def mnist(digit: int) -> np.ndarray:
    """A digit in MNIST's form: 28x28, light on black, in the middle 20x20."""
    return np.pad(ink(digit, 20, 0.12), 4)


def file(picture: np.ndarray, form: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    """A picture as a file."""
    image = Image.fromarray(picture)
    out = io.BytesIO()
    (image.convert(mode) if mode is not None else image).save(out, form, **options)
    return out.getvalue()


def coloured(digit: int, size: int) -> np.ndarray:
    """Blue ink on yellow paper, uint8 [size, size, 3]."""
    share = ink(digit, size)[:, :, None] // 255
    return (share * np.array([20, 30, 120]) + (1 - share) * np.array([250, 240, 180])).astype(np.uint8)


def transparent(digit: int, size: int) -> np.ndarray:
    """Black ink on nothing, uint8 [size, size, 4]."""
    picture = np.zeros((size, size, 4), np.uint8)
    picture[:, :, 3] = ink(digit, size)
    return picture


def several() -> np.ndarray:
    """Three digits side by side, dark on light."""
    return 255 - np.hstack([ink(digit, 80) for digit in (1, 4, 7)])


def noise() -> np.ndarray:
    """No digit at all: blots in MNIST's form."""
    return np.pad(np.random.default_rng(5).integers(0, 256, (20, 20)).astype(np.uint8), 4)


def text(data: bytes) -> str:
    """A file as base64."""
    return base64.b64encode(data).decode()
