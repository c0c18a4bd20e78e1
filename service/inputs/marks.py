"""Which marks on the paper are the digit: frames, ruled lines, specks and what hangs in from the edge are left out."""

from __future__ import annotations

from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Boxes = NDArray[np.int32]

LEFT, TOP, WIDTH, HEIGHT, AREA = range(5)
# A ruled line may climb this much (5 degrees), is no thicker than this share of its length, and inked over this share.
_SLOPE, _RULED, _INKED = 0.09, 0.03, 0.85


class Marks(NamedTuple):
    """The pieces of ink in a picture, without frames and ruled lines; one entry for each but `main`.

    `boxes` int32 [n, 5] are left, top, width, height and area; `ink` float64 [n] is their area times darkness; `kept`
    says which are taken for the digit.
    """

    boxes: Boxes
    ink: NDArray[np.float64]
    kept: NDArray[np.bool_]
    main: int
    height: int
    width: int


def digit(plane: NDArray[np.float32], threshold: float) -> tuple[Mask, Marks]:
    """The pixels [h, w] of one digit among all above the threshold, and all the marks there were.

    A digit in several pieces keeps its pieces.
    """
    strokes = _without_edge_frame(plane > threshold)
    strokes = _without_ruling(strokes.T).T
    strokes = _without_frame(_without_ruling(strokes))
    labels, boxes = _pieces(strokes)
    height, width = strokes.shape
    if len(boxes) < 2:
        return strokes, Marks(boxes, np.ones(len(boxes)), np.ones(len(boxes), bool), 0, height, width)
    weights: NDArray[np.float64] = np.bincount(labels[strokes], plane[strokes], len(boxes) + 1)[1:].astype(np.float64)
    keep, main = _belongs(labels, boxes, weights / boxes[:, AREA])
    return np.concatenate([[False], keep])[labels], Marks(boxes, weights, keep, main, height, width)


