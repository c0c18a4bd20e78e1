"""Several digits in one picture: told by the marks before one is chosen, and said with the answer."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.errors import ServiceError
from service.inputs import image, several
from service.warnings import with_evidence
from tests.bench import several_marks
from tests.server import SHIPPED, Server, shipped
from tests.service import pictures
from tests.service.test_nondigits import auroc

TWO = Path(__file__).parent / "files" / "two_digits.png"
PNG = {"Content-Type": "image/png"}
SHARE, PER_KIND = 0.97, 12
QUICK_KINDS = ("mouse", "coloured", "specked", "framed", "white_on_black")


def side_by_side(one, other, gap=8):
    """Two MNIST images on a white sheet, drawn three times as large, with some room around."""
    parts = [np.kron(each[:, each.any(0)], np.ones((3, 3), np.uint8)) for each in (one, other)]
    row = np.hstack([parts[0], np.zeros((84, gap), np.uint8), parts[1]])
    return 255 - np.pad(row, 30)


def several_of(sent):
    return image.read_picture(sent).no_digit


def test_two_digits_are_told_from_one():
    """Side by side and above each other they are above the threshold; each alone is not, on most of twenty pairs."""
    images, _ = pictures.mnist_test()
    pairs = [(images[n], images[n + 50]) for n in range(20)]
    both = [several_of(side_by_side(*pair)) for pair in pairs]
    alone = [
        several_of(np.pad(255 - np.kron(one, np.ones((3, 3), np.uint8)), 30, constant_values=255)) for one, _ in pairs
    ]
    assert np.mean(np.array(both) > several.THRESHOLD) > 0.8
    assert max(alone) < several.THRESHOLD
    assert np.mean(alone) < 0.15


def test_mnist_form_has_no_evidence():
    """No image of MNIST, nor its negative, is doubted for its marks."""
    images, _ = pictures.mnist_test()
    assert not any(image.read_picture(each).no_digit for each in images[:2000])


def test_an_answer_for_two_digits_says_so_and_is_less_sure(tmp_path):
    """Warning, header and confidence, by file and by base64, in a batch for the one picture alone, in both ways."""
    file = TWO.read_bytes()
    seven = (Path("service") / "examples" / "seven.png").read_bytes()
    with Server(tmp_path, workers=1) as server:
        for path in ("/predict/digit", "/predict/digit?explain=false"):
            answer = server.client.post(path, content=file, headers=PNG)
            content = answer.json()
            assert "several_marks" in [each["code"] for each in content["warnings"]]
            assert "several_marks" in answer.headers["X-Warnings"]
            assert content["confidence"] < 0.5
            assert sum(content["probabilities"]) == pytest.approx(1, abs=1e-4)
        batch = server.client.post("/predict/digit/batch", files=[("file", seven), ("file", file)])
        first, second = batch.json()["predictions"]
        assert "warnings" not in first
        assert "several_marks" in [each["code"] for each in second["warnings"]]
        assert "several_marks" in batch.headers["X-Warnings"]


def sessions():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name in ("digit-cnn", "digit-mlp"):
        file = SHIPPED.folder(name, shipped(name)) / "model.onnx"
        yield name, onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def read(files):
    """What can be read of these files, and whether each holds several digits."""
    found = []
    for _, file, truth in files:
        try:
            found.append((image.read_file(file), truth))
        except ServiceError:
            continue
    return [reading for reading, _ in found], np.array([truth for _, truth in found])


@pytest.mark.slow
def test_confidence_tells_one_digit_from_several():
    """On pictures of every kind made of the test images: AUROC of the confidence, false warnings, for both networks."""
    readings, truth = read(several_marks.files(pictures.mnist_test()[0], PER_KIND, PER_KIND, 5))
    doubt = np.array([each.no_digit for each in readings])
    rows = np.stack([each.pixels for each in readings])
    for name, session in sessions():
        plain = session.run(["probabilities"], {"pixels": rows})[0]
        sure = with_evidence(plain, doubt).max(axis=1)
        reached = auroc(sure[~truth], sure[truth])
        print(
            f"{name}: AUROC {reached:.4f}, without the evidence {auroc(plain.max(1)[~truth], plain.max(1)[truth]):.4f}"
        )
        assert reached >= SHARE
    warned = doubt > several.THRESHOLD
    print(f"warned of {warned[~truth].mean():.4f} of single digits, of {warned[truth].mean():.3f} of several")
    assert warned[~truth].mean() <= 0.01
    assert warned[truth].mean() > 0.6
