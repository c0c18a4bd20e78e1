"""Several digits in one picture: told by the marks before one is chosen, and said with the answer."""

from pathlib import Path

import cv2
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

NO_DIGIT = 255
SINGLES = 300


def large(digit, rng):
    """A digit of MNIST as dark shares [h, w], four to six times as large, without its empty border."""
    scale = int(rng.integers(4, 7))
    smooth = cv2.GaussianBlur(np.kron(digit, np.ones((scale, scale), np.uint8)), (0, 0), scale / 2)
    matte = np.clip((smooth.astype(np.float32) / 255 - 0.3) * 5 + 0.5, 0, 1)
    return several_marks.cropped(matte)


def filed(matte, rng):
    """A PNG or JPEG of ink on paper, or chalk on a board, with some grain."""
    light, dark = rng.uniform(190, 250), rng.uniform(10, 70)
    sheet = matte * dark + (1 - matte) * light if rng.random() < 0.7 else matte * light + (1 - matte) * dark
    grey = np.clip(sheet + rng.normal(0, rng.uniform(0, 4), sheet.shape), 0, 255).astype(np.uint8)
    return pictures.encoded(grey, "JPEG", quality=85) if rng.random() < 0.5 else pictures.encoded(grey)


def one_digit(digit, rng, odd):
    """One digit on a sheet; an odd one with dirt, a gap, an underline, a cut or a full stop."""
    matte = large(digit, rng)
    size = max(matte.shape)
    matte = np.pad(matte, [tuple(rng.integers(size // 6, size // 2, 2)) for _ in range(2)])
    high, wide = matte.shape
    way = int(rng.integers(5)) if odd else -1
    if way == 0:
        for x, y in rng.integers((wide, high), size=(int(rng.integers(3, 15)), 2)).tolist():
            cv2.circle(matte, (x, y), max(1, round(size * rng.uniform(0.005, 0.03))), 1.0, cv2.FILLED)
    elif way == 1:
        cv2.line(matte, (0, int(rng.integers(high))), (wide, int(rng.integers(high))), 0.0, max(1, size // 40))
    elif way == 2:
        cv2.line(matte, (wide // 4, int(high * 0.96)), (int(wide * 0.8), int(high * 0.95)), 1.0, max(1, size // 35))
    elif way == 3:
        matte = matte[high // 4 :] if rng.random() < 0.5 else matte[:, wide // 4 :]
    elif way == 4:
        cv2.circle(matte, (int(wide * 0.92), int(high * 0.8)), max(1, size // 22), 1.0, cv2.FILLED)
    return filed(matte, rng)


def several_digits(images, rng):
    """Two to four digits in a row, in a column, or down a diagonal; some touch."""
    step, count = [(0, 1), (0, 1), (1, 0), (0.7, 0.8)][int(rng.integers(4))], int(rng.choice([2, 2, 2, 3, 4]))
    mattes = [large(images[int(rng.integers(len(images)))], rng) for _ in range(count)]
    sheet, place = np.zeros((900, 900), np.float32), np.array([20.0, 20.0])
    for matte in mattes:
        high, wide = matte.shape
        top, left = np.rint(place + rng.uniform(0, 12, 2)).astype(int)
        box = sheet[top : top + high, left : left + wide]
        np.maximum(box, matte, out=box)
        place += np.array(step) * matte.shape + np.sign(step) * rng.uniform(0, 40)
    return filed(np.pad(several_marks.cropped(sheet), int(rng.integers(10, 60))), rng)


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


@pytest.mark.slow
def test_stated_and_true_accuracy_agree_among_warned_answers():
    """As many pictures of one digit as of several; an answer to a picture of several is right by chance.

    They are made by other rules than the fit's. Half of the single digits are odd: dirt, a skipping pen, an underline,
    a cut or a second small mark.
    """
    rng = np.random.default_rng(8)
    images, labels = pictures.mnist_test()
    chosen = rng.integers(len(images), size=SINGLES)
    singles = [one_digit(images[index], rng, odd=turn % 2 == 1) for turn, index in enumerate(chosen)]
    severals = [several_digits(images, rng) for _ in range(SINGLES)]
    truth = np.concatenate([labels[chosen], np.full(SINGLES, NO_DIGIT)])
    readings = [image.read_file(file) for file in singles + severals]
    doubt = np.array([each.no_digit for each in readings])
    rows = np.stack([each.pixels for each in readings])
    for name, session in sessions():
        plain, outlier = session.run(["probabilities", "outlier"], {"pixels": rows})
        answers = with_evidence(plain, doubt)
        right = np.where(truth == NO_DIGIT, 0.1, answers.argmax(1) == truth)
        marks = doubt > several.THRESHOLD
        either = marks | (outlier > SHIPPED.manifest(name, shipped(name)).doubt.threshold)
        for warned in (marks, either):
            stated, true = float(answers.max(1)[warned].mean()), float(right[warned].mean())
            print(f"{name}: {warned[:SINGLES].sum()} and {warned[SINGLES:].sum()} warned, {stated:.3f}, {true:.3f}")
            assert warned[SINGLES:].mean() > 0.5
            assert abs(stated - true) <= 0.05
