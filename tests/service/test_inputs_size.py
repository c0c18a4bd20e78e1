"""What a picture's header says of its cost: never less than what decoding it takes."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import ServiceError
from service.inputs import decoder, image, size
from tests.service import pictures

LIMIT = 25_000_000
FIELD = Path(__file__).parent / "files" / "webp_25_megapixels.webp"


def blank(width, height, form, mode="L", **options):
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, form, **options)
    return out.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(file, *chunks):
    """A PNG with these chunks behind its header."""
    return file[:33] + b"".join(chunks) + file[33:]


def tiled_tiff(side, tile):
    """A small deflated TIFF of one tile that is much larger than the picture."""
    packed = zlib.compress(bytes(tile * tile))
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile), (323, tile), (324, 8),
            (325, len(packed))]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + bytes(4)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_says_its_pixels(form):
    """Width times height, from a small and from a large picture, whatever few bytes it has."""
    for width, height in ((30, 20), (4000, 3000)):
        assert size.claim(blank(width, height, form)).pixels == width * height


def test_the_kinds_of_one_format_say_their_pixels():
    """Interlaced, progressive, lossless, transparent, 16 bit, old headers, big-endian, BigTIFF."""
    files = [
        blank(300, 200, "WEBP", "RGBA", lossless=True),
        blank(300, 200, "WEBP", "RGB", lossless=True),
        blank(300, 200, "JPEG", "RGB", progressive=True),
        blank(300, 200, "PNG", "I;16"),
        blank(300, 200, "TIFF", "RGB", compression="tiff_lzw"),
        blank(300, 200, "TIFF", "L", big_tiff=True),
        blank(300, 200, "TIFF", "I;16B"),
        blank(300, 200, "GIF", "P", interlace=True),
        b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 300, 200, 1, 1) + bytes(16),
    ]
    assert [size.claim(file).pixels for file in files] == [60_000] * len(files)


def test_a_few_bytes_of_many_pixels_are_not_small():
    """25 megapixels in a kilobyte, of every format, are not decoded on the event loop."""
    files = [FIELD.read_bytes(), blank(5000, 5000, "WEBP"), tiled_tiff(28, 4096)]
    files += [blank(700, 700, form) for form in ("PNG", "GIF")]
    files += [blank(5000, 5000, "TIFF", "1", compression="group4"), b"II*\0" + bytes(200)]
    assert not any(size.is_small(file) for file in files)
    assert size.is_small(blank(28, 28, "PNG"))
    assert size.claim(tiled_tiff(28, 4096)).pixels == 4096**2


def test_a_gif_whose_frame_is_larger_than_its_screen():
    """The first frame counts where it reaches beyond the screen."""
    file = bytearray(blank(5000, 5000, "GIF"))
    file[6:10] = struct.pack("<HH", 28, 28)
    assert size.claim(bytes(file)).pixels == LIMIT


def test_a_second_header_does_not_make_a_small_picture_large():
    """A PNG with two headers is refused, not decoded as the larger one."""
    file = blank(28, 28, "PNG")
    double = with_chunks(file, chunk(b"IHDR", struct.pack(">IIBBBBB", 5000, 4000, 8, 0, 0, 0, 0)))
    with pytest.raises(ServiceError) as caught:
        decoder.read(double, LIMIT)
    assert caught.value.code == "unreadable_image"


def test_compressed_texts_and_profiles_are_not_inflated(monkeypatch):
    """Sixty texts of a megabyte each in a small PNG never reach Pillow; the picture is read as without them."""
    from PIL import PngImagePlugin

    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", lambda _: pytest.fail("inflated"))
    bomb = zlib.compress(bytes(2**20), 9)
    texts = [chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iCCP", b"a\0\0" + bomb), chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)]
    plain = pictures.encoded(Image.fromarray(np.pad(np.full((20, 6), 200, np.uint8), 40)).convert("RGB"))
    assert np.array_equal(image.from_bytes(with_chunks(plain, *(texts * 20))), image.from_bytes(plain))


def test_a_jpeg_of_very_many_scans_is_refused():
    """Each scan is another pass over all pixels: over a hundred is no picture that anybody made to be looked at."""
    file = blank(2000, 2000, "JPEG", "RGB", progressive=True)
    at = file.index(b"\xff\xda")
    scan = file[at : file.index(b"\xff", at + 2)]
    many = file[:-2] + scan * 200 + file[-2:]
    assert size.claim(many).passes > 200
    assert size.claim(many).cost(len(many), LIMIT) > 4_000_000 * 50
    with pytest.raises(ServiceError) as caught:
        decoder.read(many, LIMIT)
    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    "magic", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"RIFF....WEBP", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b""]
)
def test_a_broken_header_is_no_error_and_never_small_by_mistake(magic):
    """Cut or random headers give a claim; where they do not say a size, the cost is that of the largest picture."""
    rng = np.random.default_rng(3)
    for length in (*range(40), 200, 1000):
        file = magic + rng.bytes(length)
        found = size.claim(file)
        assert found.pixels is not None or found.cost(len(file), LIMIT) >= LIMIT
