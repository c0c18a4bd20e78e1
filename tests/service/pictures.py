"""Realistic picture files of digits for tests: MNIST test images on paper, screens and walls, and digits drawn in code.

A matte is float32 [h, w], 0..1, 1 is ink. Every kind takes a maker of mattes, by their size, and a random generator,
and gives a file's bytes.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SQUARE = 28

# Digits as polylines in a unit square (x right, y down), curves as many short pieces; they share nothing with MNIST.


def arc(x, y, rx, ry, start, end):
    """Sixteen points of an ellipse from one angle to another, in degrees: [16, 2]."""
    angles = np.radians(np.linspace(start, end, 16))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


STROKES = {
    0: [arc(0.5, 0.5, 0.3, 0.45, -90, 270)],
    1: [np.array([[0.35, 0.2], [0.52, 0.05], [0.5, 0.95]])],
    2: [np.concatenate([arc(0.48, 0.3, 0.27, 0.25, 190, 370), [[0.62, 0.5], [0.2, 0.93], [0.82, 0.92]]])],
    3: [np.concatenate([arc(0.45, 0.28, 0.26, 0.22, 200, 440), arc(0.46, 0.71, 0.3, 0.24, -80, 150)])],
    4: [np.array([[0.55, 0.05], [0.17, 0.62], [0.85, 0.6]]), np.array([[0.64, 0.35], [0.62, 0.96]])],
    5: [np.concatenate([[[0.75, 0.07], [0.32, 0.08], [0.28, 0.45]], arc(0.47, 0.67, 0.27, 0.26, -110, 140)])],
    6: [np.concatenate([[[0.66, 0.05], [0.4, 0.3], [0.27, 0.6]], arc(0.5, 0.7, 0.24, 0.23, 180, -180)])],
    7: [np.array([[0.17, 0.1], [0.8, 0.08], [0.42, 0.95]])],
    8: [np.concatenate([arc(0.5, 0.28, 0.21, 0.21, 90, 450), arc(0.5, 0.72, 0.26, 0.24, -90, 270)])],
    9: [np.concatenate([arc(0.48, 0.3, 0.24, 0.23, 0, -360), [[0.72, 0.3], [0.68, 0.65], [0.58, 0.96]]])],
}


def mnist_test() -> tuple[np.ndarray, np.ndarray]:
    """MNIST's test images uint8 [10000, 28, 28] and labels uint8 [10000], from DATA_DIR; fails if absent."""
    folder = Path(os.environ.get("DATA_DIR", "")) / "mnist"
    names = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
    if not os.environ.get("DATA_DIR") or not all((folder / name).is_file() for name in names):
        raise AssertionError(f"set DATA_DIR to the folder that holds mnist/{names[0]} and mnist/{names[1]}")
    images, labels = (gzip.decompress((folder / name).read_bytes()) for name in names)
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, SQUARE, SQUARE),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options) -> bytes:
    """A picture file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def matte_of(image: np.ndarray, size: int, weight: float = 0.0) -> np.ndarray:
    """An MNIST image as smooth strokes [size, size]; `weight` -1..1 makes them thin or fat."""
    square = cv2.resize(image.astype(np.float32) / 255, (size, size), interpolation=cv2.INTER_CUBIC)
    square = cv2.GaussianBlur(square, (0, 0), max(0.3, size / 80))
    return np.clip((square - (0.45 - 0.3 * weight)) * max(4, size / 12) + 0.5, 0, 1).astype(np.float32)


def matte_by_hand(digit: int, size: int, rng: np.random.Generator, width: float | None = None) -> np.ndarray:
    """A digit drawn with a round pen [size, size], shaken, slanted and stretched; `width` is a share of the size."""
    width = rng.uniform(0.04, 0.12) if width is None else width
    slant, turn = rng.uniform(-0.15, 0.2), np.radians(rng.uniform(-8, 8))
    lean = np.array([[rng.uniform(0.8, 1.1), -slant], [0, 1]])
    shape = lean @ [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    canvas = np.zeros((size * 2, size * 2), np.uint8)
    for stroke in STROKES[digit]:
        way = (stroke + rng.normal(0, 0.008, stroke.shape) - 0.5) @ shape.T
        points = np.rint((way * 0.66 + 0.5) * size * 2 * 16).astype(np.int32)
        cv2.polylines(canvas, [points], False, 255, max(1, round(width * size * 2)), cv2.LINE_AA, shift=4)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


Matte = Callable[..., np.ndarray]


def on_sheet(matte: np.ndarray, height: int, width: int, rng: np.random.Generator, room: float = 1.0) -> np.ndarray:
    """The matte on an empty sheet [height, width], moved from the middle by up to `room` of the free space."""
    size = matte.shape[0]
    x = (width - size) / 2 * (1 + room * rng.uniform(-1, 1))
    y = (height - size) / 2 * (1 + room * rng.uniform(-1, 1))
    move = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return cv2.warpAffine(matte, move, (width, height), flags=cv2.INTER_LINEAR)


def painted(matte: np.ndarray, ink, paper) -> np.ndarray:
    """Ink of one colour over paper (a colour or a picture): float32 [h, w, 3]."""
    share = matte[:, :, None]
    return share * np.asarray(ink, np.float32) + (1 - share) * np.asarray(paper, np.float32)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Round and clip to bytes."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def uneven_light(height: int, width: int, rng: np.random.Generator, depth: float = 0.5) -> np.ndarray:
    """Lamp from one side, vignette and the soft edge of a shadow: float32 [h, w, 1], up to 1."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    light = 1 - depth * 0.5 * (along + 1) / 2 - 0.2 * depth * (x * x + y * y)
    if rng.random() < 0.4:
        edge = rng.uniform(-0.6, 0.6)
        light *= 1 - 0.5 * depth / (1 + np.exp(-(along - edge) * rng.uniform(10, 40)))
    return light[:, :, None]