def _pieces(strokes: Mask) -> tuple[NDArray[np.int32], Boxes]:
    """Connected pieces: labels [h, w] from 1 (0 is paper) and boxes [n, 5]."""
    mask = np.ascontiguousarray(strokes).view(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return labels.astype(np.int32, copy=False), boxes[1:].astype(np.int32, copy=False)


def _belongs(labels: NDArray[np.int32], boxes: Boxes, darkness: NDArray[np.float64]) -> tuple[NDArray[np.bool_], int]:
    """Which pieces are the digit: the largest, large ones beside it, small ones close to it, all of like darkness.

    And which one is the largest.
    """
    height, width = labels.shape
    left, top, wide, high, area = boxes.T.astype(np.float64)
    centred = 1 - np.hypot((left + wide / 2) / width - 0.5, (top + high / 2) / height - 0.5)
    at_edge = (left <= 1) | (top <= 1) | (left + wide >= width - 1) | (top + high >= height - 1)
    standing = area * darkness**2 * centred * np.where(at_edge, 0.3, 1.0)
    main = int(np.argmax(standing))
    size = max(wide[main], high[main])
    gap_x = np.maximum(0, np.maximum(left - (left + wide)[main], left[main] - (left + wide)))
    gap_y = np.maximum(0, np.maximum(top - (top + high)[main], top[main] - (top + high)))
    gap = np.hypot(gap_x, gap_y) / size
    share = standing / standing[main]
    keep = ((share > 0.05) & (gap < 0.15)) | ((share > 0.2) & (gap < 0.5)) | ((share > 0.012) & (gap < 0.04))
    # a dot above or below the main mark makes it an exclamation mark or an i, which the network must see to doubt it
    small = np.maximum(wide, high) < 0.3 * size
    keep |= (share > 0.03) & small & (gap_x < 0.1 * size) & (gap_y > 0) & (gap_y < 0.4 * size)
    keep &= darkness > 0.67 * darkness[main]
    keep &= ~_hanging_in(labels, boxes, main)
    keep[main] = True
    return cast("Mask", keep), main


def _hanging_in(labels: NDArray[np.int32], boxes: Boxes, main: int) -> NDArray[np.bool_]:
    """Which pieces are a neighbour cut off by the picture's left or right side, from which the digit keeps away."""
    height, width = labels.shape
    left, wide = boxes[:, LEFT], boxes[:, WIDTH]
    cut = np.zeros(len(boxes), bool)
    if min(height, width) < 32:
        return cut
    for side, near in ((0, left == 0), (-1, left + wide == width)):
        if not near[main]:
            along = np.bincount(labels[:, side], minlength=len(boxes) + 1)[1:]
            cut |= near & (along >= 0.35 * boxes[:, HEIGHT]) & (wide <= 0.15 * width)
    return cast("Mask", cut & (boxes[:, AREA] < 0.35 * boxes[main, AREA]))


def _without_edge_frame(strokes: Mask) -> Mask:
    """A frame along the picture's own edge: rows and columns all inked, on three sides at least."""
    height, width = strokes.shape
    if min(height, width) < 16:
        return strokes
    depths = [_inked_rows(side) for side in (strokes, strokes[::-1], strokes.T, strokes.T[::-1])]
    if sum(depth > 0 for depth in depths) < 3:
        return strokes
    up, down, left, right = depths
    inner = np.zeros_like(strokes)
    inside = np.s_[up : height - down, left : width - right]
    inner[inside] = strokes[inside]
    return inner


def _inked_rows(strokes: Mask) -> int:
    """How many rows from the top, up to an eighth of all, are inked all along, a fading last one included."""
    inked = strokes[: len(strokes) // 8].mean(axis=1) > 0.93
    return 0 if not inked[0] else min(len(inked), int(np.argmin(np.append(inked, False))) + 1)


def _without_frame(strokes: Mask) -> Mask:
    """A frame drawn around the digit, touching it or not; left alone if what is inside reaches from side to side."""
    labels, boxes = _pieces(strokes)
    for index in np.flatnonzero(boxes[:, WIDTH] * boxes[:, HEIGHT] > 0.3 * strokes.size):
        left, top, width, height = (int(n) for n in boxes[index, :AREA])
        if min(width, height) < 24:
            continue
        box = np.s_[top : top + height, left : left + width]
        piece = labels[box] == index + 1
        strip_x, strip_y = -(-6 * width // 100), -(-6 * height // 100)
        sides = piece[:strip_y].any(0), piece[-strip_y:].any(0), piece[:, :strip_x].any(1), piece[:, -strip_x:].any(1)
        inner = np.s_[top + strip_y : top + height - strip_y, left + strip_x : left + width - strip_x]
        inside = strokes[inner]
        if min(side.mean() for side in sides) < _INKED or inside.sum() < 0.05 * piece.sum():
            continue
        if (inside.any(0).mean() > 0.98 and inside.any(1).mean() < 0.5) or inside.mean() > 0.5:
            continue
        kept = np.zeros_like(strokes)
        kept[inner] = inside
        return kept
    return strokes


def _without_ruling(strokes: Mask) -> Mask:
    """Level lines from edge to edge go, if thinner than the pen or at least three; strokes across them stay."""
    height, width = strokes.shape
    if min(height, width) < 48:
        return strokes
    inset = max(1, width // 100)
    starts, ends = _runs(strokes[:, inset]), _runs(strokes[:, width - 1 - inset])
    if not starts or not ends or len(starts) > 60 or len(ends) > 60:
        return strokes
    depth = cv2.distanceTransform(np.ascontiguousarray(strokes).view(np.uint8), cv2.DIST_L2, 3)
    pen = 2 * float(np.percentile(depth[strokes], 98))
    lines = []
    for start in starts:
        end = min(ends, key=lambda y: abs(y - start))
        if abs(end - start) <= _SLOPE * width:
            line = _line(strokes, start, end, max(3, round(pen)))
            if line is not None:
                lines.append(line)
    cleared = strokes.copy()
    for rows, columns, thickness in lines:
        if thickness <= max(2, _RULED * width) and (thickness <= 0.6 * pen or len(lines) >= 3):
            cleared[rows, columns] = False
    return cleared


def _runs(column: NDArray[np.bool_]) -> list[float]:
    """The middles of the inked runs in a column of pixels."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], column.view(np.int8), [0]])))
    return [float(middle) for middle in (steps[::2] + steps[1::2] - 1) / 2]


def _line(
    strokes: Mask, start: float, end: float, reach: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], float] | None:
    """Rows, columns and thickness of the line between two heights at the picture's sides; None if there is none."""
    height, width = strokes.shape
    columns = np.arange(width)
    way = np.rint(np.linspace(start, end, width)).astype(np.intp)
    rows = way + np.arange(-reach, reach + 1)[:, None]
    band = strokes[np.clip(rows, 0, height - 1), columns] & (rows >= 0) & (rows < height)
    centre = band[reach - 1 : reach + 2].any(axis=0)
    if centre.mean() < _INKED:
        return None
    band[reach] |= centre
    run = np.concatenate([np.logical_and.accumulate(band[reach::-1])[:0:-1], np.logical_and.accumulate(band[reach:])])
    thick = run.sum(axis=0)
    thickness = float(np.median(thick[centre]))
    erase = run & (thick <= 1.5 * thickness + 1)
    across = np.broadcast_to(columns, rows.shape)
    return np.clip(rows, 0, height - 1)[erase], across[erase], thickness
