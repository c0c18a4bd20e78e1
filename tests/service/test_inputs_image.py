"""What the digit model reads: MNIST images untouched, any other drawing brought to MNIST's form."""

import base64

import cv2
import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidInput, UnreadableBody
from service.inputs import centre, image
from tests.service import pictures

LOSSLESS = [
    ("PNG", {}),
    ("PNG", {"optimize": True}),
    ("BMP", {}),
    ("GIF", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("WEBP", {"lossless": True}),
]


@pytest.fixture(scope="module")
def digits():
    """The 10,000 MNIST test images."""
    return pictures.mnist_test()[0]


@pytest.fixture
def rng():
    """The same random numbers for every test."""
    return np.random.default_rng(7)


def drawn(digit=5, side=200, width=0.08):
    """A digit drawn in code, a matte [side, side]."""
    return pictures.matte_by_hand(digit, side, np.random.default_rng(1), width)


def decoded(picture, form="PNG", **options):
    """The model's row for a picture given as floats or bytes."""
    return image.from_bytes(pictures.encoded(pictures.to_uint8(picture), form, **options))


def assert_mnist_form(pixels):
    """The structural promise: full contrast, a 20x20 box, mass in the middle."""
    assert pixels.shape == (28, 28)
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    for axis in (0, 1):
        seen = np.flatnonzero(pixels.any(axis=axis))
        assert np.ptp(seen) < 20
        middle = np.average(np.arange(28), weights=pixels.sum(axis=axis))
        assert abs(middle - 14) <= 0.55 or seen[0] == 0 or seen[-1] == 27


def alike(one, other):
    """How much two frames share, 1 is all."""
    one, other = one.astype(float), other.astype(float)
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def test_every_mnist_image_passes_untouched_and_its_negative_comes_back(digits):
    """All 10,000 test images, and their negatives, give exactly the MNIST array."""
    for digit in digits:
        assert centre.as_is(digit) is digit
        assert np.array_equal(centre.as_is(255 - digit), digit)


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_lossless_file_of_an_mnist_image_keeps_every_byte(digits, form, options, mode):
    """Whatever the container, a 28x28 light-on-black picture reaches the model as it is."""
    for digit in digits[:30]:
        file = pictures.encoded(Image.fromarray(digit).convert(mode), form, **options)
        assert np.array_equal(image.from_bytes(file), digit)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "1", "I;16"])
def test_png_of_an_mnist_image_keeps_every_byte_in_other_modes(digits, mode):
    """Opaque alpha, one bit a pixel and 16 bits a pixel lose nothing that was there."""
    for digit in digits[:30]:
        source = np.where(digit > 127, 255, 0).astype(np.uint8) if mode == "1" else digit
        deep = Image.fromarray(source.astype(np.uint16) * 257)
        file = pictures.encoded(deep if mode == "I;16" else Image.fromarray(source).convert(mode))
        assert np.array_equal(image.from_bytes(file), source)


@pytest.mark.parametrize("ink", [0, 255])
def test_mnist_image_in_the_alpha_channel_keeps_every_byte(digits, ink):
    """Black or white strokes on nothing, drawn at 28x28, are the MNIST image too."""
    for digit in digits[:30]:
        file = pictures.encoded(np.dstack([np.full((28, 28, 3), ink, np.uint8), digit]))
        assert np.array_equal(image.from_bytes(file), digit)


def test_jpeg_of_an_mnist_image_is_nearly_the_same(digits):
    """JPEG's noise around the strokes does not make a picture be made anew."""
    for digit in digits[:100]:
        for source in (digit, 255 - digit):
            assert np.abs(decoded(source, "JPEG", quality=90).astype(int) - digit).mean() < 8


def test_negative_out_of_place_is_centred(digits):
    """A dark-on-light 28x28 picture that is not in MNIST's box is brought there."""
    corner = np.zeros((28, 28), np.uint8)
    corner[:20, :20] = digits[0][4:24, 4:24]
    pixels = decoded(255 - corner)
    assert_mnist_form(pixels)
    assert alike(pixels, digits[0]) > 0.8


