"""Requests for digits: every form of a picture, batches, options, warnings and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.corpus import pictures
from tests.corpus.calls import PNG, Call, Http, both, form, post
from tests.corpus.pictures import SEVEN, file, ink, mnist
from tests.server import shipped

ONE, MANY = "/predict/digit", "/predict/digit/batch"


def requests() -> Iterator[Call]:
    """All of them."""
    for call in (*_files(), *_json(), *_forms(), *_wrong(), *_batches(), *_wrong_batches()):
        yield from both(call)
    yield from _options()


def _picture(name: str, data: bytes, kind: str) -> Http:
    return post(f"digit {name}", ONE, data, content_type=kind)


def _files() -> Iterator[Http]:
    yield _picture("seven", SEVEN, "image/png")
    for digit in pictures.STROKES:
        yield _picture(f"in MNIST's form, {digit}", file(mnist(digit)), "image/png")
        yield _picture(f"dark on light, {digit}", file(255 - ink(digit, 90)), "image/png")
        yield _picture(f"light on dark, {digit}", file(ink(digit, 64)), "image/png")
    yield _picture("coloured", file(pictures.coloured(4, 80)), "image/png")
    yield _picture("transparent", file(pictures.transparent(5, 80)), "image/png")
    yield _picture("palette", file(pictures.coloured(7, 60), "GIF"), "image/gif")
    yield _picture("bmp", file(pictures.coloured(1, 60), "BMP"), "image/bmp")
    yield _picture("tiff", file(255 - ink(4, 60), "TIFF"), "image/tiff")
    yield _picture("webp without loss", file(255 - ink(5, 60), "WEBP", lossless=True), "image/webp")
    yield _picture("one bit a pixel", file(255 - ink(7, 60), mode="1"), "image/png")
    yield _picture("a misspelt type", SEVEN, "image/x-png")
    yield _picture("another type than it is", file(255 - ink(4, 60), "BMP"), "image/png")
    yield _picture("type with a parameter", SEVEN, "Image/PNG; charset=binary")
    yield _picture("wide", file(255 - np.pad(ink(4, 40), ((0, 0), (100, 160)))), "image/png")
    yield _picture("one of 400 pixels", file(255 - np.pad(ink(5, 100), 150)), "image/png")
    yield _picture("several digits", file(pictures.several()), "image/png")
    yield _picture("no digit", file(pictures.noise()), "image/png")


def _json() -> Iterator[Http]:
    for digit in pictures.STROKES:
        yield post(f"digit pixels, {digit}", ONE, {"pixels": mnist(digit).tolist()})
    yield post("digit pixels not in MNIST's form", ONE, {"pixels": ink(4, 28).tolist()})
    yield post("digit pixels of dark ink", ONE, {"pixels": (255 - mnist(7)).tolist()})
    yield post(
        "digit pixels of several digits", ONE, {"pixels": np.hstack([mnist(1)[:, :14], mnist(4)[:, 7:21]]).tolist()}
    )
    yield post("digit base64", ONE, {"image": pictures.text(SEVEN)})
    yield post("digit data URL", ONE, {"image": f"data:image/png;base64,{pictures.text(SEVEN)}"})
    yield post("digit JSON with a byte order mark", ONE, b'\xef\xbb\xbf{"image": "' + pictures.text(SEVEN).encode()
               + b'"}', content_type="application/json")  # fmt: skip
    yield post("digit JSON of another type", ONE, b'{"image": "' + pictures.text(SEVEN).encode() + b'"}',
               content_type="application/vnd.corpus+json; charset=utf-8")  # fmt: skip


def _forms() -> Iterator[Http]:
    file_part = ("file", "seven.png", "image/png", SEVEN)
    for name, parts in {
        "a file": [file_part],
        "a file without a type": [("file", "seven", None, SEVEN)],
        "a file and a text": [("note", None, None, b"seven"), file_part],
        "two files": [file_part, file_part],
        "no file": [("note", None, None, b"seven")],
        "another field": [("picture", "seven.png", "image/png", SEVEN)],
        "an empty file": [("file", "none.png", "image/png", b"")],
    }.items():
        body, kind = form(*parts)
        yield post(f"form {name}", ONE, body, content_type=kind)
    body, kind = form(file_part)
    yield post("form cut off", ONE, body[:-40], content_type=kind)
    yield post("form without a boundary", ONE, body, content_type="multipart/form-data")
    yield post("form with another boundary", ONE, body, content_type="multipart/form-data; boundary=other")


def _wrong() -> Iterator[Http]:
    pixels = mnist(7).tolist()
    for name, content in {
        "empty object": {},
        "a list": [],
        "both forms": {"pixels": pixels, "image": pictures.text(SEVEN)},
        "a further field": {"pixels": pixels, "colour": "red"},
        "an option in the body": {"pixels": pixels, "explain": True},
        "27 rows": {"pixels": pixels[:27]},
        "a short row": {"pixels": [*pixels[:27], [0] * 27]},
        "256": {"pixels": [[256] * 28] * 28},
        "minus one": {"pixels": [[-1] * 28] * 28},
        "a half": {"pixels": [[0.5] * 28] * 28},
        "a text in it": {"pixels": [["0"] * 28] * 28},
        "pixels null": {"pixels": None},
        "image null": {"image": None},
        "image a number": {"image": 7},
        "no base64": {"image": "this is not base64!"},
        "base64 of a text": {"image": pictures.text(b"hello")},
        "a data URL of a text": {"image": "data:text/plain;base64,aGVsbG8="},
        "blank": {"pixels": [[0] * 28] * 28},
        "all ink": {"pixels": [[255] * 28] * 28},
    }.items():
        yield post(f"wrong {name}", ONE, content)
    for name, data, kind in (
        ("cut JSON", b'{"pixels": [[', "application/json"),
        ("NaN in JSON", b'{"pixels": [[NaN]]}', "application/json"),
        ("no UTF-8", b'{"image": "\xff"}', "application/json"),
        ("a key twice", b'{"image": "a", "image": "b"}', "application/json"),
        ("a text for a picture", b"hello", "image/png"),
        ("a cut picture", SEVEN[:60], "image/png"),
        ("a picture without an end", SEVEN[:-12], "image/png"),
        ("a blank picture", file(np.zeros((50, 50), np.uint8)), "image/png"),
        ("a tiny picture", file(np.zeros((1, 1), np.uint8)), "image/png"),
        ("an unknown type", SEVEN, "application/pdf"),
        ("a text type", SEVEN, "text/plain"),
        ("an SVG", b"<svg/>", "image/svg+xml"),
        ("an empty body", b"", "image/png"),
    ):
        yield post(f"wrong {name}", ONE, data, content_type=kind)
    yield Http("wrong without a type", "POST", ONE, {}, SEVEN)
    yield Http("wrong compressed", "POST", ONE, {**PNG, "Content-Encoding": "gzip"}, SEVEN)


def _batches() -> Iterator[Http]:
    digits = [mnist(digit) for digit in pictures.STROKES]
    yield post("batch of pixels", MANY, {"pixels": [each.tolist() for each in digits]})
    yield post("batch of one", MANY, {"pixels": [digits[0].tolist()]})
    yield post("batch of pictures", MANY, {"images": [pictures.text(file(255 - ink(each, 50))) for each in (1, 4, 7)]})
    yield post("batch with several digits in one", MANY, {"images": [
        pictures.text(each) for each in (SEVEN, file(pictures.several()), file(pictures.noise()))]})  # fmt: skip
    parts = [("file", f"{at}.png", "image/png", file(each)) for at, each in enumerate(digits)]
    body, kind = form(*parts)
    yield post("batch of files", MANY, body, content_type=kind)


def _wrong_batches() -> Iterator[Http]:
    pixels, seven = mnist(7).tolist(), pictures.text(SEVEN)
    for name, content in {
        "nothing": {"pixels": []},
        "no list": {"images": seven},
        "a blank one": {"pixels": [pixels, [[0] * 28] * 28]},
        "a broken one": {"images": [seven, "aGVsbG8=", seven]},
        "a number": {"images": [seven, 7]},
        "a short one": {"pixels": [pixels, pixels[:3]]},
        "257": {"images": [seven] * 257},
    }.items():
        yield post(f"batch wrong, {name}", MANY, content)
    yield post("batch wrong, a picture alone", MANY, SEVEN, content_type="image/png")


def _options() -> Iterator[Call]:
    live, mlp = shipped("digit-cnn"), shipped("digit-mlp")
    pixels, pair = {"pixels": mnist(4).tolist()}, {"pixels": [mnist(4).tolist(), mnist(7).tolist()]}
    for query in (
        f"version={live}", f"version={live + 1}", f"version={live + 2}", "version=99", "version=0", "version=x",
        "version=", "model=digit-mlp", f"model=digit-mlp&version={mlp}", "model=digit-cnn&version=1", "model=nobody",
        "model=topic-transformer", "model=", "explain=false", "explain=0", "explain=maybe", "unknown=1",
        "explain=true&version=x", "model=digit-mlp&model=digit-cnn", "%65xplain=false",
    ):  # fmt: skip
        yield post(f"query digit {query}", f"{ONE}?{query}", pixels)
        if "=" in query and not query.startswith("explain"):
            yield post(f"query batch {query}", f"{MANY}?{query}", pair)
    for query in ("explain=true", "explain=1", "explain=true&model=digit-mlp", f"explain=true&version={live + 1}"):
        yield post(f"explain digit {query}", f"{ONE}?{query}", pixels)
    yield post("explain digit of a file", f"{ONE}?explain=true", SEVEN, content_type="image/png")
    yield post("explain digit of several", f"{ONE}?explain=true", file(pictures.several()), content_type="image/png")
    yield post("explain batch", f"{MANY}?explain=true", pair)
    yield post("explain too many", f"{MANY}?explain=true", {"pixels": [mnist(4).tolist()] * 40})
    yield post("explain blank", f"{ONE}?explain=true", {"pixels": [[0] * 28] * 28})
