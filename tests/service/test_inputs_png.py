"""Plain PNGs by the dozen: read as one tall picture, each is what it is alone, and no other's."""

import struct
import zlib

import numpy as np
import pytest

from service.inputs import png
from tests.service import pictures

SIZE = struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)


def chunk(kind, body):
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def file(rows, header=SIZE, data=None):
    """A grey PNG by hand, from raw rows with their filter bytes."""
    data = zlib.compress(rows) if data is None else data
    return png.SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def random_file(rng):
    """28x28 pixels behind row filters of every kind, the first row's too."""
    rows = rng.integers(0, 256, (28, 29), dtype=np.uint8)
    rows[:, 0] = rng.integers(0, 5, 28)
    return file(rows.tobytes())


@pytest.mark.parametrize("count", [0, 1, 3, 4, 64, 600])
def test_each_of_many_is_what_it_is_alone(count):
    """Whatever the filters of its first row look up to: zeros, and not the picture before."""
    rng = np.random.default_rng(count)
    files = [random_file(rng) for _ in range(count)]
    together = png.plain_of_mnist_size(files)
    assert len(together) == count
    for data, pixels in zip(files, together, strict=True):
        assert np.array_equal(pixels, png.plain(data, 784))


def test_digits_as_clients_make_them_keep_every_pixel():
    """MNIST's images from Pillow, small and large files."""
    digits = pictures.mnist_test()[0][:100]
    files = [pictures.encoded(pixels, optimize=bool(index % 2)) for index, pixels in enumerate(digits)]
    assert np.array_equal(png.plain_of_mnist_size(files), digits)


def test_what_is_not_plain_and_whole_is_left_out_and_moves_no_other():
    """Another size, a damaged or cut file, wrong rows, no PNG at all: None in their places, the others in theirs."""
    rng = np.random.default_rng(2)
    good = [random_file(rng) for _ in range(5)]
    rows = bytes(29 * 28)
    stream = zlib.compress(rows)
    bad = [
        b"",
        b"hello",
        png.SIGNATURE,
        good[0][:33],
        good[0][:56],
        good[0][:-1],
        good[0] + b"\0",
        good[0][:60] + bytes([good[0][60] ^ 1]) + good[0][61:],
        file(rows, struct.pack(">IIBBBBB", 27, 28, 8, 0, 0, 0, 0)),
        file(rows, struct.pack(">IIBBBBB", 28, 28, 8, 2, 0, 0, 0)),
        file(rows[:-29]),
        file(rows + bytes(29)),
        file(b"\5" + rows[1:]),
        file(rows, data=stream[:-1]),
        file(rows, data=b""),
        file(rows).replace(b"IEND", b"IENE"),
        png.SIGNATURE
        + chunk(b"IHDR", SIZE)
        + chunk(b"IDAT", stream[:9])
        + chunk(b"IDAT", stream[9:])
        + chunk(b"IEND", b""),
    ]
    found = png.plain_of_mnist_size([*good, *bad, *good])
    expected = [png.plain(data, 784) for data in good]
    assert np.array_equal(found[:5], expected)
    assert np.array_equal(found[-5:], expected)
    assert found[5:-5] == [None] * len(bad)


def test_what_lies_behind_a_whole_stream_changes_nothing():
    """A sloppy encoder's surplus byte in IDAT is passed over, alone and among others."""
    rows = random_file(np.random.default_rng(3))
    stream = rows[41:-16]
    sloppy = file(b"", data=stream + b"\0")
    assert np.array_equal(png.plain_of_mnist_size([sloppy] * 4), [png.plain(rows, 784)] * 4)
