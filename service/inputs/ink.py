"""Ink from paper: a picture of one digit becomes its drawing alone, ink bright on black.

Knows nothing of files or of the 28x28 frame. Four steps: one plane along the colour that tells ink from paper,
polarity, even light, and a threshold that keeps soft edges. Which marks are the digit is for `marks` to say.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from service.inputs import marks

Plane = NDArray[np.float32]
Picture = TypeVar("Picture", NDArray[np.uint8], NDArray[np.float32])

_SMALL = 96
# Ink must stand out from paper by this many of 255 levels and by this many times the paper's own grain.
_LEAST_CONTRAST = 6.0
_LEAST_GRAINS = 6.0
_COARSE, _FINE = 19, 48


class Drawing(NamedTuple):
    """The ink of one digit, float32 [h, w], 0..1, and the marks among which it was chosen."""

    ink: Plane
    marks: marks.Marks


def find(picture: NDArray[np.uint8]) -> Drawing | None:
    """Picture [h, w] or [h, w, 3] to its ink without dirt and lines; None where nothing stands out."""
    if picture.min() == picture.max():
        return None
    plane = _even(_bright_ink(_sheet_only(_one_plane(picture))))
    # So few pixels hold no paper without a stroke's soft edge.
    grain = _grain(_sample(plane)) if max(plane.shape) > _COARSE else 0.0
    tiny = max(plane.shape) < _FINE
    if tiny:
        # Enlarged before the threshold, strokes get smooth edges and not the outlines of single pixels.
        scale = -(-_FINE // max(plane.shape))
        size = plane.shape[1] * scale, plane.shape[0] * scale
        plane = cast("Plane", cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC))
    standing_out = plane[plane > max(_LEAST_CONTRAST, _LEAST_GRAINS * grain)]
    if not standing_out.size:
        return None
    # The few darkest tell the pen from fainter lines, however many; their median is safe from a lone bright spot.
    level = float(np.percentile(standing_out, 99))
    level = float(np.median(standing_out[standing_out >= 0.7 * level]))
    strokes, found = marks.digit(plane, max((0.3 if tiny else 0.45) * level, 4 * grain))
    if not tiny and strokes.any() and float(np.median(plane[strokes])) < 0.62 * level:
        # Most of it is fainter than the pen: the paper's ruling clings to the digit.
        strokes, found = marks.digit(plane, max(0.7 * level, 4 * grain))
    if not strokes.any():
        return None
    soft = np.clip((plane - 0.2 * level) / (0.7 * level), 0, 1)
    # One pixel around the strokes holds their soft edge; beyond it there are only lines and grain.
    near = cv2.dilate(strokes.view(np.uint8), np.ones((3, 3), np.uint8))
    return Drawing(soft * near, found)


def _one_plane(picture: NDArray[np.uint8]) -> Plane:
    """Grey as it is; colours along the axis on which fine detail differs most, so that hue alone can carry the ink."""
    if picture.ndim == 2:
        return picture.astype(np.float32)
    small = _small(picture)
    detail = (small.astype(np.float32) - _wide_median(small)).reshape(-1, 3)
    weighted = detail * (detail * detail).sum(axis=1, keepdims=True)
    axis = np.linalg.eigh(weighted.T @ detail)[1][:, -1]
    axis /= np.copysign(np.abs(axis).sum(), axis.sum())
    return cast("Plane", cv2.transform(picture.astype(np.float32), axis[None].astype(np.float32)))


def _sheet_only(plane: Plane) -> Plane:
    """Where a sheet lies on a table, or a scanner saw past it, what is not the sheet is painted as its paper."""
    reduced = _small(plane)
    small = _to_bytes(reduced)
    if min(small.shape) < 24:
        return plane
    light = cv2.threshold(small, 0, 255, cv2.THRESH_OTSU)[1] > 127
    edge = float(_edge(light).mean())
    sheet = _sheet(small, light if edge < 0.9 else ~light, 0.15 if abs(edge - 0.5) >= 0.4 else 0.3)
    if sheet is None or (abs(edge - 0.5) < 0.4 and not _has_table(small, light, sheet)):
        return plane
    inner = cv2.erode(sheet, np.ones((5, 5), np.uint8))
    paper = (inner * (light == (edge < 0.9))).astype(np.float32)
    # Paper beyond the sheet is as bright as the nearest of the sheet's own.
    shares = np.dstack([reduced * paper, paper])
    nearby = cv2.GaussianBlur(shares, (0, 0), 6) + 1e-3 * shares.mean(axis=(0, 1))
    height, width = plane.shape
    fill = cv2.resize(nearby[:, :, 0] / nearby[:, :, 1], (width, height), interpolation=cv2.INTER_LINEAR)
    kept = cv2.resize(inner, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.where(kept > 0, plane, fill)


def _sheet(small: NDArray[np.uint8], paper: NDArray[np.bool_], least: float) -> NDArray[np.uint8] | None:
    """The largest patch of paper [h, w], what is written on it filled in; None if it is no sheet.

    A sheet is four-cornered, covers at least this share and has little on it; a fat 0 is round or has a large hole.
    """
    contours, _ = cv2.findContours(paper.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    outline = max(contours, key=cv2.contourArea)
    _, sides, _ = cv2.minAreaRect(outline)
    sheet = cast("NDArray[np.uint8]", cv2.drawContours(np.zeros(paper.shape, np.uint8), [outline], -1, 1, cv2.FILLED))
    if sheet.mean() < least or sheet.sum() < 0.88 * (sides[0] + 1) * (sides[1] + 1):
        return None
    inner = cv2.erode(sheet, np.ones((5, 5), np.uint8)) > 0
    if not inner.any():
        return None
    marked = float((~paper)[inner].mean())
    if marked <= 0.002:
        # Beside a black table, grey ink counts as light.
        middle = float(np.median(small[inner]))
        depth = abs(middle - float(small[sheet == 0].mean())) if not sheet.all() else np.inf
        marked = float((np.abs(small[inner] - middle) > 0.25 * depth).mean())
    return sheet if 0.002 < marked < 0.35 else None


def _has_table(small: NDArray[np.uint8], light: NDArray[np.bool_], sheet: NDArray[np.uint8]) -> bool:
    """Whether what lies beyond the sheet fills a side of the picture and begins at once, as no shadow does."""
    table = ~light & (sheet == 0)
    if max(float(side.mean()) for side in (table[0], table[-1], table[:, 0], table[:, -1])) < 0.85:
        return False
    dark = table.view(np.uint8)
    beside, off, away = (cv2.dilate(dark, np.ones((n, n), np.uint8)) > 0 for n in (5, 9, 13))
    if not (away & ~off & light).any():
        return False
    paper = float(np.median(small[away & ~off & light]))
    fading = paper - float(np.median(small[beside & light]))
    return fading < 0.12 * (paper - float(np.median(small[table])))


def _bright_ink(plane: Plane) -> Plane:
    """Turn the plane so that ink is brighter than paper: ink departs from its surroundings more rarely and further."""
    small = _to_bytes(_small(plane))
    detail = small.astype(np.float32) - _wide_median(small)
    skew = float((detail**3).mean() / max(float((detail**2).mean()) ** 1.5, 1e-6))
    light = _two_tones(small)
    if light is not None:
        # Fat strokes may cover most of the picture: paper is then what lies along its edge, if there is enough of it.
        edge = float(_edge(light).mean())
        paper = light if edge > 0.5 else ~light
        sure = 0.25 if paper[[0, 0, -1, -1], [0, -1, 0, -1]].all() else 0.35
        if abs(skew) < 0.8 or (abs(edge - 0.5) > sure and paper.mean() > 0.25):
            skew = 0.5 - edge
    return plane if skew > 0 else -plane


def _even(plane: Plane) -> Plane:
    """Subtract the paper: a morphological opening wider than any stroke, smoothed, follows shade and vignetting."""
    small = _small(plane)
    if max(small.shape) < 48 or _bare(small):
        return plane - np.float32(np.median(plane[plane <= plane.mean()]))
    paper_class = _clear_paper(small)
    if paper_class is not None and _one_tone(paper_class, small):
        return plane - np.float32(np.median(paper_class))
    height, across = plane.shape
    width = round(0.3 * max(small.shape))
    around = _around_ink(small)
    if around is not None:
        rest = plane - cv2.resize(around, (across, height), interpolation=cv2.INTER_LINEAR)
        rest -= np.median(rest[rest <= rest.mean()])
        return cast("Plane", rest)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    calm = cv2.copyMakeBorder(cv2.medianBlur(small, 3), width, width, width, width, cv2.BORDER_REFLECT)
    opened = cv2.morphologyEx(calm, cv2.MORPH_OPEN, kernel)[width:-width, width:-width]
    paper = cv2.GaussianBlur(opened, (0, 0), width / 4)
    rest = cast("Plane", plane - cv2.resize(paper, (across, height), interpolation=cv2.INTER_LINEAR))
    rest -= np.median(_sample(rest))
    return rest


def _around_ink(small: Plane) -> Plane | None:
    """The paper [h, w] as the mean of what lies around fat strokes, which an opening would follow; None if a shadow.

    Strokes differ from a shadow in that they meet little of the picture's edge and are nowhere very wide.
    """
    light = _two_tones(_to_bytes(small))
    if light is None or light.mean() > 0.65 or _edge(light).mean() > 0.3:
        return None
    padded = cv2.copyMakeBorder(light.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    if cv2.distanceTransform(padded, cv2.DIST_L2, 3).max() > 0.25 * max(small.shape):
        return None
    clear = (cv2.dilate(light.view(np.uint8), np.ones((3, 3), np.uint8)) == 0).astype(np.float32)
    shares = np.dstack([small * clear, clear])
    nearby = cv2.GaussianBlur(shares, (0, 0), 0.15 * max(small.shape)) + 1e-3 * shares.mean(axis=(0, 1))
    return cast("Plane", nearby[:, :, 0] / nearby[:, :, 1])


def _bare(small: Plane) -> bool:
    """Whether the paper is of one level in every quarter, as in a digit that was cut out and enlarged softly."""
    lowest = small <= small.min() + 0.02 * np.ptp(small)
    top, left = small.shape[0] // 2, small.shape[1] // 2
    quarters = (part for half in (lowest[:top], lowest[top:]) for part in (half[:, :left], half[:, left:]))
    return all(int(part.sum()) > 0.03 * part.size for part in quarters)


def _one_tone(paper: Plane, small: Plane) -> bool:
    """Whether the paper is evenly lit and the rest, where it is the larger part, is ink and not paper in a shadow."""
    whole = float(np.ptp(small))
    if np.ptp(np.percentile(paper, (5, 75))) >= 0.05 * whole:
        return False
    rest = small[small > paper.max()]
    return rest.size < paper.size or bool(np.ptp(np.percentile(rest, (50, 95))) < 0.3 * whole)


def _grain(plane: Plane) -> float:
    """The paper's own unevenness, one standard deviation in levels."""
    paper = _clear_paper(plane)
    if paper is not None:
        return 1.48 * float(np.median(np.abs(paper - np.median(paper))))
    # In a tight crop soft strokes cover most; what is darkest then shows the paper. 0.97 is a bell curve's share.
    low, quarter = np.percentile(plane, (5, 25))
    return min(1.48 * float(np.median(np.abs(plane - np.median(plane)))), float(quarter - low) / 0.97)


