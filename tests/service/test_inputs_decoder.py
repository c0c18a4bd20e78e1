"""Picture files, honest, broken and hostile: the right pixels, or one of our own errors, at little cost."""

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidInput, ServiceError, UnreadableBody
from service.inputs import decoder, image
from service.inputs.png import plain
from tests.service import pictures

LIMIT = 25_000_000
DRAWING = pictures.to_uint8(255 - 255 * pictures.matte_by_hand(5, 120, np.random.default_rng(1), 0.08))
FILES = {
    f"{form} {mode} {options}": pictures.encoded(Image.fromarray(DRAWING).convert(mode), form, **options)
    for form, mode, options in [
        ("PNG", "L", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("JPEG", "L", {}),
        ("JPEG", "RGB", {"progressive": True}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("GIF", "L", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
    ]
}


def chunk(kind, body):
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, rows, *extra):
    """A grey 8-bit PNG by hand, from raw rows with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def with_size(name, side):
    """A real file whose header claims `side` x `side` pixels."""
    data, form = bytearray(FILES[name]), name.split()[0]
    if form == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif form == "JPEG":
        at = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := data.find(marker)) > 0)
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif form == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif form == "TIFF":
        (at,) = struct.unpack_from("<I", data, 4)
        for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] in {256, 257}:
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    elif data[12:16] == b"VP8L":
        data[21:25] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    else:
        data[26:30] = struct.pack("<HH", side, side)
    return bytes(data)


def test_fast_png_road_gives_the_same_pixels_as_pillow():
    """Every small grey PNG decodes to the same array on both roads, whatever its row filters."""
    digits = pictures.mnist_test()[0]
    rng = np.random.default_rng(5)
    for index in range(300):
        pixels = digits[index] if index % 2 else rng.integers(0, 256, rng.integers(1, 128, 2), dtype=np.uint8)
        file = pictures.encoded(pixels, optimize=bool(index % 3), compress_level=index % 10)
        fast = plain(file, LIMIT)
        assert np.array_equal(fast, np.asarray(Image.open(io.BytesIO(file))))
        assert np.array_equal(fast, pixels)


def test_png_with_anything_unusual_takes_the_careful_road():
    """Gamma, transparency, a palette, 16 bits or size keep a file off the fast road, which knows none of them."""
    rows = (b"\0" + bytes(range(28))) * 28
    assert plain(png(28, 28, rows), LIMIT) is not None
    for extra in (chunk(b"tRNS", b"\0\0"), chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"tEXt", b"a\0b")):
        assert plain(png(28, 28, rows, extra), LIMIT) is None
    for mode in ("1", "P", "LA", "RGB", "I;16"):
        source = Image.fromarray(DRAWING.astype(np.uint16) if mode == "I;16" else DRAWING)
        file = pictures.encoded(source if mode == "I;16" else source.convert(mode))
        assert plain(file, LIMIT) is None


@pytest.mark.parametrize("rows", [b"\0" * 29 * 27, b"\0" * 29 * 29, b"\5" + b"\0" * (29 * 28 - 1), b""])
def test_png_with_sound_checksums_but_wrong_rows_is_not_made_up(rows):
    """Too few rows or an unknown filter never become a partial picture; too many never overrun."""
    with pytest.raises(ServiceError):
        image.from_bytes(png(28, 28, rows))


@pytest.mark.parametrize("name", FILES)
def test_cut_file_is_unreadable_or_lacks_nothing(name):
    """A file cut anywhere is a 400, unless only a trailer went missing and every pixel is there."""
    data = FILES[name]
    whole = decoder.read(data, LIMIT)
    for kept in {*range(0, len(data), 1 + len(data) // 60), *range(len(data) - 16, len(data))}:
        if kept < len(data) - 8:
            with pytest.raises(UnreadableBody):
                decoder.read(data[:kept], LIMIT)
        else:
            with suppress(UnreadableBody):
                assert np.array_equal(decoder.read(data[:kept], LIMIT), whole)


@pytest.mark.parametrize("at", range(8, 200, 7))
def test_damaged_png_is_unreadable(at):
    """One wrong bit in a PNG is a 400 on either road, never a slightly wrong digit."""
    for name in ("PNG L {}", "PNG RGBA {}"):
        data = bytearray(FILES[name])
        data[at] ^= 16
        with pytest.raises(UnreadableBody):
            decoder.read(bytes(data), LIMIT)


@pytest.mark.parametrize("name", FILES)
def test_size_is_refused_from_the_header(name, monkeypatch):
    """A file that claims too many pixels is a 422 before anything is decoded, whatever its format."""

    def load(self):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    for side in (5001, 16383, *([30_000] if "WEBP" not in name else [])):
        with pytest.raises(InvalidInput) as caught:
            decoder.read(with_size(name, side), LIMIT)
        assert caught.value.code == "image_too_large"


def test_limit_is_exact():
    """A picture of just the limit is read, one pixel more is not."""
    file = pictures.encoded(np.eye(50, 40, dtype=np.uint8) * 255)
    assert decoder.read(file, 2000).shape == (50, 40)
    with pytest.raises(InvalidInput):
        decoder.read(file, 1999)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_first_frame_counts(form):
    """Of an animation or a scan of many pages only the first picture is read."""
    first, second = Image.fromarray(DRAWING), Image.fromarray(255 - DRAWING.T)
    options = {"lossless": True} if form == "WEBP" else {}
    file = pictures.encoded(first, form, save_all=True, append_images=[second] * 3, **options)
    assert np.array_equal(decoder.read(file, LIMIT), DRAWING)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"])
def test_every_mode_shows_the_same_drawing(mode):
    """Modes are ways to write pixels down; the drawing is the same."""
    black_and_white = np.where(DRAWING > 127, 255, 0).astype(np.uint8)
    source = Image.fromarray(black_and_white).convert("RGB" if mode == "LAB" else "L")
    picture = Image.fromarray(black_and_white.astype(np.uint16) * 200) if mode == "I;16" else source.convert(mode)
    plain = image.from_bytes(pictures.encoded(black_and_white)).astype(int)
    assert np.abs(image.from_bytes(pictures.encoded(picture, "TIFF")) - plain).mean() < 6


def test_cmyk_jpeg_and_float_tiff_with_odd_numbers_are_read():
    """A print shop's JPEG, and a float scan with NaN, infinity and negative numbers."""
    assert image.from_bytes(pictures.encoded(Image.fromarray(DRAWING).convert("CMYK"), "JPEG")).max() == 255
    scan = DRAWING.astype(np.float32) / 7 - 12
    scan[:2, :5] = [np.nan, np.inf, -np.inf, 0, 1]
    assert image.from_bytes(pictures.encoded(Image.fromarray(scan), "TIFF")).max() == 255


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 5000), (5000, 1), (3, 3), (7, 900), (2000, 9)])
def test_odd_shapes_do_not_break(shape):
    """From two pixels up, any aspect gives a row or a plain refusal."""
    pixels = np.zeros(shape, np.uint8)
    pixels[shape[0] // 2 :, shape[1] // 2 :] = 255
    for form in ("PNG", "BMP"):
        only_our_errors(pictures.encoded(pixels, form))


def only_our_errors(data):
    """Decode and let nothing but a 400 or a 422 by."""
    with suppress(UnreadableBody, InvalidInput):
        pixels = image.from_bytes(data, max_pixels=1_000_000)
        assert pixels.shape == (28, 28)
        assert pixels.dtype == np.uint8


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"])
)
def test_random_bytes_give_only_our_errors(body, start):
    """Noise, with or without a picture's first bytes."""
    only_our_errors(start + body)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    st.booleans(),
)
def test_mutated_files_give_only_our_errors(name, changes, in_header):
    """Real files of every format with a few bytes changed, often in the header."""
    data = bytearray(FILES[name])
    span = min(len(data), 120) if in_header else len(data)
    for place, value in changes:
        data[int(place * span)] = value
    only_our_errors(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["L", "RGB", "RGBA", "LA"]), st.data())
