"""Picture files that show no single digit: several digits, letters, symbols, text, noise, textures, drawings, scenes.

Every kind takes a random generator and gives a file's bytes. Faces and strokes are others than those that the training
draws from (`training.datasets.glyphs`, `training.datasets.letters`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tests.service.pictures import (
    arc,
    encoded,
    matte_by_hand,
    matte_of,
    mnist_test,
    on_sheet,
    painted,
    to_uint8,
    uneven_light,
)

TEXT = (
    "the quick brown fox jumps over a lazy dog while five boxing wizards vex every daft gnome and my jolly queen of "
    "Spain keeps bright zinc lamps near her window because rain is falling on the plain where people wait for trains"
)
WORDS = TEXT.split()
FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10", "cmb10", "cmti10")
SYMBOLS = "?!#&@+=<>%*"
SYMBOLS_STIX = "†‡§¶←↑→↓↔⇒∑√∞≈≠×÷∀∃∈∩∪∇♠♣♥♦♪"

# Letters that no one writes as a digit, as strokes in a unit square, x right, y down; `PRINTED` has the others too.
PRINTED = "ACDEFHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"
LETTERS = {
    "A": [[(0.2, 0.95), (0.5, 0.05), (0.8, 0.95)], [(0.3, 0.62), (0.7, 0.62)]],
    "E": [[(0.75, 0.07), (0.28, 0.07), (0.28, 0.93), (0.77, 0.93)], [(0.28, 0.48), (0.65, 0.48)]],
    "F": [[(0.78, 0.07), (0.3, 0.07), (0.3, 0.95)], [(0.3, 0.47), (0.66, 0.47)]],
    "H": [[(0.24, 0.05), (0.24, 0.95)], [(0.76, 0.05), (0.76, 0.95)], [(0.24, 0.48), (0.76, 0.48)]],
    "K": [[(0.28, 0.05), (0.28, 0.95)], [(0.75, 0.05), (0.3, 0.52), (0.78, 0.95)]],
    "M": [[(0.15, 0.95), (0.2, 0.05), (0.5, 0.65), (0.8, 0.05), (0.85, 0.95)]],
    "N": [[(0.24, 0.95), (0.24, 0.05), (0.76, 0.95), (0.76, 0.05)]],
    "P": [[(0.3, 0.95), (0.3, 0.06), (0.6, 0.08), (0.75, 0.28), (0.6, 0.48), (0.3, 0.5)]],
    "R": [[(0.3, 0.95), (0.3, 0.06), (0.62, 0.08), (0.74, 0.27), (0.6, 0.47), (0.3, 0.5)], [(0.45, 0.5), (0.78, 0.95)]],
    "T": [[(0.15, 0.08), (0.85, 0.08)], [(0.5, 0.08), (0.5, 0.95)]],
    "W": [[(0.1, 0.05), (0.3, 0.95), (0.5, 0.35), (0.7, 0.95), (0.9, 0.05)]],
    "X": [[(0.2, 0.05), (0.8, 0.95)], [(0.8, 0.05), (0.2, 0.95)]],
    "Y": [[(0.18, 0.05), (0.5, 0.48), (0.82, 0.05)], [(0.5, 0.48), (0.5, 0.95)]],
    "C": [arc(0.55, 0.5, 0.38, 0.45, -50, -310)],
    "D": [[(0.22, 0.05), (0.22, 0.95)], np.concatenate([arc(0.22, 0.5, 0.55, 0.45, -90, 90)])],
    "J": [np.concatenate([[(0.68, 0.05)], arc(0.45, 0.7, 0.23, 0.25, 0, 170)])],
    "L": [[(0.28, 0.05), (0.28, 0.93), (0.78, 0.93)]],
    "Q": [arc(0.48, 0.47, 0.36, 0.42, -90, 270), [(0.58, 0.68), (0.9, 0.98)]],
    "U": [np.concatenate([[(0.2, 0.05)], arc(0.5, 0.65, 0.3, 0.3, 180, 0), [(0.8, 0.05)]])],
    "V": [[(0.18, 0.05), (0.5, 0.95), (0.82, 0.05)]],
    "a": [arc(0.48, 0.6, 0.28, 0.3, -20, -350), [(0.76, 0.3), (0.76, 0.8), (0.9, 0.92)]],
    "d": [arc(0.45, 0.68, 0.25, 0.26, 0, 360), [(0.7, 0.05), (0.7, 0.95)]],
    "e": [np.concatenate([[(0.22, 0.6)], arc(0.5, 0.58, 0.28, 0.3, 0, -310)])],
    "f": [np.concatenate([arc(0.68, 0.22, 0.17, 0.17, -30, -180), [(0.5, 0.95)]]), [(0.3, 0.45), (0.72, 0.45)]],
    "h": [[(0.28, 0.05), (0.28, 0.95)], np.concatenate([arc(0.5, 0.62, 0.22, 0.2, 180, 360), [(0.72, 0.95)]])],
    "k": [[(0.3, 0.05), (0.3, 0.95)], [(0.68, 0.4), (0.32, 0.68), (0.72, 0.95)]],
    "m": [
        [(0.15, 0.3), (0.15, 0.92)],
        *[np.concatenate([arc(x, 0.5, 0.16, 0.2, 180, 360), [(x + 0.16, 0.92)]]) for x in (0.31, 0.64)],
    ],
    "n": [[(0.25, 0.3), (0.25, 0.92)], np.concatenate([arc(0.5, 0.55, 0.25, 0.24, 180, 360), [(0.75, 0.92)]])],
    "p": [[(0.28, 0.2), (0.28, 0.98)], arc(0.5, 0.42, 0.23, 0.24, -180, 180)],
    "r": [[(0.35, 0.25), (0.35, 0.95)], arc(0.57, 0.5, 0.22, 0.22, 180, 300)],
    "t": [np.concatenate([[(0.48, 0.08)], arc(0.62, 0.8, 0.14, 0.14, 180, 20)]), [(0.25, 0.35), (0.75, 0.35)]],
    "u": [np.concatenate([[(0.22, 0.25)], arc(0.47, 0.65, 0.25, 0.26, 180, 0)]), [(0.73, 0.25), (0.73, 0.93)]],
    "y": [[(0.25, 0.2), (0.5, 0.58)], [(0.78, 0.2), (0.35, 0.98)]],
}
MARKS = {
    "?": [
        np.concatenate([arc(0.5, 0.28, 0.25, 0.23, -170, 70), [(0.5, 0.6), (0.5, 0.72)]]),
        [(0.5, 0.9), (0.51, 0.93)],
    ],
    "!": [[(0.5, 0.05), (0.5, 0.68)], [(0.5, 0.9), (0.51, 0.93)]],
    "#": [
        [(0.38, 0.1), (0.28, 0.9)],
        [(0.7, 0.1), (0.6, 0.9)],
        [(0.12, 0.38), (0.88, 0.38)],
        [(0.1, 0.66), (0.86, 0.66)],
    ],
    "+": [[(0.5, 0.12), (0.5, 0.88)], [(0.12, 0.5), (0.88, 0.5)]],
    "=": [[(0.15, 0.36), (0.85, 0.36)], [(0.15, 0.64), (0.85, 0.64)]],
    "@": [
        arc(0.5, 0.5, 0.14, 0.16, 0, 360),
        np.concatenate([[(0.65, 0.4), (0.68, 0.64)], arc(0.5, 0.5, 0.4, 0.42, 20, -300)]),
    ],
    "&": [[(0.85, 0.92), (0.3, 0.28), (0.45, 0.06), (0.6, 0.22), (0.2, 0.68), (0.4, 0.93), (0.8, 0.55)]],
    "*": [[(0.5, 0.1), (0.5, 0.9)], [(0.15, 0.3), (0.85, 0.7)], [(0.85, 0.3), (0.15, 0.7)]],
    "right": [[(0.05, 0.5), (0.92, 0.5)], [(0.65, 0.25), (0.94, 0.5), (0.65, 0.76)]],
    "up": [[(0.5, 0.95), (0.5, 0.06)], [(0.22, 0.36), (0.5, 0.05), (0.78, 0.36)]],
    "tick": [[(0.1, 0.55), (0.38, 0.88), (0.92, 0.1)]],
    "cross": [[(0.15, 0.15), (0.85, 0.85)], [(0.85, 0.15), (0.15, 0.85)]],
}
_LEAF = np.array([(0.5, 0.9), (0.5, 0.55)])
_TURNS = np.linspace(0, 6 * np.pi, 90)
_TIPS = np.radians(np.arange(-90, 631, 144))

DRAWINGS = {
    "house": [
        [(0.2, 0.95), (0.2, 0.45), (0.5, 0.1), (0.8, 0.45), (0.8, 0.95), (0.2, 0.95)],
        [(0.15, 0.45), (0.85, 0.45)],
        [(0.42, 0.95), (0.42, 0.65), (0.58, 0.65), (0.58, 0.95)],
    ],
    "face": [
        arc(0.5, 0.5, 0.42, 0.45, 0, 360),
        arc(0.35, 0.38, 0.05, 0.05, 0, 360),
        arc(0.65, 0.38, 0.05, 0.05, 0, 360),
        arc(0.5, 0.55, 0.22, 0.2, 20, 160),
        [(0.5, 0.42), (0.46, 0.56), (0.53, 0.57)],
    ],
    "tree": [
        [(0.45, 0.95), (0.45, 0.6)],
        [(0.55, 0.95), (0.55, 0.6)],
        arc(0.3, 0.45, 0.2, 0.18, 60, 280),
        arc(0.5, 0.25, 0.22, 0.18, 190, 360),
        arc(0.7, 0.45, 0.2, 0.18, -100, 120),
    ],
    "star": [np.stack([0.5 + 0.45 * np.cos(_TIPS), 0.52 + 0.45 * np.sin(_TIPS)], axis=1)],
    "heart": [
        arc(0.3, 0.32, 0.2, 0.22, 150, 360),
        arc(0.7, 0.32, 0.2, 0.22, 180, 390),
        [(0.12, 0.42), (0.5, 0.93), (0.88, 0.42)],
    ],
    "arrow": [[(0.05, 0.5), (0.95, 0.5)], [(0.65, 0.25), (0.95, 0.5), (0.65, 0.75)]],
    "fish": [
        arc(0.42, 0.5, 0.34, 0.2, 30, 330),
        [(0.71, 0.4), (0.95, 0.68), (0.95, 0.32), (0.71, 0.6)],
        arc(0.22, 0.45, 0.03, 0.03, 0, 360),
    ],
    "sun": [
        arc(0.5, 0.5, 0.2, 0.2, 0, 360),
        *[
            [(0.5 + 0.27 * np.cos(a), 0.5 + 0.27 * np.sin(a)), (0.5 + 0.45 * np.cos(a), 0.5 + 0.45 * np.sin(a))]
            for a in np.radians(np.arange(0, 360, 45))
        ],
    ],
    "spiral": [np.stack([0.5 + 0.024 * _TURNS * np.cos(_TURNS), 0.5 + 0.024 * _TURNS * np.sin(_TURNS)], axis=1)],
    "flower": [
        _LEAF,
        arc(0.5, 0.3, 0.07, 0.07, 0, 360),
        *[
            arc(0.5 + 0.17 * np.cos(a), 0.3 + 0.17 * np.sin(a), 0.1, 0.1, 0, 360)
            for a in np.radians(np.arange(0, 360, 72))
        ],
    ],
    "boat": [
        [(0.1, 0.65), (0.25, 0.9), (0.75, 0.9), (0.9, 0.65), (0.1, 0.65)],
        [(0.5, 0.65), (0.5, 0.08), (0.82, 0.55), (0.5, 0.55)],
    ],
    "ladder": [
        [(0.35, 0.05), (0.3, 0.95)],
        [(0.65, 0.05), (0.7, 0.95)],
        *[[(0.34, y), (0.66, y)] for y in (0.2, 0.4, 0.6, 0.8)],
    ],
}


def drawn(strokes, size: int, rng: np.random.Generator) -> np.ndarray:
    """Polylines of the unit square by a round pen, shaken and turned a little: a matte float32 [size, size]."""
    turn, width = np.radians(rng.uniform(-10, 10)), rng.uniform(0.02, 0.09)
    stretch = np.diag(rng.uniform(0.75, 1.1, 2)) @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    canvas = np.zeros((size, size), np.uint8)
    for stroke in strokes:
        way = (np.asarray(stroke) + rng.normal(0, 0.008, np.shape(stroke)) - 0.5) @ stretch.T * 0.8 + 0.5
        points = np.rint(way * size * 16).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, max(1, round(width * size)), cv2.LINE_AA, shift=4)
    return canvas.astype(np.float32) / 255


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib; size in pixels."""
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


