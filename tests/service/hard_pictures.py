"""What else people send: poor files, poor light, cut-off sheets, odd formats. Kinds as in `pictures`."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tests.service.pictures import Matte, encoded, grain, log_uniform, on_sheet, painted, to_uint8, uneven_light


def cropped(matte: np.ndarray) -> np.ndarray:
    """The matte without its empty rows and columns."""
    rows, columns = np.flatnonzero((matte > 0.5).any(1)), np.flatnonzero((matte > 0.5).any(0))
    return matte[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def sheet_of(matte: Matte, rng, low=150, high=500, share=(0.4, 0.85), room=0.8) -> np.ndarray:
    """A digit somewhere on a sheet of any shape: a matte [height, width]."""
    height = log_uniform(rng, low, high)
    width = int(height * rng.uniform(0.7, 1.4))
    return on_sheet(matte(int(min(height, width) * rng.uniform(*share))), height, width, rng, room)


def poor_jpeg(matte: Matte, rng) -> bytes:
    """Blue or black ink on white, squeezed by a messenger."""
    picture = painted(sheet_of(matte, rng, 80), (20, 20, rng.uniform(20, 160)), rng.uniform(200, 255))
    return encoded(to_uint8(picture), "JPEG", quality=int(rng.integers(10, 41)))


def screenshot(matte: Matte, rng) -> bytes:
    """A fat-stroked small digit in a corner of a drawing program's canvas, its bar of tools along one side or none."""
    height, width = log_uniform(rng, 300, 900), log_uniform(rng, 300, 900)
    size = int(min(height, width) * rng.uniform(0.15, 0.4))
    canvas = 255 - 255 * on_sheet(matte(size), height, width, rng)
    if rng.random() < 0.5:
        canvas[: height // 25] = 225
        canvas[: height // 25, 8 : width // 6] = 160
    return encoded(to_uint8(canvas))


def whiteboard(matte: Matte, rng) -> bytes:
    """A marker on a glossy board, with the glare of one or two lamps."""
    sheet = sheet_of(matte, rng)
    height, width = sheet.shape
    ink = [(30, 30, 35), (30, 50, 150), (170, 30, 40), (20, 110, 60)][int(rng.integers(4))]
    picture = painted(sheet * rng.uniform(0.75, 1), ink, (205, 210, 212)) * uneven_light(height, width, rng, 0.3)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        at, reach = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.05, 0.15) * width
        glare = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * reach**2)) * rng.uniform(0.4, 0.75)
        picture = painted(glare, (255, 255, 255), picture)
    return encoded(to_uint8(picture + grain(rng, (height, width, 1), 2)), "JPEG", quality=80)


def faint(matte: Matte, rng) -> bytes:
    """A hard pencil: a contrast of 10 to 15 %, on slightly uneven, grainy paper."""
    sheet = sheet_of(matte, rng)
    light = uneven_light(*sheet.shape, rng, 0.15)[:, :, 0]
    picture = 235 * (1 - rng.uniform(0.1, 0.15) * sheet) * light + grain(rng, sheet.shape, 1.5)
    return encoded(to_uint8(picture), "JPEG", quality=90)


def touching(matte: Matte, rng) -> bytes:
    """A digit that touches one or two of the picture's edges."""
    digit = cropped(matte(log_uniform(rng, 80, 400)))
    free = (rng.uniform(0.1, 0.8, (2, 2)) * max(digit.shape)).astype(int)
    free[0, int(rng.integers(2))] = 0
    if rng.random() < 0.5:
        free[1, int(rng.integers(2))] = 0
    sheet = np.pad(digit, free)
    return encoded(to_uint8(painted(sheet, rng.uniform(0, 70, 3), rng.uniform(200, 255, 3))))


def tight(matte: Matte, rng) -> bytes:
    """A digit cut out without any margin; a 1 becomes a very narrow picture."""
    digit = cropped(matte(log_uniform(rng, 60, 500)))
    return encoded(to_uint8(255 * digit if rng.random() < 0.3 else 250 - rng.uniform(120, 250) * digit))