def test_any_small_picture_gives_a_row_or_is_blank(width, height, mode, data):
    """Arbitrary pixels of any size and mode never break the way to 28x28."""
    count = width * height * len(Image.new(mode, (1, 1)).getbands())
    pixels = data.draw(st.binary(min_size=count, max_size=count))
    only_our_errors(pictures.encoded(Image.frombytes(mode, (width, height), pixels)))


def test_a_broken_tiff_writes_nothing_to_standard_error(capfd):
    """libtiff tells on it what it finds wrong; a stranger could fill the log with it."""
    file = io.BytesIO()
    Image.new("L", (40, 33), 7).save(file, "TIFF", compression="tiff_lzw")
    whole = file.getvalue()
    for at in range(8, len(whole), 3):
        for spoilt in (whole[:at] + b"\xff\xff" + whole[at + 2 :], whole[:at]):
            with suppress(ServiceError):
                decoder.read(spoilt, 25_000_000)
    assert capfd.readouterr().err == ""


def test_the_largest_floats_make_a_picture_like_any_other():
    """The difference of two of them is beyond float32."""
    values = np.full((20, 20), -3e38, np.float32)
    values[5:15, 8:12] = 3e38
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    found = decoder.read(file.getvalue(), 1_000)
    assert (found[0, 0], found[10, 10]) == (0, 255)
