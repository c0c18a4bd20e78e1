"""Pictures without one digit, drawn at random, for a network to learn doubt from.

Outlier exposure (D. Hendrycks, M. Mazeika and T. Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR
2019): letters and signs by hand and in print, words, pages, strokes, shapes, patterns and noise, framed as MNIST's
digits are, some unframed, and several digits in one picture. Nothing here is a real page, photo or drawing.
`docs/quality.md` tells what it gave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.datasets import glyphs, letters
from training.datasets.strokes import Plane, Rng, framed

Kind = Callable[[Rng], Plane]

ROWS = 16_384
_SIDE, _SHEET = 28, 80
Way = list[tuple[float, float]]
_STEM: Way = [(0, 0), (0, 1)]
_GABLE: list[Way] = [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.62), (0.8, 0.62)]]
_PARTS: tuple[Way, ...] = (
    [(0, 0), (1, 0)],
    [(0, 0.5), (0.9, 0.5)],
    [(1, 0), (1, 1)],
    [(0, 0), (0.5, 0.6), (1, 0)],
    [(0, 0), (1, 1)],
    [(0, 0.5), (1, 0)],
    [(0, 0.5), (1, 1)],
    [(0, 0), (0.7, 0.02), (0.95, 0.15), (0.95, 0.35), (0.7, 0.48), (0, 0.5)],
    [(0, 0.4), (0.5, 0.3), (0.95, 0.45), (1, 1)],
    [(-0.5, 0), (0.5, 0)],
)
"""What hangs on a letter's stem, in a unit square, x right, y down: no bowl at the foot, which makes a 6."""


