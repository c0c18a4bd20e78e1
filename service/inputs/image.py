"""Pictures to the digit model's rows: any picture file, base64 or pixel list becomes uint8 [28, 28], 255 is ink.

Owns the three forms a client may send, and the one rule by which all of them are read: `read_picture`. File formats are
`decoder`, telling ink from paper is `ink`, the 28x28 frame is `centre`.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, UnreadableBody
from service.inputs import centre, decoder, ink, png, several

IMAGE_TYPES: frozenset[str] = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif", "image/tiff"}
)

Place = tuple[str | int, ...]
Pixels = NDArray[np.uint8]

_SIDE = 28
_FAULTS_SHOWN = 8
_SCALES = (1, 3, 7, 10, 15, 16)
"""Largest values of the small scales that people keep pictures in; a picture that stays below the last is refused."""
_PLAIN_BYTES = 2_048
"""More than a plain PNG of 28x28 pixels has, or its base64."""
_URLSAFE = str.maketrans("-_", "+/")


class Reading(NamedTuple):
    """What the model gets of a picture, uint8 [28, 28], and the probability that it shows no single digit.

    That is judged by the marks that are not among the pixels; 0 for a picture in MNIST's form.
    """

    pixels: Pixels
    no_digit: float = 0.0


def from_bytes(data: bytes, *, max_pixels: int = 25_000_000) -> Pixels:
    """A picture file to uint8 [28, 28], 255 = ink; a picture in MNIST's form keeps every byte.

    Raises UnreadableBody (`unreadable_image`), InvalidInput (`image_too_large`, before any pixel is decoded,
    `blank_image` or `invalid_scale`). Of several frames or pages the first counts.
    """
    return read_file(data, max_pixels=max_pixels).pixels


def read_file(data: bytes, *, max_pixels: int = 25_000_000) -> Reading:
    """The same with what is known of the marks around the digit."""
    return read_picture(decoder.read(data, max_pixels))


def read_picture(sent: Pixels) -> Reading:
    """The one rule for scale and polarity: uint8 [h, w] or [h, w, 3], 0..255, as it was sent in whatever form.

    MNIST's form, or its negative, stays byte for byte. Everything else has its ink found, dark on light or light on
    dark, stretched to full contrast and centred. InvalidInput `blank_image` without ink; `invalid_scale` where no value
    is above 16, as in a mask of 0 and 1.
    """
    ready = centre.as_is(sent)
    if ready is not None:
        return Reading(ready)
    largest = int(sent.max())
    if largest <= _SCALES[-1] and largest > int(sent.min()):
        raise _small_scale(largest)
    pixels = decoder.not_enlarged(sent)
    if pixels is not sent:
        ready = centre.as_is(pixels)
        if ready is not None:
            return Reading(ready)
    drawing = ink.find(pixels)
    if drawing is None:
        raise _blank()
    return Reading(centre.fit(drawing.ink), several.probability(drawing.marks))


def in_mnist_form(pictures: Sequence[bytes | Pixels]) -> list[Pixels | None]:
    """For each plain PNG, or grid [28, 28], what it is read as, if it has MNIST's form; else None.

    Much faster for many at a time.
    """
    files = [each if type(each) is bytes and len(each) <= _PLAIN_BYTES else b"" for each in pictures]
    read = png.plain_of_mnist_size(files)
    if any(type(each) is not bytes for each in pictures):
        read = [each if isinstance(each, np.ndarray) else pixels for each, pixels in zip(pictures, read, strict=True)]
    found = [pixels for pixels in read if pixels is not None]
    ready = iter(centre.as_are(found))
    return [None if pixels is None else next(ready) for pixels in read]


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
    """A parsed JSON value, 28 rows of 28 integers 0..255, as uint8 [28, 28] as they are: `read_picture` reads them.

    An array is as good as lists. InvalidInput: `invalid_input` names the places at fault, the first eight of them;
    `invalid_scale` for numbers of a smaller scale; `blank_image` if all are equal.
    """
    pixels = value.astype(np.uint8) if _are_pixels(value, 2) else _pixels(_as_list(value), loc)
    _check_levels(int(pixels.max()), int(pixels.min()), loc)
    return pixels


def from_pixels_batch(value: object, *, loc: Place = ("body", "pixels")) -> Pixels:
    """A list of such grids as uint8 [n, 28, 28]; InvalidInput as for one, its places begin with the grid's index."""
    if _are_pixels(value, 3):
        found = value.astype(np.uint8)
    else:
        listed = _as_list(value)
        if not isinstance(listed, list) or not listed:
            raise _not_pixels([(loc, "must be a list of at least one picture of 28 rows of 28 integers")])
        found = np.stack([_pixels(each, (*loc, index)) for index, each in enumerate(listed)])
    flat = found.reshape(len(found), -1)
    for index, (most, least) in enumerate(zip(flat.max(axis=1).tolist(), flat.min(axis=1).tolist(), strict=True)):
        _check_levels(most, least, (*loc, index))
    return found


def _check_levels(most: int, least: int, loc: Place) -> None:
    """Refuse a grid of one level or of a small scale."""
    if most == least:
        raise _blank(loc)
    if most <= _SCALES[-1]:
        raise _small_scale(most, loc)


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
        _check_numbers(flat, loc)
    raise _not_pixels(_faults(value, loc))


def _check_numbers(flat: list[Any], loc: Place) -> None:
    """Say what is wrong with fractions or negative numbers as a whole, where they are a scale of their own."""
    if float not in {*map(type, flat)} or any(type(each) not in {int, float} or not abs(each) < 1e6 for each in flat):
        return
    least, most = min(flat), max(flat)
    if 0 <= least < most <= _SCALES[-1]:
        raise _small_scale(most, loc)
    if -_SCALES[-1] <= least < 0 and most <= _SCALES[-1]:
        detail = (
            f"The values lie between {least:.3g} and {most:.3g}, as if they were normalised; integers 0..255 are "
            "expected, 255 is ink. Send the picture as it was before."
        )
        raise InvalidInput(detail, code="invalid_scale", errors=[(loc, detail)])


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


def _small_scale(most: float, loc: Place | None = None) -> InvalidInput:
    scale = next(level for level in _SCALES if most <= level)
    factor = "255" if scale == 1 else f"255/{scale}"
    detail = (
        f"No value is above {most:g}: they look like a 0..{scale} scale, and 0..255 is expected, 255 is ink. Multiply "
        f"them by {factor}; a photo as dark as that needs more light."
    )
    return InvalidInput(detail, code="invalid_scale", errors=[(loc, detail)] if loc else [])


def _blank(loc: Place | None = None) -> InvalidInput:
    detail = "The picture has no ink: draw or photograph one digit that stands out from its background."
    return InvalidInput(detail, code="blank_image", errors=[(loc, detail)] if loc else [])
