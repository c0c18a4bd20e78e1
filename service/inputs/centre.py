"""The 28x28 frame, as MNIST was made: the digit fits 20x20, aspect kept, and its centre of mass is the frame's centre.

The recipe is from LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998),
and the page of the MNIST database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

_SIDE, _BOX = 28, 20
_MANY = 6
_BORDER = np.flatnonzero(np.pad(np.zeros((_SIDE - 2, _SIDE - 2), bool), 1, constant_values=True))
_BLACK, _GREY, _WHITE = b"\x00", b"\x01", b"\x03"
_PAPER = 4
"""MNIST's paper is 0. On grey paper of 10 or 20 the networks read one digit in seven wrongly."""
_LEVELS = b"\x00" * _PAPER + b"\x01" * (64 - _PAPER) + b"\x02" * 64 + b"\x03" * 128
_SEEN = b"\x00" * 32 + b"\x01" * 224
_MOMENTS = np.stack([np.ones(_SIDE * _SIDE), *np.indices((_SIDE, _SIDE)).reshape(2, -1)]).astype(np.float32)
"""What a pixel's ink counts for the mass, and for the mass times its row and its column."""
# Strokes of MNIST are 2 to 4 pixels wide in the 20x20 box; a fine pen on a large sheet would fade to nothing there.
_THINNEST = 2.0
_WORKING = 80


def as_is(pixels: Pixels) -> Pixels | None:
    """A picture itself if it has an MNIST image's form, 28x28 and light on black, or its negative if that has it.

    All 70,000 images of MNIST are 18 to 20 pixels long and centred by mass within 0.52: wider limits let all pass, and
    digits of other corpora, which are larger, smaller or out of place, are made anew.
    """
    if pixels.shape != (_SIDE, _SIDE):
        return None
    if _is_ready(pixels):
        return pixels
    negative: Pixels = 255 - pixels
    return negative if _is_ready(negative) else None


def as_are(pictures: Sequence[Pixels]) -> list[Pixels | None]:
    """`as_is` of each; many light on black are looked at together, at a third of the time."""
    if len(pictures) < _MANY:
        return [as_is(pixels) for pixels in pictures]
    ready = _are_ready(np.stack(pictures))
    return [pixels if known else as_is(pixels) for pixels, known in zip(pictures, ready.tolist(), strict=True)]


def fit(ink: Plane) -> Pixels:
    """Ink [h, w], 0..1, to uint8 [28, 28]: scaled to 20x20 with soft edges, full contrast, centred by mass."""
    ink = ink / ink.max()
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = cut.shape
    if max(height, width) < _WORKING:
        cut = _resize(cut, _WORKING / max(height, width), cv2.INTER_CUBIC)
    cut = _thicken(cut)
    small = _resize(cut, _BOX / max(cut.shape), cv2.INTER_AREA)
    small = np.clip(small / max(float(small.max()), 1e-6), 0, 1) * 255
    return _placed(np.rint(small).astype(np.uint8))


def _is_ready(pixels: Pixels) -> bool:
    return _on_black(pixels.tobytes()) and _is_centred(pixels)


def _are_ready(stack: Pixels) -> NDArray[np.bool_]:
    """`_is_ready` of each picture of a stack [n, 28, 28]."""
    flat = stack.reshape(len(stack), -1)
    ready: NDArray[np.bool_] = (flat.max(1) >= 128) & (np.count_nonzero(flat < 64, axis=1) >= 392)
    ready &= np.count_nonzero(flat[:, _BORDER] < _PAPER, axis=1) >= 81
    seen = stack > 31
    length = np.maximum(_lengths(np.any(seen, axis=1)), _lengths(np.any(seen, axis=2)))
    ready &= (length >= _BOX - 2) & (length <= _BOX)
    # three products with a vector: one with a matrix would make NumPy claim memory and threads for large matrices
    mass, y, x = map(flat.astype(np.float32).__matmul__, _MOMENTS)
    ready &= (np.abs(y - 14 * mass) <= 0.75 * mass) & (np.abs(x - 14 * mass) <= 0.75 * mass)
    return ready


def _lengths(lines: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each picture's lines [n, 28]: how many there are from the first to the last that is true."""
    before, after = lines.argmax(1), lines[:, ::-1].argmax(1)
    count: NDArray[np.int64] = _SIDE - before - after
    return count


def _on_black(pixels: bytes) -> bool:
    levels = pixels.translate(_LEVELS)
    if _WHITE not in levels or levels.count(_BLACK) + levels.count(_GREY) < 392:
        return False
    sides = levels[:_SIDE] + levels[-_SIDE:] + levels[_SIDE:-_SIDE:_SIDE] + levels[2 * _SIDE - 1 : -_SIDE : _SIDE]
    return sides.count(_BLACK) >= 81


def _is_centred(pixels: Pixels) -> bool:
    height, width = _extent(pixels.tobytes().translate(_SEEN)), _extent(pixels.T.tobytes().translate(_SEEN))
    if not _BOX - 2 <= max(height, width) <= _BOX:
        return False
    # whole numbers below 2**24, and so exact in float32
    mass, y, x = (_MOMENTS @ pixels.reshape(-1).astype(np.float32)).tolist()
    return bool(abs(y - 14 * mass) <= 0.75 * mass and abs(x - 14 * mass) <= 0.75 * mass)


def _extent(seen: bytes) -> int:
    """Lines from the first to the last that has a seen (1) pixel."""
    return seen.rfind(1) // _SIDE - seen.find(1) // _SIDE + 1


def _mass_centre(pixels: Pixels) -> tuple[float, float]:
    weights = pixels.astype(np.float64)
    total = weights.sum()
    y = weights.sum(axis=1) @ np.arange(pixels.shape[0]) / total
    x = weights.sum(axis=0) @ np.arange(pixels.shape[1]) / total
    return float(y), float(x)


def _thicken(ink: Plane) -> Plane:
    """Widen strokes that would be thinner than MNIST's thinnest; each pixel keeps its grey level."""
    mask = (ink > 0.5).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
    ridge = depth[(depth > 0) & (depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)))]
    pixel = max(ink.shape) / _BOX
    missing = _THINNEST * pixel - 2 * float(np.median(ridge))
    reach = round(missing / 2)
    if reach < 1:
        return ink
    padded = cv2.copyMakeBorder(ink, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cast("Plane", cv2.dilate(padded, kernel))


def _resize(plane: Plane, scale: float, method: int) -> Plane:
    height, width = plane.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cast("Plane", cv2.resize(plane, size, interpolation=method))


def _placed(box: Pixels) -> Pixels:
    """The box in the 28x28 frame, moved by whole pixels: its centre of mass lies at (14, 14), as far as it fits."""
    y, x = _mass_centre(box)
    height, width = box.shape
    top = min(max(round(14 - y), 0), _SIDE - height)
    left = min(max(round(14 - x), 0), _SIDE - width)
    frame = np.zeros((_SIDE, _SIDE), np.uint8)
    frame[top : top + height, left : left + width] = box
    return frame
