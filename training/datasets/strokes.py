"""Strokes of a pen: ways through points, smoothed and drawn, and framed as MNIST's digits are."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
Way = NDArray[np.float64]
Rng = np.random.Generator

SIDE = 28
_BOX, _SHEET, _EDGE = 20, 96, 18


def way(*points: tuple[float, float]) -> Way:
    """Points (x, y) [n, 2] in a unit square, x right, y down."""
    return np.array(points, float)


def ring(x: float, y: float, across: float, down: float, start: float, sweep: float, points: int = 12) -> Way:
    """Points of an ellipse from an angle on, in degrees; 0 is to the right, 90 is down."""
    angles = np.radians(start + sweep * np.linspace(0, 1, points))
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1)


def smoothed(points: Way, tightness: int, rounds: int = 3) -> Way:
    """The way with its corners cut (G. Chaikin, 1974); each part is split in `tightness` first, so corners stay."""
    at = np.linspace(0, len(points) - 1, (len(points) - 1) * tightness + 1)
    places = np.arange(len(points))
    points = np.stack([np.interp(at, places, points[:, 0]), np.interp(at, places, points[:, 1])], 1)
    for _ in range(rounds):
        near, far = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        inner = np.stack([near, far], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], inner[1:-1], points[-1:]])
    return points


def by_hand(strokes: Sequence[Way], rng: Rng, shake: float = 0.025, pen: tuple[float, float] = (4, 15)) -> Plane:
    """Strokes in the unit square as one hand writes them on a sheet uint8 [96, 96], white on black.

    Points are shaken, corners rounded, the whole slanted, turned, bent and stretched; the pen is 4 to 15 pixels wide.
    """
    tightness, turn = int(rng.choice([1, 1, 2, 2, 3, 5])), rng.normal(0, 0.1)
    wide, slant = float(np.exp(rng.normal(-0.25, 0.22))), rng.normal(0.12, 0.22)
    shape = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[wide, -slant], [0, 1]]
    bend, phase = rng.normal(0, 0.025, (2, 2)), rng.uniform(0, 6.3, (2, 2))
    width = max(1, round(float(np.exp(rng.uniform(*np.log(pen))))))
    sheet = np.zeros((_SHEET, _SHEET), np.uint8)
    for stroke in strokes:
        shaken = smoothed(stroke + rng.normal(0, shake, stroke.shape), tightness) - 0.5
        shaken = shaken + np.stack([np.sin(shaken * 5 + phase[i]) @ bend[i] for i in (0, 1)], 1)
        spots = np.rint(((shaken @ shape.T) * (_SHEET - 2 * _EDGE) + _SHEET / 2) * 8).astype(np.int32)
        cv2.polylines(sheet, [spots], False, 255, width, cv2.LINE_AA, shift=3)
    return sheet


def framed(sheet: Plane) -> Plane:
    """What is drawn on a sheet, scaled to 20x20 and centred by mass in uint8 [28, 28], as MNIST's digits are."""
    rows, columns = np.flatnonzero(sheet.max(1) > 127), np.flatnonzero(sheet.max(0) > 127)
    cut = sheet[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if rows.size else sheet
    scale = _BOX / max(cut.shape)
    high, wide = (max(1, round(side * scale)) for side in cut.shape)
    small = cv2.resize(cut, (wide, high), interpolation=cv2.INTER_AREA).astype(np.float64)
    small *= 255 / max(small.max(), 1.0)
    mass = max(small.sum(), 1.0)
    top = round(14 - small.sum(1) @ np.arange(high) / mass)
    left = round(14 - small.sum(0) @ np.arange(wide) / mass)
    top, left = min(max(top, 0), SIDE - high), min(max(left, 0), SIDE - wide)
    frame = np.zeros((SIDE, SIDE), np.uint8)
    frame[top : top + high, left : left + wide] = small.round()
    return frame
