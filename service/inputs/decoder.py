"""Picture files to arrays: every format, mode, depth, orientation and transparency becomes uint8 [h, w] or [h, w, 3].

Sizes are refused from the header, before anything is decoded, and large pictures are made smaller while they are read.
Nothing but ServiceError comes out, whatever the bytes are.
"""

from __future__ import annotations

import ctypes
import io
import logging
import math
import struct
import warnings
import zlib
from functools import cache
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, ServiceError, UnreadableBody
from service.inputs import png, size

if TYPE_CHECKING:
    from PIL import Image

Pixels = NDArray[np.uint8]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# A digit needs far fewer pixels than a camera gives; this leaves ~100 px for one that fills a tenth of the picture.
_LONG_SIDE = 1024
_STRIP_PIXELS = 500_000
_TINY = 64
_LARGEST = 1e30
_PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_PNG_PACKED = {b"iCCP", b"zTXt"}
_ORIENTATION_TAG = 0x0112

# The service runs one decode per worker thread; a second pool inside OpenCV only fights with it.
cv2.setNumThreads(1)
# What is wrong with a picture is told to its sender; in the log it would be a way to fill it.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def read(data: bytes, max_pixels: int) -> Pixels:
    """The first picture in `data`, upright and opaque: uint8 [h, w] if grey, else [h, w, 3] RGB.

    At most 1,024 pixels a side: larger pictures are averaged down. Raises UnreadableBody or InvalidInput.
    """
    plain = png.plain(data, max_pixels)
    return _read_any(data, max_pixels) if plain is None else plain


def not_enlarged(pixels: Pixels) -> Pixels:
    """A tiny picture whose sender made each pixel a square block of equal ones, as it was; others as they are."""
    height, width = pixels.shape[:2]
    block = math.gcd(height, width)
    if max(height, width) > _TINY * block:
        return pixels
    for lines in (pixels, pixels.swapaxes(0, 1)):
        steps = np.flatnonzero((lines[1:] != lines[:-1]).any(axis=tuple(range(1, lines.ndim)))) + 1
        block = math.gcd(block, *steps.tolist())
    return pixels[::block, ::block] if block > 1 and max(height, width) <= _TINY * block else pixels