def typeset(lines: list[str], height: int, width: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of text from the upper left, in one of eight fonts: a matte [height, width]."""
    step, left = size * rng.uniform(1.15, 1.7), width * rng.uniform(0.02, 0.1)
    sheet = Image.new("L", (width, height))
    face = font(FONTS[int(rng.integers(len(FONTS)))], size)
    for row, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((left, 0.3 * size + row * step), line, 255, face)
    return np.asarray(sheet, np.float32) / 255


def finished(matte: np.ndarray, rng: np.random.Generator) -> bytes:
    """A matte as the file people would send: drawn on white, on black, in colours, or photographed."""
    look = int(rng.integers(4))
    if look == 0:
        return encoded(to_uint8(255 - rng.uniform(180, 255) * matte))
    if look == 1:
        return encoded(to_uint8(rng.uniform(180, 255) * matte))
    if look == 2:
        return encoded(to_uint8(painted(matte, rng.uniform(0, 110, 3), rng.uniform(180, 255, 3))))
    height, width = matte.shape
    picture = painted(matte, rng.uniform(10, 80, 3), rng.uniform(200, 245)) * uneven_light(height, width, rng)
    picture += rng.normal(0, rng.uniform(1, 5), (height, width, 1))
    return encoded(to_uint8(picture), "JPEG", quality=int(rng.integers(50, 95)))


def sides(rng: np.random.Generator, low: int = 120, high: int = 420) -> tuple[int, int]:
    """Height and width of a picture, in pixels."""
    height = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
    return height, int(height * rng.uniform(0.7, 1.4))


def page(rng) -> bytes:
    """A page of text: many lines, from fine print to a headline."""
    height, width = sides(rng, 260)
    size = int(rng.integers(10, 13 + height // 12))
    lines = [" ".join(rng.choice(WORDS, 14)) for _ in range(height // size)]
    return finished(typeset(lines, height, width, size, rng), rng)


def words(rng) -> bytes:
    """A word or a few, as on a label."""
    height, width = sides(rng)
    lines = [" ".join(rng.choice([word for word in WORDS if len(word) > 2], 2)) for _ in range(int(rng.integers(1, 4)))]
    return finished(typeset(lines, height, width, max(12, min(height // 4, width // 7)), rng), rng)


def letter(rng) -> bytes:
    """One letter that looks like no digit, by hand or in a font."""
    if rng.random() < 0.5:
        return _placed(rng, LETTERS[rng.choice(list(LETTERS))])
    return _placed(rng, PRINTED[int(rng.integers(len(PRINTED)))])


def symbol(rng) -> bytes:
    """A question mark, a hash, an arrow and the like, by hand or in a font."""
    if rng.random() < 0.5:
        return _placed(rng, MARKS[rng.choice(list(MARKS))])
    if rng.random() < 0.5:
        return _placed(rng, SYMBOLS_STIX[int(rng.integers(len(SYMBOLS_STIX)))], "STIXGeneral")
    return _placed(rng, SYMBOLS[int(rng.integers(len(SYMBOLS)))])


def _placed(rng, shape, name: str = "") -> bytes:
    """Strokes, or a character in a font, somewhere on a sheet."""
    height, width = sides(rng)
    size = int(min(height, width) * rng.uniform(0.5, 1))
    if not isinstance(shape, str):
        return finished(on_sheet(drawn(shape, size, rng), height, width, rng, 0.6), rng)
    sheet, face = Image.new("L", (size, size)), font(name or str(rng.choice(FONTS)), max(8, int(size * 0.8)))
    ImageDraw.Draw(sheet).text((size / 2, size / 2), shape, 255, face, anchor="mm")
    return finished(on_sheet(np.asarray(sheet, np.float32) / 255, height, width, rng, 0.6), rng)


def several(rng) -> bytes:
    """Two or three digits, MNIST's test images or drawn: side by side, one above the other, or over each other."""
    size, count, look = int(rng.integers(60, 160)), 2 + int(rng.random() < 0.3), rng.random()
    images, _ = test_images()
    mattes = [
        matte_of(images[int(rng.integers(len(images)))], size, rng.uniform(-0.2, 0.4))
        if rng.random() < 0.7
        else matte_by_hand(int(rng.integers(10)), size, rng)
        for _ in range(count)
    ]
    step = size * rng.uniform(0.55, 1.0) if look < 0.85 else size * rng.uniform(0.2, 0.4)
    along = round(size + step * (count - 1))
    sheet = np.zeros((along, round(1.25 * size)) if look < 0.25 else (round(1.25 * size), along), np.float32)
    for place, matte in enumerate(mattes):
        at, off = round(place * step), int(rng.integers(0, size // 4))
        top, left = (at, off) if look < 0.25 else (off, at)
        box = sheet[top : top + size, left : left + size]
        np.maximum(box, matte[: box.shape[0], : box.shape[1]], out=box)
    return finished(np.pad(sheet, int(rng.integers(4, 60))), rng)


test_images = cache(mnist_test)


def drawing(rng) -> bytes:
    """A doodle: a house, a face, a tree, a star and the like."""
    height, width = sides(rng)
    strokes = DRAWINGS[rng.choice(list(DRAWINGS))]
    matte = drawn(strokes, int(min(height, width) * rng.uniform(0.5, 1)), rng)
    return finished(on_sheet(matte, height, width, rng), rng)


def noise(rng) -> bytes:
    """White, smoothed, or salt and pepper; grey or coloured."""
    height, width = sides(rng, 28)
    channels = 1 if rng.random() < 0.6 else 3
    look = int(rng.integers(3))
    if look == 2:
        share = rng.uniform(0.01, 0.2)
        toss = rng.random((height, width))
        return encoded(to_uint8(np.where(toss < share, 0, np.where(toss > 1 - share, 255, 128))))
    values = rng.normal(0, 1, (height, width, channels)).astype(np.float32)
    if look == 1:
        reach = float(np.exp(rng.uniform(0, np.log(height / 8))))
        values = cv2.GaussianBlur(values, (0, 0), reach).reshape(values.shape)
    values = 128 + values * (rng.uniform(20, 60) / values.std())
    return encoded(to_uint8(values[:, :, 0] if channels == 1 else values))


def texture(rng) -> bytes:
    """Stripes, checks, wood, cloth, bricks, or the grain of paper with a shadow on it."""
    height, width = sides(rng)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn, step = rng.uniform(0, np.pi), rng.uniform(0.04, 0.25) * min(height, width)
    along, across = (np.cos(turn) * x + np.sin(turn) * y) / step, (np.cos(turn) * y - np.sin(turn) * x) / step
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), rng.uniform(0.5, 3))
    grain /= grain.std()
    look = int(rng.integers(6))
    if look == 0:
        matte = (along % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)
    elif look == 1:
        matte = ((along % 1 < 0.5) ^ (across % 1 < 0.5)).astype(np.float32)
    elif look == 2:
        bend = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), min(height, width) / 6)
        matte = 0.5 + 0.4 * np.sin(2 * np.pi * (along + 0.6 * bend / bend.std() + 0.02 * across)) + 0.08 * grain
    elif look == 3:
        matte = 0.5 + 0.25 * np.sin(8 * np.pi * along) + 0.25 * np.sin(8 * np.pi * across) + 0.05 * grain
    elif look == 4:
        row = np.floor(y / step)
        matte = ((y / step % 1 < 0.15) | ((x / (2 * step) + 0.5 * row) % 1 < 0.08)).astype(np.float32) + 0.08 * grain
    else:
        picture = 225 * uneven_light(height, width, rng, 0.8)[:, :, 0] + rng.uniform(2, 12) * grain
        return encoded(to_uint8(picture), "JPEG", quality=80)
    return finished(np.clip(matte, 0, 1), rng)


