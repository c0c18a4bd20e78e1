"""Pictures without a digit: the shipped model is far less sure of them than of MNIST's test images."""

from collections import defaultdict

import numpy as np
import onnxruntime
import pytest

from service.errors import InvalidInput
from service.inputs import image
from tests.server import SHIPPED, shipped
from tests.service import nondigits, pictures

COUNT, FLOOR = 630, 0.98


@pytest.fixture(scope="module")
def session():
    """The shipped digit-cnn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = SHIPPED.folder("digit-cnn", shipped("digit-cnn")) / "model.onnx"
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def confidence(session, pixels):
    """The largest probability of each picture [n, 28, 28]."""
    return session.run(["probabilities"], {"pixels": pixels})[0].max(axis=1).astype(np.float64)


def auroc(high, low):
    """How often a member of `high` exceeds one of `low`, ties counted half (Mann and Whitney, 1947)."""
    low = np.sort(low)
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return float((below + upto).mean() / 2 / len(low))


def read_confidence(session, file):
    """The confidence a caller would see; 0 where the service says that there is no ink."""
    try:
        return float(confidence(session, image.from_bytes(file)[None])[0])
    except InvalidInput:
        return 0.0


def test_auroc_is_the_share_of_pairs_in_order():
    """Half a point for a tie, none for a pair in the wrong order."""
    assert auroc([3.0, 2.0], [1.0, 2.0]) == pytest.approx(3.5 / 4)
    assert auroc([1.0], [2.0]) == 0.0


def test_same_seed_gives_the_same_pictures_of_every_kind():
    """A figure reported for a seed can be had again."""
    files = nondigits.nondigits(14, 3)
    assert files == nondigits.nondigits(14, 3)
    assert {kind for kind, _ in files} == set(nondigits.KINDS)


@pytest.mark.slow
def test_confidence_tells_digits_from_pictures_without_one(session):
    """AUROC between all MNIST test images and text, noise, textures, drawings, scenes and letters."""
    images, _ = pictures.mnist_test()
    digits = np.concatenate([confidence(session, rows) for rows in np.split(images, 20)])
    others = defaultdict(list)
    for kind, file in nondigits.nondigits(COUNT, 5):
        others[kind].append(read_confidence(session, file))
    by_kind = {kind: round(auroc(digits, sure), 4) for kind, sure in others.items()}
    assert auroc(digits, np.concatenate([*others.values()])) >= FLOOR, by_kind