def test_mnist_image_enlarged_by_blocks_keeps_every_byte(digits):
    """A sender who showed each pixel as a square gave no other picture."""
    for digit in digits[:30]:
        for block in (2, 5, 10):
            enlarged = np.kron(digit, np.ones((block, block), np.uint8))
            assert np.array_equal(decoded(enlarged), digit)
            assert np.array_equal(decoded(np.dstack([enlarged] * 3)), digit)


def test_28x28_of_another_size_or_place_is_brought_to_mnist_form(digits):
    """Only an image in MNIST's own box passes as it is, also where light lies on black."""
    likeness = []
    for digit in digits[:30]:
        moved, small = np.roll(digit, (-3, 3), axis=(0, 1)), np.zeros((28, 28), np.uint8)
        small[2:16, 2:16] = cv2.resize(digit, (14, 14), interpolation=cv2.INTER_AREA)
        large = cv2.resize(digit[4:24, 4:24], (28, 28), interpolation=cv2.INTER_CUBIC)
        for other in (moved, small, large):
            assert_mnist_form(decoded(other))
            assert np.array_equal(decoded(255 - other), decoded(other))
            likeness.append(alike(decoded(other), digit))
    assert min(likeness) > 0.6
    assert np.mean(likeness) > 0.85


@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
@pytest.mark.parametrize("side", [28, 64, 160])
def test_tiny_digit_that_fills_its_frame_survives_enlargement(digits, method, side):
    """Soft strokes that leave little bare paper are neither its grain nor its shade."""
    likeness = []
    for digit in digits[:20]:
        tiny = cv2.resize(digit[4:24, 4:24], (16, 16), interpolation=cv2.INTER_AREA)
        likeness.append(alike(decoded(cv2.resize(tiny, (side, side), interpolation=method)), decoded(tiny)))
    assert min(likeness) > 0.6
    assert np.mean(likeness) > 0.9


def test_fat_faded_ink_on_stained_paper_keeps_its_strokes(rng):
    """A bold digit cut out tightly is not taken for shade."""
    matte = drawn(6, 160, 0.16)
    tight = matte[np.ix_(matte.any(1), matte.any(0))]
    stain = cv2.resize(rng.normal(0, 6, (4, 4)), tight.shape[::-1], interpolation=cv2.INTER_CUBIC)
    paper = np.array((215, 195, 155)) + stain[:, :, None]
    assert alike(decoded(pictures.painted(0.8 * tight, (70, 50, 30), paper)), decoded(255 * matte)) > 0.95


def test_neighbours_cut_off_at_the_sides_are_left_out():
    """What hangs in from the left or the right, apart from the digit, does not move it."""
    sheet = np.pad(drawn(3), 10)
    beside = sheet.copy()
    beside[40:180, :6] = beside[30:170, -5:] = 1
    assert alike(decoded(255 - 255 * beside), decoded(255 - 255 * sheet)) > 0.97


@pytest.mark.parametrize("kind", pictures.KINDS)
def test_every_kind_of_picture_is_brought_to_mnist_form(kind, rng):
    """Photos, scans, drawings and stickers of digits give full contrast, a 20x20 box and centred mass."""
    for digit in (1, 4, 5, 8) if kind != "huge" else (4, 8):
        file = pictures.KINDS[kind](lambda side, digit=digit: pictures.matte_by_hand(digit, side, rng), rng)
        assert_mnist_form(image.from_bytes(file))