@functools.cache
def bank(rows: int = ROWS, seed: int = 0) -> Tensor:
    """Pictures uint8 [rows, 28, 28] of all kinds in turn; the same for the same seed (in one to two seconds)."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([_drawn(row % (len(KINDS) + 1), rng) for row in range(rows)]))


def _drawn(kind: int, rng: Rng) -> Plane:
    if kind == len(KINDS):
        return UNFRAMED[rng.integers(len(UNFRAMED))](rng)
    picture = framed(KINDS[kind](rng))
    if rng.random() < 0.5:  # as soft as scans: how sharp its edges are must not tell a drawn picture
        return picture
    return cast("Plane", cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.35, 0.9)))


def _sheet() -> Plane:
    return np.zeros((_SHEET, _SHEET), np.uint8)


def _line(sheet: Plane, points: NDArray[np.float64], pen: int, closed: bool = False) -> None:
    """Points [n, 2] in the unit square, joined by a round pen."""
    cv2.polylines(sheet, [np.rint(6 + points * (_SHEET - 12)).astype(np.int32)], closed, 255, pen, cv2.LINE_AA)


def _pen(rng: Rng) -> int:
    return int(rng.integers(5, 13))


def _curve(rng: Rng, knots: int) -> NDArray[np.float64]:
    """A smooth way [n, 2] through random knots in the unit square."""
    ways = cv2.resize(rng.random((knots, 2)), (2, knots * 8), interpolation=cv2.INTER_CUBIC)
    return cast("NDArray[np.float64]", ways.astype(np.float64))


def _scrawl(rng: Rng) -> Plane:
    """One long way to and fro."""
    sheet = _sheet()
    _line(sheet, _curve(rng, int(rng.integers(10, 28))), int(rng.integers(3, 9)))
    return sheet


def _tangle(rng: Rng) -> Plane:
    """Several strokes, straight or bent, anyhow."""
    sheet, pen = _sheet(), _pen(rng)
    for _ in range(rng.integers(4, 9)):
        _line(sheet, rng.random((2, 2)) if rng.random() < 0.6 else _curve(rng, 3), pen)
    return sheet


def _sign(rng: Rng) -> Plane:
    """Strokes between the nodes of a 3x3 grid, as signs of unknown scripts have them, now and then with a ring."""
    sheet, pen = _sheet(), _pen(rng)
    nodes = np.stack(np.meshgrid([0, 0.5, 1], [0, 0.5, 1]), -1).reshape(-1, 2) + rng.normal(0, 0.05, (9, 2))
    for _ in range(rng.integers(4, 8)):
        _line(sheet, nodes[rng.choice(9, 2, replace=False)], pen)
    if rng.random() < 0.3:
        centre = np.rint(6 + nodes[rng.integers(9)] * (_SHEET - 12)).astype(int)
        cv2.circle(sheet, (int(centre[0]), int(centre[1])), int(rng.integers(6, 18)), 255, pen // 2, cv2.LINE_AA)
    return sheet


def _crossing(rng: Rng) -> Plane:
    """Two or three straight strokes through about the same point, at wide angles."""
    sheet, pen, count = _sheet(), _pen(rng), int(rng.integers(2, 5))
    angles = rng.uniform(0, np.pi) + np.arange(count) * np.pi / count + rng.normal(0, 0.15, count)
    for angle in angles:
        way = np.array([np.cos(angle), np.sin(angle)]) * rng.uniform(0.35, 0.5)
        _line(sheet, 0.5 + rng.normal(0, 0.05, 2) + np.stack([-way, way]), pen)
    return sheet


def _polygon(rng: Rng) -> Plane:
    """Corners around a centre, joined in turn or by leaps, as an outline or filled, some with more inside."""
    sheet, corners = _sheet(), int(rng.choice([3, 3, 4, 4, 5, 6, 7, 8, 9]))
    angles = rng.uniform(0, 2 * np.pi) + np.arange(corners) * 2 * np.pi / corners + rng.normal(0, 0.15, corners)
    if corners >= 5 and rng.random() < 0.4:
        angles = angles[np.arange(corners) * 2 % corners]
    points = 0.5 + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(0.25, 0.5, (corners, 1))
    if rng.random() < 0.25:
        cv2.fillPoly(sheet, [np.rint(6 + points * (_SHEET - 12)).astype(np.int32)], 255)
        return sheet
    _line(sheet, points, int(rng.integers(3, 10)), closed=True)
    for _ in range(rng.integers(0 if corners < 5 else 1, 4)):
        _line(sheet, rng.uniform(0.2, 0.8, (2, 2)), int(rng.integers(3, 8)))
    return sheet


def _rings(rng: Rng) -> Plane:
    """Several rings and discs of any size."""
    sheet = _sheet()
    for _ in range(rng.integers(4, 9)):
        x, y, wide, high = (int(n) for n in rng.integers((15, 15, 3, 3), (65, 65, 26, 26)))
        pen = -1 if rng.random() < 0.25 else int(rng.integers(2, 7))
        cv2.ellipse(sheet, (x, y), (wide, high), float(rng.uniform(0, 180)), 0, 360, 255, pen, cv2.LINE_AA)
    return sheet


def _glyph(rng: Rng) -> Plane:
    """A stem or a gable with some of ten arms, legs, bowls and hooks, as letters are built; one in four lies down."""
    sheet, pen, wide = _sheet(), _pen(rng), float(rng.uniform(0.5, 1))
    parts = [_PARTS[i] for i in rng.choice(len(_PARTS), int(rng.integers(2, 4)), replace=False)]
    for part in _GABLE if rng.random() < 0.15 else [_STEM, *parts]:
        _line(sheet, (np.array(part) + rng.normal(0, 0.02, (len(part), 2))) * [wide, 1], pen)
    return np.ascontiguousarray(np.rot90(sheet, rng.choice(4, p=[0.75, 0.125, 0, 0.125])))


def _fork(rng: Rng) -> Plane:
    """A stroke that splits at its end, forwards or backwards and any way up; or two that meet below, wide apart."""
    sheet, pen, way = _sheet(), int(rng.integers(3, 11)), rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.35:
        tilt, opening = rng.normal(0, 0.3), rng.uniform(0.45, 0.8)
        tips = np.stack([_towards(-np.pi / 2 + tilt - opening), _towards(-np.pi / 2 + tilt + opening)])
        tips *= [[rng.uniform(0.35, 1)], [rng.uniform(0.7, 1)]]
        _line(sheet, np.stack([tips[0], np.zeros(2), tips[1]]) / 2 + [0.5, 0.9], pen)
        return sheet
    back = rng.random() < 0.6
    end, opening = (0.45 if back else 0.05) * _towards(way), rng.uniform(0.4, 1.1) + (0 if back else np.pi)
    sides = [end - rng.uniform(0.25, 0.5) * _towards(way + side * opening) for side in (-1, 1)]
    _line(sheet, np.stack([-0.45 * _towards(way), end]) + 0.5, pen)
    _line(sheet, np.stack([sides[0], end, sides[1]]) + 0.5, pen)
    return sheet


def _towards(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


def _figure(rng: Rng) -> Plane:
    """A ring or two with several strokes from and around it."""
    sheet, pen = _sheet(), int(rng.integers(3, 9))
    for _ in range(rng.integers(1, 3)):
        (x, y), radius = rng.integers(24, 56, 2), int(rng.integers(8, 22))
        cv2.circle(sheet, (int(x), int(y)), radius, 255, pen, cv2.LINE_AA)
        for angle in rng.uniform(0, 2 * np.pi) + np.arange(3) * 2.1 + rng.normal(0, 0.4, 3):
            reach = np.array([radius, radius + rng.uniform(10, 35)])[:, None] * _towards(angle)
            _line(sheet, (reach + np.array([x - 6, y - 6])) / (_SHEET - 12), pen)
    if rng.random() < 0.5:
        _line(sheet, rng.random((2, 2)), pen)
    return sheet


def _blob(rng: Rng) -> Plane:
    """A closed curve with lobes, as an outline or filled, or a filled oval, now and then with a soft edge."""
    sheet, angles = _sheet(), np.linspace(0, 2 * np.pi, 48, endpoint=False)
    filled, lobes = rng.random() < 0.6, int(rng.integers(3, 6))
    depth = rng.uniform(0, 0.4) if filled else rng.uniform(0.25, 0.45)
    radius = (1 + depth * np.cos(lobes * angles + rng.uniform(0, 6))) / (1 + depth)
    points = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.4, 1.2)], 1) * radius[:, None]
    if not filled:
        _line(sheet, points, int(rng.integers(3, 10)), closed=True)
        return sheet
    cv2.fillPoly(sheet, [np.rint(6 + points * (_SHEET - 12)).astype(np.int32)], 255)
    return cast("Plane", cv2.GaussianBlur(sheet, (0, 0), rng.uniform(0.5, 7)))


def _rows(rng: Rng) -> Plane:
    """Rows of small marks, as far-away writing looks."""
    sheet, rows = _sheet(), int(rng.integers(2, 7))
    pitch, gap = _SHEET // rows, float(rng.uniform(0.5, 0.8))
    for row in range(rows):
        for x in np.arange(0, _SHEET, max(4, pitch * rng.uniform(0.4, 0.8))):
            if rng.random() < 0.85:
                spots = rng.random((int(rng.integers(2, 5)), 2)) * [pitch * 0.6, pitch * gap] + [x, row * pitch]
                cv2.polylines(sheet, [spots.astype(np.int32)], False, 255, max(1, pitch // 10), cv2.LINE_AA)
    return sheet


def _field(rng: Rng) -> Plane:
    """Noise of any coarseness, soft or cut in two, in an upright or flat box."""
    high, wide = (int(side) for side in rng.integers(30, _SHEET, 2))
    noise = cast("NDArray[np.float64]", cv2.GaussianBlur(rng.normal(0, 1, (high, wide)), (0, 0), rng.uniform(1, 9)))
    noise -= np.quantile(noise, rng.uniform(0.2, 0.8))
    levels = noise / float(noise.std()) * float(rng.choice([60, 1000])) + 60
    return levels.clip(0, 255).astype(np.uint8)


def _grating(rng: Rng) -> Plane:
    """Waves across a box, or two of them crossing, soft or hard."""
    high, wide = (int(side) for side in rng.integers(40, _SHEET, 2))
    y, x = np.mgrid[0:high, 0:wide]
    waves = np.zeros((high, wide))
    for _ in range(rng.integers(1, 3)):
        angle = rng.uniform(0, np.pi)
        way = x * np.cos(angle) + y * np.sin(angle) + rng.uniform(0, 3) * np.sin(y * rng.uniform(0, 0.3))
        waves += np.sin(2 * np.pi * way / rng.uniform(8, 26) + rng.uniform(0, 6))
    levels: NDArray[np.float64] = waves * float(rng.choice([100, 1000])) + rng.uniform(-60, 160)
    return levels.clip(0, 255).astype(np.uint8)


def _lattice(rng: Rng) -> Plane:
    """Lines of a grid, whole or with bars left out at random."""
    sheet, cells, pen = _sheet(), int(rng.integers(2, 6)), int(rng.integers(2, 9))
    stay = rng.uniform(0.6, 1)
    for at in np.linspace(0, 1, cells + 1):
        for start in np.arange(cells) / cells:
            for points in ([[at, start], [at, start + 1 / cells]], [[start, at], [start + 1 / cells, at]]):
                if rng.random() < stay:
                    _line(sheet, np.array(points), pen)
    return sheet


def _specks(rng: Rng) -> Plane:
    """Noise as it comes through a search for ink: spots of any number, small squares, a box that is full."""
    sheet, look = _sheet(), int(rng.integers(4))
    if look == 0:
        sheet[rng.random(sheet.shape) < np.exp(rng.uniform(-6, -0.7))] = 255
        return sheet
    if look == 1:
        side = int(rng.integers(5, 14))
        coarse = (rng.random((side, side)) < rng.uniform(0.05, 0.6)).astype(np.uint8) * 255
        return cast("Plane", cv2.resize(coarse, (_SHEET, _SHEET), interpolation=int(rng.integers(0, 3))))
    if look == 2:
        high, wide = (int(side) for side in rng.integers(30, 79, 2))
        sheet[:high, :wide] = rng.integers(120, 256, (high, wide)) if rng.random() < 0.5 else 255
        return sheet
    for _ in range(rng.integers(2, 12)):
        x, y, radius = (int(n) for n in rng.integers((4, 4, 1), (76, 76, 8)))
        cv2.circle(sheet, (x, y), radius, 255, -1, cv2.LINE_AA)
    return sheet


def _static(rng: Rng) -> Plane:
    return rng.integers(0, 256, (_SIDE, _SIDE), np.uint8)


def _level(rng: Rng) -> Plane:
    return np.full((_SIDE, _SIDE), int(rng.choice(np.array([0, 0, 255, rng.integers(256)]))), np.uint8)


def _grain(rng: Rng) -> Plane:
    return _bytes(rng.normal(rng.uniform(0, 255), rng.uniform(5, 90), (_SIDE, _SIDE)))


def _salt(rng: Rng) -> Plane:
    return _bytes(255.0 * (rng.random((_SIDE, _SIDE)) < np.exp(rng.uniform(-6, -0.3))))


def _wave(rng: Rng) -> Plane:
    return cast("Plane", cv2.resize(_grating(rng), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))


def _elsewhere(rng: Rng) -> Plane:
    shift = rng.integers(-9, 10, 2)
    return np.roll(framed(KINDS[rng.integers(len(KINDS))](rng)), (int(shift[0]), int(shift[1])), (0, 1))


def _bytes(values: NDArray[np.float64]) -> Plane:
    return values.clip(0, 255).astype(np.uint8)


def mistaken(pictures: NDArray[np.uint8], rows: int, seed: int = 0) -> Tensor:
    """Pictures of [n, 28, 28] on another scale, uint8 [rows, 28, 28]: of 0..1, 0..16 or up to 60, or dark on light."""
    rng = np.random.default_rng(seed)
    chosen = pictures[rng.integers(len(pictures), size=rows)]
    tops = rng.choice(np.array([1, 1, 16, 16, 60, -255]), size=(rows, 1, 1))
    scaled = np.rint(chosen / 255 * tops) + np.where(tops < 0, 255, 0)
    return torch.from_numpy(scaled.astype(np.uint8))


def turned(digits: NDArray[np.uint8], labels: NDArray[np.int64], rows: int, seed: int = 0) -> Tensor:
    """Digits of [n, 28, 28] that lie on a side or are mirrored, uint8 [rows, 28, 28]; none that is then another digit.

    They have the very strokes of the digits: what tells them is their shape alone, and not how a picture was drawn.
    """
    rng = np.random.default_rng(seed)
    lying, mirrored = (np.flatnonzero(np.isin(labels, chosen)) for chosen in ([2, 3, 4, 5, 7], [3, 4, 7, 9]))
    found = []
    for row in range(rows):
        places = mirrored if row % 3 == 2 and len(mirrored) else lying
        picture = digits[places[rng.integers(len(places))]] if len(places) else np.zeros((_SIDE, _SIDE), np.uint8)
        found.append(np.fliplr(picture) if places is mirrored else np.rot90(picture, 1 if row % 3 else -1))
    return torch.from_numpy(np.stack(found))


def several(digits: NDArray[np.uint8], rows: int, seed: int = 0) -> Tensor:
    """Two or three digits of [n, 28, 28] in one picture, uint8 [rows, 28, 28]: beside, above and over each other."""
    rng = np.random.default_rng(seed)
    pictures = [_together([digits[i] for i in rng.integers(len(digits), size=rng.choice([2, 2, 2, 3]))], rng)]
    while len(pictures) < rows:
        pictures.append(_together([digits[i] for i in rng.integers(len(digits), size=rng.choice([2, 2, 2, 3]))], rng))
    return torch.from_numpy(np.stack(pictures[:rows]))


def _together(digits: list[Plane], rng: Rng) -> Plane:
    """Digits in a row on a sheet, cut to their ink and of like size; a fifth lie over each other, a fifth stand."""
    sheet, look = np.zeros((56, 140), np.uint8), rng.random()
    at = 4
    for digit in digits:
        rows, columns = np.flatnonzero(digit.max(1) > 60), np.flatnonzero(digit.max(0) > 60)
        if not rows.size:  # a picture without ink has no place in a row
            continue
        cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if look < 0.2:
            cut = np.ascontiguousarray(cut.T)  # in a row now, above each other when the sheet is turned back
        scale = float(rng.uniform(0.75, 1.5))
        wide, high = (max(1, round(side * scale)) for side in cut.shape[::-1])
        cut = cast("Plane", cv2.resize(cut, (wide, high), interpolation=cv2.INTER_LINEAR))
        top = int(rng.integers(0, 56 - high)) if rng.random() < 0.3 else (56 - high) // 2
        at = max(0, at)
        box = sheet[top : top + high, at : at + wide]
        np.maximum(box, cut[:, : box.shape[1]], out=box)  # ink that fills its frame may not fit
        at += round(wide * rng.uniform(0.2, 0.6)) if look > 0.8 else wide + round(rng.uniform(-5, 12))
    return framed(np.ascontiguousarray(sheet.T) if look < 0.2 else sheet)


_SHAPES: tuple[Kind, ...] = (
    *(_scrawl, _tangle, _sign, _crossing, _polygon, _rings, _rows, _field, _grating, _lattice, _blob, _specks),
    *(_glyph, _fork, _figure, _glyph, _polygon, _fork, _scrawl, _specks),
)


def _shape(rng: Rng) -> Plane:
    return _SHAPES[rng.integers(len(_SHAPES))](rng)


KINDS: tuple[Kind, ...] = (
    *(letters.letter, letters.letter, letters.letter, letters.sign, letters.word, letters.letter, letters.sign),
    *(glyphs.letter, glyphs.letter, glyphs.sign, glyphs.word, glyphs.page, _shape, _shape, _shape, _shape),
)
"""They take turns; what is nearest to digits has several."""
UNFRAMED: tuple[Kind, ...] = (_static, _level, _grain, _salt, _wave, _elsewhere, _elsewhere)
"""What no frame made, uint8 [28, 28]; one of them in each turn."""
