"""Fits the probability that a picture holds several digits: prints the constants of `service.inputs.several`.

Pictures of every kind that the tests know, of one digit and of two or three, made of MNIST's validation digits (the
last 5,000 training images); figures on pictures made of the test images follow.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from service.errors import ServiceError
from service.inputs import centre, decoder, ink, several
from tests.service import hard_pictures, pictures

KINDS = {name: kind for name, kind in (pictures.KINDS | hard_pictures.KINDS).items() if name != "huge"}
SINGLES, SEVERALS = 110, 60
"""Pictures of each kind that the fit sees; the figures are from 60 of both."""
RIDGE = 1e-5
FALSE_SHARE = 0.003
VALIDATION = 5_000


def validation() -> np.ndarray:
    """MNIST's validation images uint8 [5000, 28, 28]."""
    file = Path(os.environ["DATA_DIR"]) / "mnist" / "train-images-idx3-ubyte.gz"
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)[-VALIDATION:]


def one(images: np.ndarray, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A maker of mattes of one digit: of MNIST, drawn in code, with an underline, or with a pen that skipped."""
    index, weight, way = int(rng.integers(len(images))), rng.uniform(-0.3, 0.6), rng.random()
    seed = int(rng.integers(2**31))

    def make(size: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        if way < 0.3:
            return pictures.matte_by_hand(int(own.integers(10)), size, own)
        matte = pictures.matte_of(images[index], size, weight)
        if way < 0.37:  # the pen left the paper for a moment
            canvas = np.ones_like(matte)
            x, y = own.uniform(0.3, 0.7, 2) * size
            angle = own.uniform(0, np.pi)
            reach = np.array([np.cos(angle), np.sin(angle)]) * size
            middle = np.array([x, y])
            start, end = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
            cv2.line(canvas, start.tolist(), end.tolist(), 0.0, max(1, round(own.uniform(0.02, 0.06) * size)))
            return matte * canvas
        if way < 0.45:
            y = int(own.uniform(0.87, 0.96) * size)
            thick = max(1, round(own.uniform(0.01, 0.04) * size))
            return np.maximum(
                matte, _line(matte.shape, own.uniform(0, 0.3) * size, y, own.uniform(0.7, 1) * size, thick)
            )
        return matte

    return make


def _line(shape: tuple[int, ...], start: float, y: int, end: float, thick: int) -> np.ndarray:
    canvas = np.zeros(shape, np.float32)
    cv2.line(canvas, (round(start), y), (round(end), y), 1.0, thick)
    return canvas


def many(images: np.ndarray, rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A maker of mattes of two or three digits side by side, above each other or aslant, that do not touch."""
    count = 3 if rng.random() < 0.2 else 2
    chosen = rng.integers(len(images), size=count)
    sizes, weight = rng.uniform(0.65, 1, count), rng.uniform(-0.3, 0.6)
    gap, aslant, above, by_hand = (
        rng.uniform(0.06, 0.5),
        rng.uniform(-0.25, 0.25),
        rng.random() < 0.2,
        rng.random() < 0.3,
    )
    seed = int(rng.integers(2**31))

    def make(size: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        big = 160
        width = own.uniform(0.05, 0.12)
        found = []
        for index, share in zip(chosen, sizes, strict=True):
            side = round(big * share)
            if by_hand:
                found.append(cropped(pictures.matte_by_hand(int(own.integers(10)), side, own, width)))
            else:
                found.append(cropped(pictures.matte_of(images[index], side, weight)))
        if above:
            found = [each.T for each in found]
        high = max(each.shape[0] for each in found)
        space = round(gap * high)
        across = sum(each.shape[1] for each in found) + space * (count - 1)
        sheet = np.zeros((high + round(abs(aslant) * high) + 2, across), np.float32)
        at = 0
        for turn, each in enumerate(found):
            top = round(max(0.0, aslant if turn % 2 else -aslant) * high * own.uniform(0, 1))
            sheet[top : top + each.shape[0], at : at + each.shape[1]] = each
            at += each.shape[1] + space
        if above:
            sheet = sheet.T
        scale = 0.85 * size / max(sheet.shape)
        wide, tall = max(1, round(sheet.shape[1] * scale)), max(1, round(sheet.shape[0] * scale))
        small = cv2.resize(sheet, (wide, tall), interpolation=cv2.INTER_AREA)
        matte = np.zeros((size, size), np.float32)
        y, x = (size - tall) // 2, (size - wide) // 2
        matte[y : y + tall, x : x + wide] = small
        return matte

    return make


def cropped(matte: np.ndarray) -> np.ndarray:
    """The matte without empty rows and columns."""
    rows, columns = np.flatnonzero((matte > 0.3).any(1)), np.flatnonzero((matte > 0.3).any(0))
    return matte[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def files(images: np.ndarray, singles: int, severals: int, seed: int) -> list[tuple[str, bytes, bool]]:
    """So many pictures of each kind: its name, the file, and whether it holds several digits."""
    made = []
    for kind, make in KINDS.items():
        rng = np.random.default_rng([seed, *kind.encode()])
        made += [(kind, make(one(images, rng), rng), False) for _ in range(singles)]
        made += [(kind, make(many(images, rng), rng), True) for _ in range(severals)]
    return made


def measured(file: bytes) -> np.ndarray | None:
    """The measures of a picture; None where it has MNIST's form or is refused."""
    try:
        sent = decoder.read(file, 25_000_000)
        pixels = decoder.not_enlarged(sent)
        if centre.as_is(sent) is not None or centre.as_is(pixels) is not None:
            return None
        drawing = ink.find(pixels)
    except ServiceError:
        return None
    return None if drawing is None else several.measures(drawing.marks)


def fitted(rows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Logistic weights by Newton's method, the two sides with the same weight, a small ridge."""
    weights = np.zeros(rows.shape[1])
    balance = np.where(truth, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        slope = rows.T @ (balance * (p - truth)) / len(rows) + RIDGE * weights
        bend = (rows * (balance * p * (1 - p))[:, None]).T @ rows / len(rows) + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def table(images: np.ndarray, singles: int, severals: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Measures, truth and kinds of the pictures that can be measured."""
    found = [(kind, measured(file), truth) for kind, file, truth in files(images, singles, severals, seed)]
    kept = [(kind, row, truth) for kind, row, truth in found if row is not None]
    return np.stack([row for _, row, _ in kept]), np.array([truth for *_, truth in kept]), [kind for kind, *_ in kept]


def area_under_curve(singles: np.ndarray, severals: np.ndarray) -> float:
    """The probability that a picture of several digits has the higher value."""
    order = np.concatenate([singles, severals]).argsort(kind="stable").argsort()
    return float((order[len(singles) :].sum() - len(severals) * (len(severals) - 1) / 2) / len(singles) / len(severals))


def main() -> None:
    rows, truth, _ = table(validation(), SINGLES, SEVERALS, 1)
    weights = fitted(rows, truth)
    values = 1 / (1 + np.exp(-rows @ weights))
    threshold = float(np.quantile(values[~truth], 1 - FALSE_SHARE))
    print("WEIGHTS =", np.round(weights, 3).tolist(), "\nTHRESHOLD =", round(max(threshold, 0.5), 3))
    rows, truth, kinds = table(pictures.mnist_test()[0], SEVERALS, SEVERALS, 2)
    values = 1 / (1 + np.exp(-rows @ weights))
    warned = values > threshold
    print(
        f"test: AUROC {area_under_curve(values[~truth], values[truth]):.4f}, warned {np.mean(warned[~truth]):.4f} of "
        f"single digits, {np.mean(warned[truth]):.3f} of several",
        file=sys.stderr,
    )
    for kind in KINDS:
        mine = np.array([each == kind for each in kinds])
        said = [f"{np.mean(values[some]):.3f} ({np.mean(warned[some]):.3f})" for some in (mine & ~truth, mine & truth)]
        print(f"{kind:16s} single {said[0]}, several {said[1]}", file=sys.stderr)


if __name__ == "__main__":
    main()
