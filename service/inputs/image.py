"""Pictures to the digit model's rows: any picture file, base64 or pixel list becomes uint8 [28, 28], 255 is ink.

Owns the three forms a client may send. File formats are `decoder`, telling ink from paper is `ink`, the 28x28 frame is
`centre`.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, UnreadableBody
from service.inputs import centre, decoder, ink, png

IMAGE_TYPES: frozenset[str] = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff"}
)

Place = tuple[str | int, ...]
Pixels = NDArray[np.uint8]

_SIDE = 28
_FAULTS_SHOWN = 8
_PLAIN_BYTES = 2_048
"""More than a plain PNG of 28x28 pixels has, or its base64."""
_URLSAFE = str.maketrans("-_", "+/")


def from_bytes(data: bytes, *, max_pixels: int = 25_000_000) -> Pixels:
    """A picture file to uint8 [28, 28], 255 = ink; a picture in MNIST's form keeps every byte.

    Raises UnreadableBody (`unreadable_image`), InvalidInput (`image_too_large`, before any pixel is decoded,
    or `blank_image`). Of several frames or pages the first counts.
    """
    sent = decoder.read(data, max_pixels)
    ready = centre.as_is(sent)
    if ready is not None:
        return ready
    pixels = decoder.not_enlarged(sent)
    if pixels is not sent:
        ready = centre.as_is(pixels)
        if ready is not None:
            return ready
    drawing = ink.find(pixels)
    if drawing is None:
        raise _blank()
    return centre.fit(drawing)


def in_mnist_form(pictures: Sequence[bytes | str]) -> list[Pixels | None]:
    """For each file, or base64 of one, what `from_bytes` gives, if it is a plain PNG in MNIST's form; else None.

    Much faster for many at a time.
    """
    read = png.plain_of_mnist_size([_file(picture) if len(picture) <= _PLAIN_BYTES else b"" for picture in pictures])
    found = [pixels for pixels in read if pixels is not None]
    ready = iter(centre.as_are(found))
    return [None if pixels is None else next(ready) for pixels in read]


def _file(picture: bytes | str) -> bytes:
    """A file, or what base64 gives of one; nothing where it is none."""
    try:
        return picture if isinstance(picture, bytes) else _unbase64(picture)
    except UnreadableBody:
        return b""


def from_base64(text: str, *, max_pixels: int = 25_000_000, loc: Place = ("body", "image")) -> Pixels:
    """Base64 or a `data:` URL of a picture file to uint8 [28, 28]; either alphabet, padded or not, white space allowed.

    Every failure is InvalidInput at `loc`, with the code that `from_bytes` would give.
    """
    try:
        return from_bytes(_unbase64(text), max_pixels=max_pixels)
    except (UnreadableBody, InvalidInput) as error:
        raise InvalidInput(error.detail, code=error.code, errors=[(loc, error.detail)]) from None


def from_text(text: str, loc: Place) -> bytes:
    """The picture file in such a text, not decoded. InvalidInput at `loc` for what is no base64."""
    try:
        return _unbase64(text)
    except UnreadableBody as error:
        raise InvalidInput(error.detail, code=error.code, errors=[(loc, error.detail)]) from None


def from_pixels(value: object, *, loc: Place = ("body", "pixels")) -> Pixels:
    """A parsed JSON value, 28 rows of 28 integers 0..255, to uint8 [28, 28] as it is; an array is as good as lists.

    InvalidInput names the places at fault, the first eight of them; code `blank_image` if all pixels are equal.
    """
    pixels = value.astype(np.uint8) if _are_pixels(value, 2) else _pixels(_as_list(value), loc)
    if pixels.min() == pixels.max():
        raise _blank(loc)
    return pixels


def from_pixels_batch(value: object, *, loc: Place = ("body", "pixels")) -> Pixels:
    """A list of such grids to uint8 [n, 28, 28]; InvalidInput as for one, its places begin with the grid's index."""
    if _are_pixels(value, 3):
        grids = value.astype(np.uint8)
    else:
        listed = _as_list(value)
        if not isinstance(listed, list) or not listed:
            raise _not_pixels([(loc, "must be a list of at least one picture of 28 rows of 28 integers")])
        grids = np.stack([_pixels(grid, (*loc, index)) for index, grid in enumerate(listed)])
    flat = grids.reshape(len(grids), -1)
    blank = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
    if blank.size:
        raise _blank((*loc, int(blank[0])))
    return grids


def _are_pixels(value: object, axes: int) -> TypeGuard[NDArray[np.uint64]]:
    """Whether this is an array of whole pictures with that many axes."""
    return (
        isinstance(value, np.ndarray)
        and value.ndim == axes
        and value.shape[-2:] == (_SIDE, _SIDE)
        and int(value.max()) <= 255
    )


def _as_list(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _pixels(value: object, loc: Place) -> Pixels:
    if _is_grid(value):
        flat = list(chain.from_iterable(value))
        # bytearray() checks type and range faster than numpy, but takes true for 1: hence the count of types.
        if [*map(type, flat)].count(int) == len(flat):
            with suppress(ValueError):
                return np.frombuffer(bytearray(flat), np.uint8).reshape(_SIDE, _SIDE)
    raise _not_pixels(_faults(value, loc))


def _is_grid(value: object) -> TypeGuard[list[list[Any]]]:
    return (
        isinstance(value, list)
        and len(value) == _SIDE
        and {*map(type, value)} == {list}
        and {*map(len, value)} == {_SIDE}
    )


def _faults(value: object, loc: Place) -> list[tuple[Place, str]]:
    if not isinstance(value, list):
        return [(loc, f"must be {_SIDE} rows, not {_name(value)}")]
    if len(value) != _SIDE:
        return [(loc, f"must be {_SIDE} rows, not {len(value)}")]
    faults: list[tuple[Place, str]] = []
    for r, row in enumerate(value):
        if not isinstance(row, list):
            faults.append(((*loc, r), f"must be a row of {_SIDE} integers, not {_name(row)}"))
        elif len(row) != _SIDE:
            faults.append(((*loc, r), f"must be {_SIDE} integers, not {len(row)}"))
        else:
            faults += [
                ((*loc, r, c), f"must be an integer 0..255, not {_name(cell)}")
                for c, cell in enumerate(row)
                if type(cell) is not int or not 0 <= cell <= 255
            ]
        if len(faults) >= _FAULTS_SHOWN:
            break
    return faults[:_FAULTS_SHOWN]


def _name(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**12 else "a huge number"
    if isinstance(value, float):
        return str(value)
    if value is None:
        return "null"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _unbase64(text: str) -> bytes:
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise UnreadableBody("A data: URL must read data:image/png;base64,...", code="unreadable_image")
    text = "".join(text.split()).translate(_URLSAFE).rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        raise UnreadableBody("The text is not base64.", code="unreadable_image") from None


def _not_pixels(faults: list[tuple[Place, str]]) -> InvalidInput:
    place, message = faults[0]
    return InvalidInput(f"{'.'.join(map(str, place))} {message}.", errors=faults)


def _blank(loc: Place | None = None) -> InvalidInput:
    detail = "The picture has no ink: draw or photograph one digit that stands out from its background."
    return InvalidInput(detail, code="blank_image", errors=[(loc, detail)] if loc else [])
