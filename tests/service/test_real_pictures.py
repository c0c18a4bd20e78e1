"""The shipped digit model on realistic pictures: photos, scans, drawings, stickers, of MNIST's and of other hands."""

import numpy as np
import onnxruntime
import pytest

from service.errors import ServiceError
from service.inputs import image
from tests.server import SHIPPED, shipped
from tests.service import hard_pictures, pictures

KINDS = pictures.KINDS | hard_pictures.KINDS
FEW, FEW_FLOOR = 3, 0.95
# 62 of each kind but the huge ones, which take a second each: 2,000 in all.
PER_KIND, HUGE = 62, 16
FLOOR, KIND_FLOOR = 0.98, 0.90


@pytest.fixture(scope="module")
def session():
    """The shipped digit-cnn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = SHIPPED.folder("digit-cnn", shipped("digit-cnn")) / "model.onnx"
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def mnist():
    """The 10,000 test images and their labels."""
    return pictures.mnist_test()


def one_picture(kind, index, rng, images, labels):
    """A file and its true digit; every third is drawn by hand, the others are MNIST's, thin and fat ones too."""
    if index % 3 == 2:
        digit = int(rng.integers(10))
        return KINDS[kind](lambda side: pictures.matte_by_hand(digit, side, rng), rng), digit
    chosen, weight = int(rng.integers(len(images))), rng.uniform(-0.3, 0.6)
    return KINDS[kind](lambda side: pictures.matte_of(images[chosen], side, weight), rng), int(labels[chosen])


def hits_of(kind, count, session, mnist):
    """For each of so many pictures of a kind, whether the shipped model named the digit."""
    rng, hits = np.random.default_rng([11, *kind.encode()]), []
    for index in range(count):
        file, digit = one_picture(kind, index, rng, *mnist)
        try:
            pixels = image.from_bytes(file)
        except ServiceError:
            hits.append(False)
            continue
        (probabilities,) = session.run(["probabilities"], {"pixels": pixels[None]})
        hits.append(int(probabilities[0].argmax()) == digit)
    return hits


def test_model_reads_a_few_pictures_of_every_kind(session, mnist):
    """The quick form of the slow test below: all kinds but the huge, three of each."""
    hits = [hit for kind in KINDS if kind != "huge" for hit in hits_of(kind, FEW, session, mnist)]
    assert np.mean(hits) >= FEW_FLOOR


@pytest.mark.slow
def test_model_reads_two_thousand_realistic_pictures(session, mnist):
    """Over all kinds together the model is nearly as good as on MNIST itself, and no kind hides in the mean."""
    hits = {kind: hits_of(kind, HUGE if kind == "huge" else PER_KIND, session, mnist) for kind in KINDS}
    every = [hit for kind in hits.values() for hit in kind]
    shares = {kind: round(float(np.mean(right)), 3) for kind, right in hits.items()}
    assert len(every) == 2000
    assert np.mean(every) >= FLOOR, shares
    assert min(shares.values()) >= KIND_FLOOR, shares