def test_polarity_colour_size_and_place_do_not_matter():
    """The same drawing gives nearly the same row on black, on white, in colour, larger, smaller and moved."""
    matte = drawn()
    plain = decoded(255 - 255 * matte)
    large = cv2.resize(matte, (900, 900), interpolation=cv2.INTER_CUBIC)
    moved = np.pad(matte, ((0, 300), (250, 0)))
    for other in (
        255 * matte,
        pictures.painted(matte, (200, 30, 40), (60, 140, 90)),
        pictures.painted(matte, (250, 240, 60), (240, 245, 250)),
        255 - 60 * matte,
        255 - 255 * large,
        255 - 255 * moved,
    ):
        assert alike(decoded(other), plain) > 0.97


def test_hue_alone_carries_the_ink():
    """Red on green of the same brightness, which a grey copy would lose, is read."""
    matte = drawn()
    assert alike(decoded(pictures.painted(matte, (180, 60, 60), (60, 121, 60))), decoded(255 * matte)) > 0.95


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (30, 200, 90)])
def test_ink_on_nothing_is_read_whatever_its_colour(ink):
    """A transparent background is paper for dark, light and coloured ink."""
    matte = drawn()
    colour = np.broadcast_to(np.array(ink, np.uint8), (*matte.shape, 3))
    pixels = image.from_bytes(pictures.encoded(np.dstack([colour, pictures.to_uint8(255 * matte)])))
    assert alike(pixels, decoded(255 * matte)) > 0.97


def test_two_coloured_ink_on_nothing_is_read():
    """Strokes that change colour lie on a sheet that all of them stand out from."""
    matte = drawn()
    colour = np.zeros((200, 200, 3), np.uint8)
    colour[:100], colour[100:] = (200, 0, 0), (0, 0, 160)
    pixels = image.from_bytes(pictures.encoded(np.dstack([colour, pictures.to_uint8(255 * matte)])))
    assert alike(pixels, decoded(255 * matte)) > 0.9


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation, form):
    """A camera's note on how it was held turns the picture upright."""
    upright = Image.fromarray(pictures.to_uint8(255 - 255 * drawn(4)))
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    lying = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = image.from_bytes(pictures.encoded(lying, form, exif=exif))
    assert alike(pixels, image.from_bytes(pictures.encoded(upright))) > 0.97


def test_hair_line_on_a_huge_sheet_does_not_vanish():
    """A stroke of 3 pixels on 4,000 becomes as wide as MNIST's."""
    canvas = np.full((4000, 4000), 255, np.uint8)
    cv2.line(canvas, (500, 400), (3300, 420), 0, 3, cv2.LINE_AA)
    cv2.line(canvas, (3300, 420), (1500, 3600), 0, 3, cv2.LINE_AA)
    pixels = image.from_bytes(pictures.encoded(canvas, compress_level=1))
    assert_mnist_form(pixels)
    assert 40 < pixels.sum() / 255 < 140


def test_frame_ruling_and_specks_leave_no_trace():
    """What is on the sheet besides the digit does not move or shrink it."""
    matte = drawn()
    sheet = np.pad(matte, 60)
    plain = decoded(255 - 255 * sheet)
    framed, specked, ruled = (255 - 255 * sheet for _ in range(3))
    cv2.rectangle(framed, (8, 8), (311, 311), 0, 3)
    cv2.circle(specked, (30, 280), 4, 0, -1)
    ruled[40::40] = 60
    assert alike(decoded(framed), plain) > 0.99
    assert alike(decoded(specked), plain) > 0.99
    assert alike(decoded(ruled), plain) > 0.9


def test_sheet_on_a_table_and_bare_bold_crop_are_read():
    """A dark table around the sheet is no frame of ink, and strokes that fill the picture are no paper."""
    matte = drawn(8)
    plain = decoded(255 - 255 * matte)
    table = np.pad(240 - 220 * matte, 70, constant_values=60)
    assert alike(decoded(table), plain) > 0.97
    fat = drawn(8, 400, 0.12)
    seen = np.s_[np.flatnonzero(fat.any(1))[0] : np.flatnonzero(fat.any(1))[-1] + 1]
    across = np.s_[np.flatnonzero(fat.any(0))[0] : np.flatnonzero(fat.any(0))[-1] + 1]
    assert alike(decoded(255 - 255 * fat[seen, across]), decoded(255 - 255 * fat)) > 0.97