def log_uniform(rng, low, high):
    """A size in pixels; doubling is as likely at any size."""
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def grain(rng: np.random.Generator, shape: tuple[int, ...], levels: float) -> np.ndarray:
    """Normal noise of that many grey levels, float32."""
    return rng.standard_normal(shape, np.float32) * np.float32(levels)


def photo(matte: Matte, rng, low=400, high=1200, **options) -> bytes:
    """A phone's photo: uneven light, paper grain, lens blur, sensor noise, JPEG."""
    height = log_uniform(rng, low, high)
    width = int(height * rng.uniform(0.7, 1.4))
    digit = matte(int(min(height, width) * rng.uniform(0.35, 0.9)))
    paper = rng.uniform(190, 245) - np.array([0, rng.uniform(0, 8), rng.uniform(0, 25)])
    ink = rng.uniform(10, 70, 3) + np.array([0, 0, rng.uniform(0, 60)])
    sheet = on_sheet(digit, height, width, rng, 0.8)
    fibres = cv2.resize(grain(rng, (height // 3, width // 3), 6), (width, height))[:, :, None]
    picture = painted(sheet, ink, paper) * uneven_light(height, width, rng) + fibres
    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, height / 400 + 0.7))
    picture += grain(rng, (height, width, 1), rng.uniform(1, 6))
    return encoded(to_uint8(picture), "JPEG", quality=int(rng.integers(60, 95)), **options)


def squared(matte: Matte, rng) -> bytes:
    """Pen on squared paper, a little turned."""
    height, width = int(rng.integers(300, 700)), int(rng.integers(300, 700))
    digit = matte(int(min(height, width) * rng.uniform(0.4, 0.8)))
    step, line = rng.uniform(0.05, 0.12) * height, max(1, round(height * rng.uniform(0.002, 0.004)))
    lines = np.zeros((height, width), np.uint8)
    tilt = rng.uniform(-0.03, 0.03)
    for at in np.arange(-0.2 * height, 1.2 * max(height, width), step):
        cv2.line(lines, (0, round(at)), (width, round(at + tilt * width)), 255, line, cv2.LINE_AA)
        cv2.line(lines, (round(at), 0), (round(at - tilt * height), height), 255, line, cv2.LINE_AA)
    paper = painted(lines / np.float32(255), [120, 160, 215], [248, 248, 244])
    picture = painted(on_sheet(digit, height, width, rng, 0.7), [25, 35, 120], paper)
    picture = cv2.GaussianBlur(picture * uneven_light(height, width, rng, 0.25), (0, 0), 0.8)
    return encoded(to_uint8(picture + grain(rng, (height, width, 1), 2)), "JPEG", quality=85)


def mouse(matte: Matte, rng) -> bytes:
    """A drawing program: hard black strokes on a big white canvas."""
    side = log_uniform(rng, 200, 1200)
    sheet = on_sheet(matte(int(side * rng.uniform(0.3, 0.95))), side, side, rng)
    return encoded(np.where(sheet > 0.5, 0, 255).astype(np.uint8))


def white_on_black(matte: Matte, rng) -> bytes:
    """Light on black, larger than MNIST."""
    side = log_uniform(rng, 32, 600)
    return encoded(to_uint8(255 * on_sheet(matte(int(side * rng.uniform(0.6, 1))), side, side, rng)))


def coloured(matte: Matte, rng) -> bytes:
    """Ink of one colour on paper of another, in any brightness, as PNG, WebP or palette GIF."""
    side = log_uniform(rng, 60, 700)
    while True:
        ink, paper = rng.uniform(0, 255, (2, 3))
        if np.linalg.norm(ink - paper) > 120:
            break
    picture = to_uint8(painted(on_sheet(matte(int(side * rng.uniform(0.5, 0.95))), side, side, rng), ink, paper))
    form = ("PNG", "WEBP", "GIF")[int(rng.integers(3))]
    return encoded(Image.fromarray(picture).quantize(64) if form == "GIF" else picture, form)


def transparent(matte: Matte, rng) -> bytes:
    """Ink of any colour, dark, light or bright, on nothing at all."""
    side = log_uniform(rng, 40, 700)
    sheet = on_sheet(matte(int(side * rng.uniform(0.5, 0.95))), side, side, rng)
    ink = ((0, 0, 0), (255, 255, 255), tuple(rng.integers(0, 256, 3)))[int(rng.integers(3))]
    pixels = np.dstack([np.broadcast_to(np.array(ink, np.uint8), (side, side, 3)), to_uint8(255 * sheet)])
    if rng.random() < 0.5:
        pixels[pixels[:, :, 3] == 0] = 0
    return encoded(np.ascontiguousarray(pixels))


def sticker(matte: Matte, rng) -> bytes:
    """A white or dark card with round, see-through corners."""
    side = log_uniform(rng, 60, 700)
    light = rng.random() < 0.5
    sheet = on_sheet(matte(int(side * rng.uniform(0.5, 0.8))), side, side, rng, 0.3)
    picture = to_uint8(painted(sheet, 20 if light else 250, 245 if light else 30) + np.zeros(3))
    card = np.zeros((side, side), np.uint8)
    cv2.circle(card, (side // 2, side // 2), int(side * 0.55), 255, -1, cv2.LINE_AA)
    return encoded(np.dstack([picture, card]))


def camera_turned(matte: Matte, rng) -> bytes:
    """A photo that lies on its side or back; EXIF says how to turn it."""
    orientation = int(rng.integers(2, 9))
    upright = Image.open(io.BytesIO(photo(matte, rng, 300, 700)))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(upright.transpose(Image.Transpose(undo)), "JPEG", quality=90, exif=exif)


def off_centre(matte: Matte, rng) -> bytes:
    """A small digit in a corner of a large sheet."""
    height, width = log_uniform(rng, 200, 1000), log_uniform(rng, 200, 1000)
    sheet = on_sheet(matte(int(min(height, width) * rng.uniform(0.2, 0.4))), height, width, rng)
    return encoded(to_uint8(255 - 230 * sheet))


def framed(matte: Matte, rng) -> bytes:
    """A frame along the edge or a little inside it."""
    side = log_uniform(rng, 100, 700)
    sheet = on_sheet(matte(int(side * rng.uniform(0.5, 0.75))), side, side, rng, 0.3)
    inset, line = int(side * rng.choice([0, 0.02, 0.05])), max(1, int(side * rng.uniform(0.005, 0.02)))
    picture = to_uint8(255 - 240 * sheet)
    edge = inset + line // 2
    cv2.rectangle(picture, (edge, edge), (side - 1 - edge, side - 1 - edge), 30, line)
    return encoded(picture)


def specked(matte: Matte, rng) -> bytes:
    """Specks of dirt around the digit."""
    side = log_uniform(rng, 100, 700)
    sheet = on_sheet(matte(int(side * rng.uniform(0.6, 0.8))), side, side, rng, 0.5)
    for _ in range(int(rng.integers(1, 8))):
        spot = rng.integers(0, side, 2)
        cv2.circle(sheet, (int(spot[0]), int(spot[1])), max(1, int(side * rng.uniform(0.002, 0.009))), 0.9, -1)
    return encoded(to_uint8(250 - 220 * sheet))


def tiny(matte: Matte, rng) -> bytes:
    """20 to 40 pixels in all."""
    side = int(rng.integers(20, 41))
    large = on_sheet(matte(int(side * 8 * rng.uniform(0.85, 1))), side * 8, side * 8, rng)
    sheet = cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA)
    return encoded(to_uint8(255 * (sheet if rng.random() < 0.3 else 1 - sheet)))


def huge(matte: Matte, rng) -> bytes:
    """A scan of 2,000 to 4,000 pixels a side."""
    height, width = (int(n) for n in rng.integers(2000, 4001, 2))
    sheet = on_sheet(matte(int(min(height, width) * rng.uniform(0.3, 0.9))), height, width, rng)
    return encoded(to_uint8(240 - 200 * sheet), "PNG", compress_level=1)


def chalk(matte: Matte, rng) -> bytes:
    """Chalk on an unevenly lit board."""
    height, width = int(rng.integers(300, 600)), int(rng.integers(300, 600))
    sheet = on_sheet(matte(int(min(height, width) * rng.uniform(0.4, 0.9))), height, width, rng, 0.8)
    sheet *= np.clip(cv2.GaussianBlur(0.85 + grain(rng, sheet.shape, 1.2), (0, 0), 2), 0.3, 1)
    picture = painted(sheet, [225, 225, 215], [45, 75, 60]) * uneven_light(height, width, rng)
    return encoded(to_uint8(picture + grain(rng, (height, width, 1), 5)), "JPEG", quality=80)


def pencil(matte: Matte, rng) -> bytes:
    """Faint grey on nearly white."""
    side = log_uniform(rng, 100, 800)
    sheet = on_sheet(matte(int(side * rng.uniform(0.5, 0.9))), side, side, rng)
    return encoded(to_uint8(235 - rng.uniform(30, 70) * sheet + grain(rng, sheet.shape, 2)))


KINDS: dict[str, Callable[..., bytes]] = {
    kind.__name__: kind
    for kind in (
        photo,
        squared,
        mouse,
        white_on_black,
        coloured,
        transparent,
        sticker,
        camera_turned,
        off_centre,
        framed,
        specked,
        tiny,
        huge,
        chalk,
        pencil,
    )
}
