"""Printed letters, signs, words and pages, for a digit network to learn doubt from.

The faces are DejaVu's, which come with matplotlib, and OpenCV's plotter letters. Characters that could be a digit are
left out, those of other scripts too.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.datasets.strokes import Plane, Rng

LETTERS = "ACDEFHJKLMNPQRTUVWXYacdefhijkmnprtuvwxy"
SIGNS = "?!#&@+=<>%*$€£¥§¶†‡~^{}√∑∏∫∞≈≠×÷←↑→↓↔⇒⇔♠♣♥♦★☆☺☂☎✓✗✂♪♫¿¡©®™∂∇≡∈∀∃■▲▼◆"
SCRIPTS = (
    "ΓΔΛΞΠΣΦΨΩαγηλμνπτυφχψωДЖИЙЛФЦШЩЪЫЮЯджийлмнптфцшщъыюяאבגדחטכלמנעפצקרשתجحخدسشصضطظعغفقكلني"
    "ԱԲԳԴԵԺԽԾԿՃՄՇՌՓՖაბგდევზთკლმნპრსტფქღყშჩცძწჭხჯჰ"
)
_FACES = ("Sans", "Sans-Bold", "Sans-Oblique", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold", "Serif-Italic")
_PLOTTER = (
    *(cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX),
    *(cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX),
)
_LATIN = "aaabccddeeeeefghiiijklmnnnooopqrrrssstttuuvwxyzAEHIMNRSTW"


def letter(rng: Rng) -> Plane:
    """One letter, sheared, turned and stretched, with a fine, usual or heavy pen."""
    text = LETTERS[rng.integers(len(LETTERS))]
    return _bent(_plotted(text, rng) if rng.random() < 0.5 else _printed([text], 64, 0, rng), rng)


def sign(rng: Rng) -> Plane:
    """One sign or letter of another script."""
    if rng.random() < 0.25:
        return _bent(_plotted("?!#&@+=<>%*$^~{}"[rng.integers(16)], rng), rng)
    text = SIGNS if rng.random() < 0.6 else SCRIPTS
    return _bent(_printed([text[rng.integers(len(text))]], 64, 0, rng), rng)


def word(rng: Rng) -> Plane:
    """Two to six letters of a word, now and then with a neighbour or a second line."""
    lines = [_text(int(rng.integers(2, 7)), rng) for _ in range(1 if rng.random() < 0.8 else 2)]
    return _bent(_printed(lines, int(rng.integers(24, 40)), rng.uniform(0, 0.3), rng), rng)


def page(rng: Rng) -> Plane:
    """Several lines of text, so small that a digit's frame hardly shows their letters."""
    lines = [_text(int(rng.integers(8, 30)), rng) for _ in range(int(rng.integers(2, 9)))]
    return _printed(lines, int(rng.integers(12, 20)), rng.uniform(0, 0.5), rng)


def _text(length: int, rng: Rng) -> str:
    letters = [_LATIN[place] for place in rng.integers(len(_LATIN), size=length)]
    if length > 6:
        for place in rng.integers(1, length - 1, length // 6):
            letters[place] = " "
    return "".join(letters)


@functools.cache
def _face(name: str, size: int) -> ImageFont.FreeTypeFont:
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("matplotlib, whose fonts are read, is not installed")
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data/fonts/ttf" / f"DejaVu{name}.ttf", size)


def _printed(lines: list[str], size: int, leading: float, rng: Rng) -> Plane:
    name = "Sans" if lines[0][0] in SIGNS or lines[0][0] in SCRIPTS else _FACES[rng.integers(len(_FACES))]
    face, gap = _face(name, size), round(size * leading)
    left, top, right, low = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox(
        (0, 0), "\n".join(lines), face, spacing=gap
    )
    sheet = Image.new("L", (max(8, round(right - left) + 8), max(8, round(low - top) + 8)))
    ImageDraw.Draw(sheet).multiline_text((4 - left, 4 - top), "\n".join(lines), 255, face, spacing=gap)
    return np.asarray(sheet, np.uint8)


def _plotted(text: str, rng: Rng) -> Plane:
    sheet = np.zeros((110, 110), np.uint8)
    face = _PLOTTER[rng.integers(len(_PLOTTER))]
    scale = 5.0 if face == cv2.FONT_HERSHEY_PLAIN else 2.2
    pen = int(rng.integers(2, 14)) if face in _PLOTTER[:2] else int(rng.integers(2, 6))
    cv2.putText(sheet, text, (30, 78), face, scale, 255, pen, cv2.LINE_AA)
    return sheet


def _bent(sheet: Plane, rng: Rng) -> Plane:
    """Sheared, turned and stretched on a larger sheet, and by a thinner or heavier pen."""
    high, wide = sheet.shape
    turn, stretch = rng.normal(0, 0.1), float(np.exp(rng.normal(0, 0.15)))
    shape = np.array([[stretch, rng.normal(-0.08, 0.15)], [0, 1]]) @ [
        [np.cos(turn), -np.sin(turn)],
        [np.sin(turn), np.cos(turn)],
    ]
    side = round(1.5 * max(high, wide))
    move = side / 2 - shape @ [wide / 2, high / 2]
    bent = cv2.warpAffine(sheet, np.column_stack([shape, move]), (side, side), flags=cv2.INTER_LINEAR)
    reach = int(rng.integers(-1, 4))
    if reach > 0:
        bent = cv2.dilate(bent, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    return cast("Plane", bent)
