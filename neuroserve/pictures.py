"""Pictures in any form a program has them in, as what goes over the wire. Loads Pillow only for its own images."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroserve.errors import UsageError

Picture = Any
"""A path, the bytes of a picture file, a PIL image, or an array (anything with `tolist`, or nested lists)."""

_SAVED_AS = {"HSV": "RGB", "La": "LA", "RGBa": "RGBA"}
"""The modes of PIL images that neither PNG nor TIFF can hold."""
_TYPES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
)


@dataclass(frozen=True)
class PictureFile:
    """A whole file and its media type."""

    data: bytes
    type: str


@dataclass(frozen=True)
class Pixels:
    """28 rows of 28 numbers; the service reads them as it would the same picture in a file, and takes 0..255 only."""

    rows: list[list[float]]


def picture(given: Picture) -> PictureFile | Pixels:
    """What is sent for a picture. UsageError for what is none, OSError for a file that cannot be read.

    An array of 28x28 numbers goes as pixels; integers 0..255 are expected, and the service says what is wrong with
    others. Any other array of uint8 ([height, width] grey, or with 1, 3 or 4 channels) goes as a PNG. Either way the
    service finds the ink, dark on light or light on dark.
    """
    if isinstance(given, bytes | bytearray | memoryview):
        return _file(bytes(given), "The bytes")
    if isinstance(given, str | os.PathLike):
        return _file(Path(given).read_bytes(), str(given))
    if hasattr(given, "save") and hasattr(given, "getexif"):
        return _from_image(given)
    return _from_array(given)


def _file(data: bytes, what: str) -> PictureFile:
    kind = next((kind for magic, kind in _TYPES if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise UsageError(f"{what}: not a picture file; PNG, JPEG, WebP, BMP, GIF and TIFF are taken.")
    return PictureFile(data, kind)


def _from_image(given: Any) -> PictureFile:
    """A PIL image, upright as its EXIF says; TIFF for the modes that PNG does not have."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(given)
    if upright.mode in _SAVED_AS:
        upright = upright.convert(_SAVED_AS[upright.mode])
    kind = "PNG" if upright.mode in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"} else "TIFF"
    with io.BytesIO() as written:
        upright.save(written, kind)
        return PictureFile(written.getvalue(), f"image/{kind.lower()}")


def _from_array(given: Any) -> PictureFile | Pixels:
    shape: tuple[int, ...] = getattr(given, "shape", ())
    if len(shape) == 3 and shape[2] == 1:  # one channel
        given = given.reshape(shape[:2])
    rows = given.tolist() if hasattr(given, "tolist") else given
    if _is_pixels(rows):
        return Pixels([[_whole(value) for value in row] for row in rows])
    if getattr(given, "dtype", None) != "uint8" or len(given.shape) not in {2, 3}:
        raise UsageError(
            "A picture is a path, the bytes of a file, a PIL image, 28x28 integers 0..255, or a uint8 "
            "array [height, width], [height, width, 3] or [height, width, 4]."
        )
    from PIL import Image

    try:
        return _from_image(Image.fromarray(given))
    except TypeError:
        raise UsageError(f"An array of shape {tuple(given.shape)} is no picture.") from None


def _is_pixels(rows: Any) -> bool:
    return (
        isinstance(rows, list | tuple)
        and len(rows) == 28
        and all(isinstance(row, list | tuple) and len(row) == 28 for row in rows)
        and all(type(value) in {int, float} for row in rows for value in row)
    )


def _whole(value: float) -> float:
    """A whole number as an integer, whatever type the array has."""
    return int(value) if value == value // 1 else value