def _clear_paper(plane: Plane) -> Plane | None:
    """The darker of two tones, ink being bright; None if there are more."""
    light = _two_tones(_to_bytes(plane))
    return None if light is None else plane[~light]


def _two_tones(picture: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Which pixels have the lighter of two tones; None unless two tones explain nearly all that differs."""
    light = cv2.threshold(picture, 0, 255, cv2.THRESH_OTSU)[1] > 127
    if light.all() or not light.any():
        return None
    share = float(light.mean())
    between = share * (1 - share) * float(picture[light].mean() - picture[~light].mean()) ** 2
    # A bell curve cut in two reaches 0.64, an even spread 0.75.
    return light if between > 0.85 * float(picture.var()) else None


def _sample(plane: Plane) -> Plane:
    """Every n-th row and column, enough pixels for a median."""
    step = max(1, max(plane.shape) // 256)
    return plane[::step, ::step]


def _to_bytes(plane: Plane) -> NDArray[np.uint8]:
    low, high = float(plane.min()), float(plane.max())
    return cast("NDArray[np.uint8]", np.rint((plane - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))


def _edge(picture: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _small(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = _SMALL / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cast("Picture", cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _wide_median(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Reflected, a frame along the edge stays the thin line it is.
    reach = max(1, round(0.3 * max(small.shape[:2])))
    padded = cv2.copyMakeBorder(small, reach, reach, reach, reach, cv2.BORDER_REFLECT)
    return cast("NDArray[np.uint8]", cv2.medianBlur(padded, 2 * reach + 1)[reach:-reach, reach:-reach])