@pytest.mark.parametrize("sides", [(0, 1), (1, 2), (0, 1, 2), (0, 3)])
@pytest.mark.parametrize("ink", [20, 130])
def test_dark_beyond_some_sides_of_the_sheet_is_no_ink(sides, ink):
    """A scan's black edges or a table on some sides only leave the digit as it is, grey ink too."""
    sheet = np.pad(255 - (255 - ink) * drawn(), 60, constant_values=255)
    dark = sheet.copy()
    for side in sides:
        (dark, dark[::-1], dark.T, dark.T[::-1])[side][:25] = 10
    assert alike(decoded(dark), decoded(sheet)) > 0.97


def test_half_of_the_sheet_in_a_shadow_is_still_the_sheet():
    """A digit that lies across the edge of a shadow is read whole."""
    sheet = np.pad(240 - 200 * drawn(8), 60, constant_values=240)
    shade = 1 - 0.5 / (1 + np.exp(-np.linspace(-10, 10, sheet.shape[1])))
    assert alike(decoded(sheet * shade), decoded(sheet)) > 0.9


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (300, 200), (64, 64, 3)])
def test_constant_picture_is_blank(value, shape):
    """No ink is an error of its own, not a guess."""
    with pytest.raises(InvalidInput) as caught:
        decoded(np.full(shape, value))
    assert caught.value.code == "blank_image"


def test_transparent_or_merely_grainy_picture_is_blank(rng):
    """Neither nothing at all nor the grain of empty paper is ink."""
    for empty in (np.zeros((50, 50, 4)), np.dstack([rng.integers(0, 255, (50, 50, 3)), np.zeros((50, 50))])):
        with pytest.raises(InvalidInput) as caught:
            decoded(empty)
        assert caught.value.code == "blank_image"
    with pytest.raises(InvalidInput) as caught:
        decoded(220 * pictures.uneven_light(400, 300, rng)[:, :, 0] + rng.normal(0, 3, (400, 300)))
    assert caught.value.code == "blank_image"


def test_base64_is_taken_in_every_common_spelling(digits):
    """Both alphabets, with and without padding, white space and a data: URL mean the same."""
    for digit in digits[:20]:
        file = pictures.encoded(digit)
        plain, safe = base64.b64encode(file).decode(), base64.urlsafe_b64encode(file).decode()
        for text in (
            plain,
            safe,
            safe.rstrip("="),
            f" {plain[:40]}\n{plain[40:]}\r\n",
            f"data:image/png;base64,{plain}",
        ):
            assert np.array_equal(image.from_base64(text), digit)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "unreadable_image"),
        ("é", "unreadable_image"),
        ("abcde", "unreadable_image"),
        ("not base64!", "unreadable_image"),
        ("data:image/png,raw", "unreadable_image"),
        ("data:;base64", "unreadable_image"),
        (base64.b64encode(b"plain text").decode(), "unreadable_image"),
        (base64.b64encode(pictures.encoded(np.zeros((9, 9), np.uint8))).decode(), "blank_image"),
        (base64.b64encode(pictures.encoded(np.eye(90, dtype=np.uint8))).decode(), "image_too_large"),
    ],
)
def test_bad_base64_is_invalid_input_at_its_place(text, code):
    """The JSON was well formed, so every failure is a 422 that names the field."""
    with pytest.raises(InvalidInput) as caught:
        image.from_base64(text, max_pixels=8000, loc=("body", "images", 3))
    assert caught.value.code == code
    assert caught.value.errors == [{"loc": ["body", "images", 3], "msg": caught.value.detail}]


def test_unreadable_file_is_the_bodys_fault():
    """Bytes that are no picture are a 400."""
    with pytest.raises(UnreadableBody) as caught:
        image.from_bytes(b"\x00" * 100)
    assert caught.value.code == "unreadable_image"