def lined(matte: Matte, rng) -> bytes:
    """A school exercise book: blue lines, a red margin."""
    sheet = sheet_of(matte, rng, 250, 700)
    height, width = sheet.shape
    step, thick = rng.uniform(0.07, 0.16) * height, max(1, round(height * 0.004))
    tilt = rng.uniform(-0.03, 0.03)
    rules, margin = np.zeros_like(sheet), np.zeros_like(sheet)
    for at in np.arange(-0.2 * height, 1.2 * height, step):
        cv2.line(rules, (0, round(at)), (width, round(at + tilt * width)), 1.0, thick, cv2.LINE_AA)
    left = rng.uniform(0.05, 0.2) * width
    cv2.line(margin, (round(left), 0), (round(left - tilt * height), height), 1.0, thick, cv2.LINE_AA)
    paper = painted(margin, (225, 110, 110), painted(rules, (130, 170, 220), (246, 246, 240)))
    picture = painted(sheet, [(20, 30, 110), (25, 25, 30), (60, 60, 65)][int(rng.integers(3))], paper)
    picture = cv2.GaussianBlur(picture * uneven_light(height, width, rng, 0.25), (0, 0), 0.8)
    return encoded(to_uint8(picture + grain(rng, (height, width, 1), 2)), "JPEG", quality=85)


def dark_table(matte: Matte, rng) -> bytes:
    """A photo of a sheet, a little turned, with the dark table all around or on some sides only."""
    sheet = sheet_of(matte, rng, share=(0.5, 0.75), room=0.4)
    height, width = sheet.shape
    paper = painted(sheet, rng.uniform(15, 70, 3), rng.uniform(205, 245))
    room = (rng.uniform(0.05, 0.3, 2) * (height, width)).astype(int)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-8, 8), 1)
    turn[:, 2] += room[::-1] * rng.uniform(0.2, 1, 2) * (1 if rng.random() < 0.7 else 0)
    size = width + 2 * int(room[1]), height + 2 * int(room[0])
    paper = cv2.warpAffine(paper, turn, size, borderValue=rng.uniform(30, 100, 3))
    picture = paper * uneven_light(size[1], size[0], rng, 0.3) + grain(rng, (size[1], size[0], 1), 3)
    return encoded(to_uint8(cv2.GaussianBlur(picture, (0, 0), 0.8)), "JPEG", quality=80)


def finger(matte: Matte, rng) -> bytes:
    """A finger in a corner, or the shadow of the hand that holds the phone."""
    sheet = sheet_of(matte, rng, room=0.3, share=(0.4, 0.6))
    height, width = sheet.shape
    picture = painted(sheet, rng.uniform(15, 60, 3), (232, 230, 224))
    over = np.zeros_like(sheet)
    corner = int(rng.integers(2)) * width, int(rng.integers(2)) * height
    reach = round(rng.uniform(0.12, 0.22) * width), round(rng.uniform(0.15, 0.28) * height)
    cv2.ellipse(over, corner, reach, rng.uniform(-30, 30), 0, 360, 1.0, -1, cv2.LINE_AA)
    if rng.random() < 0.5:
        picture = painted(cv2.GaussianBlur(over, (0, 0), 2), (200, 140, 115), picture)
    else:
        over = cv2.GaussianBlur(cv2.resize(over, None, fx=1, fy=1), (0, 0), width / 40)
        picture *= 1 - rng.uniform(0.2, 0.5) * over[:, :, None]
    picture = picture * uneven_light(height, width, rng, 0.3) + grain(rng, (height, width, 1), 3)
    return encoded(to_uint8(picture), "JPEG", quality=80)


def scanner(matte: Matte, rng) -> bytes:
    """A scan with black where no sheet lay: along one side, two or all."""
    sheet = sheet_of(matte, rng, room=0.4, share=(0.4, 0.7))
    height, width = sheet.shape
    picture = 245 - rng.uniform(120, 220) * sheet + grain(rng, sheet.shape, 1.5)
    depth = (rng.uniform(0.02, 0.09, 4) * (height, height, width, width) * (rng.random(4) < 0.6)).astype(int)
    for turn, rows in enumerate(depth):
        side = (picture, picture[::-1], picture.T, picture.T[::-1])[turn]
        side[:rows] = rng.uniform(0, 30)
    return encoded(to_uint8(picture), "TIFF", compression="tiff_lzw")