def _read_any(data: bytes, max_pixels: int) -> Pixels:
    from PIL import Image

    _silence_libtiff()
    data = _without_packed_text(data) if data.startswith(png.SIGNATURE) else data
    claim = size.claim(data)
    if claim.has_too_many_passes:
        raise InvalidInput(
            f"This JPEG has {claim.passes} scans; save it anew with fewer, or as PNG.", code="image_too_large"
        )
    _check_size(claim.pixels or 0, claim, max_pixels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # Pillow's readers raise whatever a broken file makes them trip over, from KeyError to struct.error.
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _check_size(image.width * image.height, claim, max_pixels)
                return _to_array(image)
        except ServiceError:
            raise
        except Image.DecompressionBombError:
            raise _too_large(max_pixels) from None
        except Exception:
            raise _unreadable() from None


@cache
def _silence_libtiff() -> None:
    """Keep libtiff, where it can be reached, from writing to standard error what it finds wrong with a file."""
    from PIL import _imaging

    library = ctypes.CDLL(_imaging.__file__)
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        install = getattr(library, name, None)
        if install is not None:
            install.restype, install.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            install(None)


def _without_packed_text(data: bytes) -> bytes:
    """A PNG without its compressed texts and colour profile, which would only be inflated to be thrown away.

    Refuses one that ends early or has a damaged chunk: Pillow would hand out what it got so far.
    """
    at, kind, kept = len(png.SIGNATURE), b"", [0]
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at) if at + 12 <= len(data) else (0, b"")
        end = at + 8 + length
        if not kind or end + 4 > len(data):
            raise _unreadable()
        if (
            kind in _PNG_CRITICAL
            and zlib.crc32(memoryview(data)[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]
        ):
            raise _unreadable()
        if kind in _PNG_PACKED or (kind == b"iTXt" and _is_packed(data[at + 8 : end])):
            kept += [at, end + 4]
        at = end + 4
    if len(kept) == 1:
        return data
    kept.append(len(data))
    return b"".join(data[start:stop] for start, stop in zip(kept[::2], kept[1::2], strict=True))


def _is_packed(text: bytes) -> bool:
    """Whether the content of an iTXt chunk is compressed, by the flag behind its keyword."""
    return text.partition(b"\0")[2][:1] != b"\0"


def _to_array(image: Image.Image) -> Pixels:
    image.draft(image.mode, _target(*image.size))
    image.load()
    turn = _orientation(image)
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return _turned(_to_8_bit(np.asarray(image)), turn)
    if image.has_transparency_data:
        return _turned(_opaque(_reduced(image, "RGBA", "RGBa")), turn)
    return _turned(_grey_if_equal(_reduced(image, "L" if image.mode in {"1", "L"} else "RGB")), turn)


def _target(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, _LONG_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _reduced(image: Image.Image, *modes: str) -> Pixels:
    """The picture converted to one mode after another, then averaged down where it is large.

    A large one goes in strips: Pillow lets no other thread run while it converts or averages.
    """
    factor = -(-max(image.size) // _LONG_SIDE)
    across, down = min(factor, image.width), min(factor, image.height)
    rows = image.height if factor == 1 else down * max(1, _STRIP_PIXELS // (image.width * down))
    strips = []
    for top in range(0, image.height, rows):
        strip = image if factor == 1 else image.crop((0, top, image.width, min(top + rows, image.height)))
        for mode in modes:
            strip = strip if strip.mode == mode else strip.convert(mode)
        strips.append(np.asarray(strip if factor == 1 else strip.reduce((across, min(down, strip.height)))))
    return strips[0] if factor == 1 else np.concatenate(strips)


def _orientation(image: Image.Image) -> int:
    # A broken EXIF block is no reason to refuse a picture that can be seen.
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Undo a camera's EXIF orientation (1..8), height and width first."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _to_8_bit(values: NDArray[np.generic]) -> Pixels:
    """Scale 16 and 32 bit and float samples to 0..255; the white level is the usual one that just holds the largest."""
    numbers = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    np.clip(numbers, -_LARGEST, _LARGEST, out=numbers)  # so that no difference of two is infinite
    low, high = float(numbers.min()), float(numbers.max())
    levels = (1.0, 255.0) if values.dtype.kind == "f" else (255.0, 1023.0, 4095.0, 65535.0)
    white = next((level for level in levels if low >= 0 and high <= level), None)
    if white is None or high < white / 64:
        numbers, white = numbers - low, max(high - low, 1e-30)
    height, width = numbers.shape
    if max(height, width) > _LONG_SIDE:
        numbers = cast("NDArray[np.float32]", cv2.resize(numbers, _target(width, height), interpolation=cv2.INTER_AREA))
    scaled: Pixels = np.rint(numbers * (255.0 / white)).astype(np.uint8)
    return scaled


def _grey_if_equal(pixels: Pixels) -> Pixels:
    """One channel where the three are equal, give or take what JPEG's colour space costs."""
    if pixels.ndim == 2:
        return pixels
    red, green, blue = cv2.split(pixels)
    if max(cv2.absdiff(red, green).max(), cv2.absdiff(green, blue).max()) > 3:
        return pixels
    return cast("Pixels", green)


def _opaque(premultiplied: Pixels) -> Pixels:
    """RGBa [h, w, 4] with colour already times alpha to an opaque picture in which ink still stands out.

    One colour everywhere: alpha is the drawing. Mostly opaque: the see-through part becomes paper. Else the strokes
    are coloured and lie on nothing: they get a white or a black sheet, whichever is further from them.
    """
    alpha = premultiplied[:, :, 3]
    if alpha.min() == 255:
        return _grey_if_equal(premultiplied[:, :, :3])
    seen = alpha > 127
    if not seen.any():
        return alpha
    share = alpha[:, :, None].astype(np.float32) / 255
    colours = premultiplied[seen][:, :3] / share[seen]
    mostly_opaque = seen.mean() > 0.5
    rare = 0.2 if mostly_opaque else 5
    low, middle, high = np.percentile(colours, (rare, 50, 100 - rare), axis=0)
    if (high - low).max() <= (16 if mostly_opaque else 48):
        return alpha
    sheet = middle if mostly_opaque else np.full(3, 0.0 if middle.mean() > 127 else 255.0)
    blended = premultiplied[:, :, :3] + (1 - share) * sheet
    return _grey_if_equal(np.clip(np.rint(blended), 0, 255).astype(np.uint8))


def _check_size(pixels: int, claim: size.Claim, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise _too_large(max_pixels)
    if claim.pixels is not None and pixels > claim.pixels:
        raise _unreadable()  # a second header contradicts the first


def _too_large(max_pixels: int) -> InvalidInput:
    return InvalidInput(f"The picture has more than {max_pixels:,} pixels; send a smaller one.", code="image_too_large")


def _unreadable() -> UnreadableBody:
    return UnreadableBody("This is no whole PNG, JPEG, WebP, BMP, GIF or TIFF picture.", code="unreadable_image")