def scene(rng) -> bytes:
    """What an ordinary photo is made of: sky and hills, or soft shapes of any colour, or a mere gradient."""
    height, width = sides(rng)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    share = ((np.cos(turn) * x + np.sin(turn) * y) / 2.8 + 0.5)[:, :, None]
    picture = painted(share[:, :, 0], rng.uniform(0, 255, 3), rng.uniform(0, 255, 3))
    look = int(rng.integers(3))
    if look == 1:
        for level in np.linspace(rng.uniform(-0.3, 0.2), 0.8, int(rng.integers(2, 5))):
            high, often, since = rng.uniform((0.02, 1, 0), (0.15, 9, 6), (3, 3)).T
            ridge = level + high @ np.sin(np.outer(often, x[0]) + since[:, None])
            picture = painted((y > ridge).astype(np.float32), rng.uniform(0, 200, 3), picture)
    elif look == 2:
        for _ in range(int(rng.integers(4, 20))):
            (left, top), (wide, high) = rng.uniform(-1, 1, 2), rng.uniform(0.05, 0.6, 2)
            inside = 1 - ((x - left) / wide) ** 2 - ((y - top) / high) ** 2
            picture = painted(np.clip(0.5 + 2 * inside, 0, 1), rng.uniform(0, 255, 3), picture)
    picture = picture + cv2.GaussianBlur(rng.normal(0, 25, picture.shape).astype(np.float32), (0, 0), 1.5)
    return encoded(to_uint8(picture), "JPEG", quality=int(rng.integers(40, 95)))


KINDS: dict[str, Callable[..., bytes]] = {
    kind.__name__: kind for kind in (page, words, letter, drawing, noise, texture, scene, several, symbol)
}


def nondigits(count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` picture files without a digit, each with its kind; the kinds take turns."""
    rng, kinds = np.random.default_rng(seed), list(KINDS)
    return [(kinds[i % len(kinds)], KINDS[kinds[i % len(kinds)]](rng)) for i in range(count)]
