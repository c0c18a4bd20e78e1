"""What a picture file will cost to decode, from its header alone: no byte of a pixel is read, nothing is allocated.

The numbers bound what Pillow does, because `decoder` refuses a file that turns out larger than its header said here.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from service.inputs.png import SIGNATURE

_MOST_STEPS = 128
"""Chunks, segments or tags that are looked at; a file with more before its size is taken for as large as may be."""
_MOST_BYTES = 8_192
"""Of a GIF's texts before its first frame: the same."""
_MOST_PASSES = 100
"""Scans of one JPEG: common encoders write 10, and each costs another look at every pixel."""
_ON_LOOP_BYTES, _ON_LOOP_PIXELS = 2_048, 4_096
_TAG_SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header, which holds its size."""


class Claim(NamedTuple):
    """What a header says: pixels (None: it does not say), passes over them, and whether the whole cost is known."""

    pixels: int | None
    passes: int = 1
    simple: bool = True

    @property
    def has_too_many_passes(self) -> bool:
        return self.passes > _MOST_PASSES

    def cost(self, length: int, max_pixels: int) -> int:
        """Pixels to decode, at most as for the largest picture, and the bytes of the file."""
        pixels = max_pixels if self.pixels is None else min(self.pixels, max_pixels)
        return pixels * min(self.passes, _MOST_PASSES) + length


def claim(data: bytes) -> Claim:
    """What the header of a picture file says; no pixels for what begins like none of the formats."""
    return next((read(data) for magic, read in _READERS if data.startswith(magic)), Claim(0))


def is_small(data: bytes) -> bool:
    """Whether a file is proven to take less time than the way to a thread and back."""
    if len(data) > _ON_LOOP_BYTES:
        return False
    found = claim(data)
    return found.simple and found.pixels is not None and found.pixels * found.passes <= _ON_LOOP_PIXELS


def _webp(data: bytes) -> Claim:
    """A WebP file's canvas, whose memory Pillow's reader claims as it opens."""
    if len(data) < 30:
        return Claim(0)
    if data[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (each & 0x3FFF for each in struct.unpack_from("<HH", data, 26))
    return Claim(width * height, simple=False)


def _png(data: bytes) -> Claim:
    if len(data) < 33 or data[12:16] != b"IHDR":
        return Claim(None)
    return Claim(math.prod(struct.unpack_from(">II", data, 16)))


def _jpeg(data: bytes) -> Claim:
    at = 2
    for _ in range(_MOST_STEPS):
        at = data.find(b"\xff", at)
        if at < 0 or at + 9 > len(data):
            break
        marker = data[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            # Inside compressed data 0xff is followed by 0: whatever looks like the start of a scan is one, or is EXIF.
            passes = max(1, data.count(b"\xff\xda"))
            return Claim(width * height, passes, simple=passes == 1)
        if marker in {0x00, 0xFF} or 0xD0 <= marker <= 0xD8:
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return Claim(None)


def _gif(data: bytes) -> Claim:
    """The larger of the screen and the first frame, which may reach beyond it."""
    if len(data) < 13:
        return Claim(0)
    width, height = struct.unpack_from("<HH", data, 6)
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    for _ in range(_MOST_STEPS):
        kind = data[at : at + 1]
        if kind == b"," and at + 10 <= len(data):
            x, y, wide, high = struct.unpack_from("<HHHH", data, at + 1)
            return Claim(max(width, x + wide) * max(height, y + high))
        if kind == b"!":
            at += 2
            while at < len(data) and data[at]:
                at += 1 + data[at]
                if at > _MOST_BYTES:
                    return Claim(None)
        at += 1
    return Claim(None)


def _bmp(data: bytes) -> Claim:
    if len(data) < 34:
        return Claim(0)
    if int.from_bytes(data[14:18], "little") == 12:
        return Claim(math.prod(struct.unpack_from("<HH", data, 18)))
    width, height = struct.unpack_from("<ii", data, 18)
    # Pillow reads run lengths in Python, one at a time.
    packed = int.from_bytes(data[30:34], "little") not in {0, 3}
    return Claim(abs(width) * abs(height), 4 if packed else 1, simple=not packed)


def _tiff(data: bytes) -> Claim:
    return Claim(_tiff_pixels(data), simple=False)


def _tiff_pixels(data: bytes) -> int | None:
    """Pixels of the first picture in a TIFF file, all its tiles whole; None where that is not plain to see."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in {b"+\0", b"\0+"}
    entry, count_of, offset = (20, "Q", "Q") if big else (12, "H", "I")
    found: dict[int, int] = {}
    try:
        (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_of, data, at)
        if count > _MOST_STEPS:
            return None
        at += struct.calcsize(count_of)
        for start in range(at, at + count * entry, entry):
            tag, kind = struct.unpack_from(order + "HH", data, start)
            if tag in {_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH}:
                (found[tag],) = struct.unpack_from(
                    order + _TAG_SIZES[kind], data, start + entry - struct.calcsize(offset)
                )
        width, height = found[_WIDTH], found[_LENGTH]
    except (struct.error, KeyError, OverflowError):
        return None
    wide, high = found.get(_TILE_WIDTH, 0), found.get(_TILE_LENGTH, 0)
    if wide and high:
        return -(-width // wide) * wide * -(-height // high) * high
    return width * height


_READERS = (
    (SIGNATURE, _png),
    (b"\xff\xd8", _jpeg),
    (b"RIFF", _webp),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"II", _tiff),
    (b"MM", _tiff),
)