def low_resolution(matte: Matte, rng) -> bytes:
    """A digit of 8 to 16 pixels, as from an old sensor; light on dark or dark on light, of few grey levels or many."""
    side = int(rng.choice([8, 10, 12, 16]))
    digit = cropped(matte(224))
    room = max(digit.shape)
    square = on_sheet(
        np.pad(digit, [((room - n) // 2, room - n - (room - n) // 2) for n in digit.shape]), room, room, rng
    )
    small = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA)
    levels = int(rng.choice([4, 16, 255]))
    small = np.rint(small / small.max() * levels) * 255 / levels
    return encoded(to_uint8(small if rng.random() < 0.5 else 255 - small))


def two_tone(matte: Matte, rng) -> bytes:
    """One bit a pixel, as a fax or a stamp: PNG, or TIFF as CCITT."""
    sheet = sheet_of(matte, rng, 40)
    picture = Image.fromarray(((sheet > 0.5) == (rng.random() < 0.2)).astype(np.uint8) * 255).convert("1", dither=0)
    return encoded(picture) if rng.random() < 0.5 else encoded(picture, "TIFF", compression="group4")


def odd_mode(matte: Matte, rng) -> bytes:
    """CMYK JPEG, 16-bit PNG, palette GIF with a see-through colour, PNG as grey or palette with alpha."""
    sheet = sheet_of(matte, rng, 60, 400)
    grey = to_uint8(rng.uniform(170, 255) * (1 - sheet))
    look = int(rng.integers(5))
    if look == 0:
        return encoded(Image.fromarray(grey).convert("RGB").convert("CMYK"), "JPEG", quality=85)
    if look == 1:
        return encoded(Image.fromarray(grey.astype(np.uint16) * int(rng.choice([4, 16, 257]))))
    if look == 2:
        return encoded(Image.fromarray(np.where(sheet > 0.5, 0, 1).astype(np.uint8), "P"), "GIF", transparency=1)
    if look == 3:
        return encoded(Image.fromarray(np.dstack([np.zeros_like(grey), to_uint8(255 * sheet)]), "LA"))
    rgb = np.dstack([np.broadcast_to(np.array((160, 20, 60), np.uint8), (*sheet.shape, 3)), to_uint8(255 * sheet)])
    return encoded(Image.fromarray(rgb).quantize(32, Image.Quantize.FASTOCTREE))


def chalkboard(matte: Matte, rng) -> bytes:
    """White or yellow chalk on a board of any strong colour, smeared by the sponge."""
    sheet = sheet_of(matte, rng)
    height, width = sheet.shape
    board = [(35, 70, 50), (30, 45, 90), (25, 25, 28), (110, 40, 40), (40, 90, 130)][int(rng.integers(5))]
    smear = cv2.GaussianBlur(grain(rng, (height, width), 1), (0, 0), width / 10, sigmaY=width / 60)
    picture = painted(np.clip(0.08 + 0.04 * smear / smear.std(), 0, 0.25), (220, 220, 215), board)
    dusty = sheet * np.clip(0.85 + 0.6 * cv2.GaussianBlur(grain(rng, (height, width), 1), (0, 0), 1.2), 0.35, 1)
    picture = painted(dusty, (235, 232, rng.uniform(140, 230)), picture) * uneven_light(height, width, rng, 0.4)
    return encoded(to_uint8(picture), "JPEG", quality=75)


def night(matte: Matte, rng) -> bytes:
    """A phone in a dim room: dark, of little contrast, with the noise of the sensor."""
    sheet = sheet_of(matte, rng, 250, 700)
    height, width = sheet.shape
    paper = np.array((95, 80, 60)) * rng.uniform(0.6, 1.3)
    picture = painted(sheet, paper * rng.uniform(0.25, 0.45), paper) * uneven_light(height, width, rng, 0.5)
    picture += grain(rng, (height, width, 3), rng.uniform(6, 12))
    return encoded(to_uint8(cv2.GaussianBlur(picture, (0, 0), 1)), "JPEG", quality=70)


def thumbnail(matte: Matte, rng) -> bytes:
    """A digit of 8 to 20 pixels that fills its frame, stretched a little, as old corpora hold them; often enlarged."""
    digit = cropped(matte(224))
    side, margin = int(rng.choice([8, 16, 20])), int(rng.integers(2))
    height, width = digit.shape
    wide = min(1.0, width / height * rng.uniform(1, 1.3))
    room = side - (margin if side > 8 else 0)
    small = cv2.resize(digit, (max(2, round(room * wide)), room), interpolation=cv2.INTER_AREA)
    free = np.subtract(side, small.shape)
    small = np.pad(small, [(n // 2, n - n // 2) for n in free])
    if side > 8 and rng.random() < 0.4:
        small = np.float32(small > 0.45)
    grown = [side, 28, side * int(rng.integers(2, 12)), int(rng.integers(40, 161))][int(rng.integers(4))]
    ways = [cv2.INTER_LINEAR, cv2.INTER_CUBIC] + ([cv2.INTER_NEAREST] if grown % side == 0 else [])
    small = cv2.resize(small / small.max(), (grown, grown), interpolation=ways[int(rng.integers(len(ways)))])
    return encoded(to_uint8(255 * small if rng.random() < 0.5 else 255 - 255 * small))


def other_frame(matte: Matte, rng) -> bytes:
    """28x28, light on black or dark on white, but larger, smaller or elsewhere than MNIST has it."""
    digit = cropped(matte(224))
    scale = rng.uniform(13, 27) / max(digit.shape)
    small = cv2.resize(digit, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    y, x = (int(rng.integers(0, 29 - n)) for n in small.shape)
    frame = np.zeros((28, 28), np.float32)
    frame[y : y + small.shape[0], x : x + small.shape[1]] = small / small.max()
    return encoded(to_uint8(255 * frame if rng.random() < 0.5 else 255 - 255 * frame))


def archive(matte: Matte, rng) -> bytes:
    """A tight crop from an old register: faded brown ink on stained paper, neighbours cut off at the sides, a rule."""
    digit = cropped(matte(log_uniform(rng, 70, 200)))
    free = (rng.uniform(0.03, 0.15, (2, 2)) * len(digit)).astype(int)
    sheet = np.pad(digit, free)
    height, width = sheet.shape
    for side in (sheet, sheet[:, ::-1]):
        if rng.random() < 0.4:
            other = cropped(matte(len(digit)))[: len(digit), ::-1]
            seen = min(other.shape[1], max(1, int(rng.uniform(0.2, 0.7) * free[1].min())))
            side[: len(other), :seen] = np.maximum(side[: len(other), :seen], other[:, :seen])
    rule = np.zeros_like(sheet)
    if rng.random() < 0.4:
        y = height - 1 - int(rng.uniform(0, 0.08) * height)
        cv2.line(rule, (0, y), (width, y), 1.0, max(1, height // 90), cv2.LINE_AA)
    stain, fade = (cv2.resize(grain(rng, (n, n), 1), (width, height), interpolation=cv2.INTER_CUBIC) for n in (4, 5))
    paper = np.array((225, 205, 165)) * rng.uniform(0.8, 1.1) + (stain * rng.uniform(2, 9))[:, :, None]
    paper = painted(rule * rng.uniform(0.3, 0.8), (125, 100, 80), paper)
    ink = np.array((75, 50, 30)) + rng.uniform(-20, 35)
    picture = painted(sheet * np.clip(0.8 + 0.12 * fade, 0.5, 1), ink, paper)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.8) + grain(rng, (height, width, 1), rng.uniform(1, 4))
    return encoded(to_uint8(picture), "JPEG", quality=int(rng.integers(60, 95)))


KINDS = {
    kind.__name__: kind
    for kind in (
        poor_jpeg,
        screenshot,
        whiteboard,
        faint,
        touching,
        tight,
        lined,
        dark_table,
        finger,
        scanner,
        low_resolution,
        two_tone,
        odd_mode,
        chalkboard,
        night,
        thumbnail,
        other_frame,
        archive,
    )
}
