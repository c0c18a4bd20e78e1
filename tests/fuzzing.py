"""Spoilt inputs that a seed brings back, and the book of what came of them."""

import base64
import gc
import io
import json
import random
import resource
import struct
import time
import zlib
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageDraw

from service.errors import ServiceError

EXTREMES = [0, 1, 2, 7, 27, 28, 255, 256, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST_S = 2.0
SEED = 20_260_301
INPUTS = {
    "pictures": 24_000, "base64": 6_000, "multipart": 12_000, "packed": 8_000, "keys": 6_000, "heads": 8_000,
    "digit json": 9_000, "sequence json": 9_000, "numbers": 12_000, "text": 9_000, "infer": 6_000, "start": 5_000,
}  # fmt: skip
"""How many of them each decoder gets."""


class Book:
    """Runs a decoder over inputs and keeps account; AssertionError, with the input on disk, for what must not be."""

    def __init__(self, name: str, seed: int, folder: Path, own: tuple[type[Exception], ...] = (ServiceError,)) -> None:
        self.name, self.seed, self.count = name, seed, 0
        self.outcomes: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._folder, self._own = folder, own
        gc.collect()
        self._rss, self._peak = psutil.Process().memory_info().rss, _peak_bytes()

    def run(self, call, given):
        """What `call(given)` gives, or the error of our own that it raised."""
        self.count += 1
        started = time.thread_time()  # a busy machine makes nothing slower
        try:
            found = call(given)
            outcome = "taken"
        except self._own as error:
            found, outcome = error, type(error).__name__
            if not str(error):
                self.fail(given, "the error says nothing")
        except BaseException as exc:
            self.fail(given, repr(exc), exc)
        took_s = time.thread_time() - started
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > MOST_S:
            self.fail(given, f"it took {took_s:.1f} s")
        self.outcomes[outcome] += 1
        return found

    def fail(self, given, why: str, cause: BaseException | None = None) -> None:
        """Keep the input and say where it lies."""
        place = self._folder / f"{self.name}.bin"
        place.write_bytes(given if isinstance(given, bytes) else repr(given).encode())
        raise AssertionError(f"{self.name}: input {self.count} of seed {self.seed}, kept as {place}: {why}") from cause

    def close(self, *, inputs: int, grown_mb: int = 150, peak_mb: int = 200) -> None:
        """As many inputs as promised, some taken and some refused, and no more memory than that."""
        gc.collect()
        grown = (psutil.Process().memory_info().rss - self._rss) / 2**20
        peak = (_peak_bytes() - self._peak) / 2**20
        told = f"{self.name}, seed {self.seed}: {self.count} inputs, {dict(self.outcomes)}"
        print(f"{told}; slowest {self.slowest_s * 1000:.0f} ms, memory +{grown:.0f} MB, peak +{peak:.0f} MB")
        assert self.count == inputs
        assert 0 < self.outcomes["taken"] < self.count, told
        assert grown < grown_mb
        assert peak < peak_mb


def opened(folder: Path, name: str, own: tuple[type[Exception], ...] = (ServiceError,)) -> tuple[Book, random.Random]:
    """The account of a decoder, and the draws of its inputs."""
    return Book(name, SEED, folder, own), random.Random(f"{SEED} {name}")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spoil(draw: random.Random, good: bytes, others: list[bytes], pieces: tuple[bytes, ...] = (b"\0", b"\xff")) -> bytes:
    """A good input with some bits, bytes, stretches or fields of its head changed, cut short, or spliced."""
    body = bytearray(good)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(body) + 1)
        match draw.randrange(8):
            case 0 if body:
                body[at % len(body)] ^= 1 << draw.randrange(8)
            case 1:
                body[at : at + 1] = bytes([draw.randrange(256)])
            case 2:
                del body[at:]
            case 3:
                del body[at : at + draw.randint(1, 40)]
            case 4:
                body[at:at] = body[at : at + draw.randint(1, 60)]
            case 5:
                other = draw.choice(others)
                body[at:] = other[draw.randrange(len(other) + 1) :]
            case 6:
                size, order = draw.choice((1, 2, 4)), draw.choice(("<", ">"))
                at = draw.randrange(min(64, len(body) + 1))
                value = draw.choice(EXTREMES) % 2 ** (8 * size)
                body[at : at + size] = struct.pack(order + {1: "B", 2: "H", 4: "I"}[size], value)
            case 7:
                body[at:at] = draw.choice(pieces)
    return bytes(body)


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them now, so that a reader goes on to the rest."""
    body, at = bytearray(data), len(SIGNATURE)
    while at + 12 <= len(body):
        size = int.from_bytes(body[at : at + 4])
        end = at + 8 + size
        if end + 4 > len(body):
            break
        body[end : end + 4] = zlib.crc32(body[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(body)


def strange_json(draw: random.Random, content: object, strange: list[object]) -> bytes:
    """JSON with something strange in the place of one to three of its values, keys or items, at any depth."""
    root = {"": json.loads(json.dumps(content))}
    for _ in range(draw.randint(1, 3)):
        place = root
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
                place = place[key]
                continue
            match draw.randrange(4):
                case 0 if place is not root and isinstance(place, dict):
                    place[
                        draw.choice(["text", "values", "start", "inputs", "version", "pixels", "image", "\ud800", ""])
                    ] = place.pop(key)
                case 1 if isinstance(place, list):
                    place.insert(key, deepcopy(draw.choice(strange)))
                case _:
                    place[key] = deepcopy(draw.choice(strange))
            break
    return json.dumps(root[""], ensure_ascii=draw.random() < 0.8).encode("utf-8", "surrogatepass")


def pictures() -> dict[str, list[bytes]]:
    """Small valid files of every format, in several modes and with their extras."""
    grey = Image.new("L", (40, 33), 255)
    ImageDraw.Draw(grey).line((8, 5, 30, 6, 16, 28), fill=0, width=4)
    colour = Image.merge("RGB", (grey, grey.point(lambda v: v // 2), grey))
    clear = colour.copy()
    clear.putalpha(grey.point(lambda v: 255 - v))
    mnist = Image.fromarray(np.pad(np.full((16, 4), 200, np.uint8), ((6, 6), (12, 12))))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "PNG": [(mnist, {}), (grey, {}), (clear, {}), (deep, {}), (colour.quantize(8), {"transparency": 1}),
                (grey.convert("1"), {}), (colour, {"exif": turned})],
        "JPEG": [(grey, {}), (colour, {"exif": turned}), (colour, {"progressive": True}), (colour.convert("CMYK"), {})],
        "WEBP": [(colour, {}), (clear, {"lossless": True}), (clear, {"save_all": True, "append_images": [clear]})],
        "BMP": [(mnist, {}), (colour, {}), (colour.quantize(8), {}), (grey.convert("1"), {})],
        "GIF": [(grey, {}), (colour.quantize(8), {"transparency": 1}),
                (grey, {"save_all": True, "append_images": [mnist]})],
        "TIFF": [(grey, {}), (deep, {}), (colour, {"compression": "tiff_lzw"}), (colour, {"compression": "jpeg"}),
                 (grey.convert("1"), {"compression": "group4"}), (grey.convert("F"), {}),
                 (clear, {"compression": "tiff_adobe_deflate"})],
    }  # fmt: skip
    return {kind: [_saved(image, kind, options) for image, options in each] for kind, each in made.items()}


def _saved(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(draw: random.Random, data: bytes) -> str:
    """The bytes as a client may write them: either alphabet, padded or not, in lines, as a data: URL."""
    text = draw.choice((base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes))(data).decode()
    text = text.rstrip("=") if draw.random() < 0.3 else text
    return draw.choice(("data:image/png;base64,", "DATA:;base64,", "data:,", "data:image/png;base64", "")) + text
