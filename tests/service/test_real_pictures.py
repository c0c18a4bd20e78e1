"""The shipped digit model on realistic pictures: photos, scans, drawings, stickers, of MNIST's and of other hands."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.errors import ServiceError
from service.inputs import image
from tests.service import pictures

MODEL = Path(__file__).parents[2] / "models" / "zoo" / "digit-cnn"
PER_KIND = 21
FLOOR, KIND_FLOOR = 0.97, 0.80


def one_picture(kind, index, rng, images, labels):
    """A file and its true digit; every third is drawn by hand, the others are MNIST's, thin and fat ones too."""
    if index % 3 == 2:
        digit = int(rng.integers(10))
        return pictures.KINDS[kind](lambda side: pictures.matte_by_hand(digit, side, rng), rng), digit
    chosen, weight = int(rng.integers(len(images))), rng.uniform(-0.3, 0.6)
    return pictures.KINDS[kind](lambda side: pictures.matte_of(images[chosen], side, weight), rng), int(labels[chosen])


@pytest.fixture(scope="module")
def hits():
    """For each kind of picture, whether the shipped model named the digit."""
    images, labels = pictures.mnist_test()
    version = (MODEL / "live").read_text().split()[0]
    session = onnxruntime.InferenceSession(MODEL / version / "model.onnx", providers=["CPUExecutionProvider"])
    rng, hits = np.random.default_rng(11), defaultdict(list)
    for kind in pictures.KINDS:
        for index in range(6 if kind == "huge" else PER_KIND):
            file, digit = one_picture(kind, index, rng, images, labels)
            try:
                pixels = image.from_bytes(file)
            except ServiceError:
                hits[kind].append(False)
                continue
            (probabilities,) = session.run(["probabilities"], {"pixels": pixels[None]})
            hits[kind].append(int(probabilities[0].argmax()) == digit)
    return hits


def test_model_reads_realistic_pictures(hits):
    """Over all kinds of picture together the shipped model is nearly as good as on MNIST itself."""
    assert np.mean([hit for kind in hits.values() for hit in kind]) >= FLOOR


@pytest.mark.parametrize("kind", pictures.KINDS)
def test_no_kind_of_picture_is_left_behind(hits, kind):
    """A kind that is read badly does not hide in the mean."""
    assert np.mean(hits[kind]) >= KIND_FLOOR
