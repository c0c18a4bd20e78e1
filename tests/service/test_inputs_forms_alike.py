"""One picture, whatever form it is sent in, is read by one rule for scale and polarity."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from neuroserve.client import Client
from neuroserve.errors import ClientError
from service.errors import InvalidInput
from service.inputs import image
from tests.server import Server
from tests.service import pictures
from tests.service.test_nondigits import session_of

PNG = {"Content-Type": "image/png"}


def file_of(grid):
    out = io.BytesIO()
    Image.fromarray(grid).save(out, "PNG")
    return out.getvalue()


def variants(digit, other):
    """What people do to a 28x28 digit before they send it."""
    wide = digit.astype(int)
    return {
        "as it is": digit,
        "negative": 255 - digit,
        "dim": digit // 5,
        "dim negative": 255 - digit // 4,
        "grey on grey": 90 + digit // 4,
        "dark on grey": 200 - digit // 3,
        "on grey": (digit * 0.9 + 12).astype(np.uint8),
        "on cream paper": (240 - digit * 0.9).astype(np.uint8),
        "shifted": np.roll(digit, (3, -4), (0, 1)),
        "in a corner, dark": 255 - np.pad(digit[4:24:2, 4:24:2], ((1, 17), (2, 16))),
        "two": np.hstack([digit[:, 7:21], other[:, 7:21]]),
        "two dark": 255 - np.hstack([digit[:, 7:21], other[:, 7:21]]),
        "in blocks": np.kron(digit[:28:2, :28:2], np.ones((2, 2), np.uint8)),
        "hard": np.where(wide > 127, 255, 0),
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("alike"), workers=1) as server:
        yield server


def told(answer):
    """An answer without what differs from request to request."""
    return answer.status_code, {key: value for key, value in answer.json().items() if key != "request_id"}


def every_form(service, grid):
    """The answers to one picture: status and prediction, or status and code."""
    file = file_of(grid)
    encoded, rows = base64.b64encode(file).decode(), grid.tolist()
    post = service.client.post
    answers = {
        "file": post("/predict/digit", content=file, headers=PNG),
        "the other way": post("/predict/digit?", content=file, headers=PNG),
        "form": post("/predict/digit", files={"file": file}),
        "base64": post("/predict/digit", json={"image": encoded}),
        "pixels": post("/predict/digit", json={"pixels": rows}),
        "pixels in a query": post("/predict/digit?explain=false", json={"pixels": rows}),
        "batch of files": post("/predict/digit/batch", files=[("file", file)]),
        "batch of base64": post("/predict/digit/batch", json={"images": [encoded]}),
        "batch of pixels": post("/predict/digit/batch", json={"pixels": [rows]}),
    }
    found = {}
    for name, answer in answers.items():
        content = answer.json()
        if answer.status_code != 200:
            found[name] = answer.status_code, content["code"]
            continue
        row = content.get("predictions", [content])[0]
        found[name] = 200, row["digit"], np.round(row["probabilities"], 5).tolist(), row.get("warnings")
    with Client(service.url) as client:
        for name, given in (
            ("uint8", grid),
            ("int64", grid.astype(int)),
            ("float", grid.astype(float)),
            ("list", rows),
        ):
            try:
                answer = client.predict_digit(given)
                found[name] = 200, answer.digit, np.round(answer.probabilities, 5).tolist(), found["file"][3]
            except ClientError as error:
                found[name] = error.status, error.code
    return found


def test_every_form_of_a_picture_gets_the_same_answer(service):
    """Files, base64, pixels, client arrays, one and in a batch: MNIST, inverted, dim, moved, in blocks, two digits."""
    images, _ = pictures.mnist_test()
    for index in (3, 70, 811):
        for name, grid in variants(images[index], images[index + 1]).items():
            answers = every_form(service, grid.astype(np.uint8))
            assert all(answer == answers["file"] for answer in answers.values()), (index, name, answers)


def test_dark_ink_on_white_is_read_as_well_as_its_file(service):
    """Most digits sent as pixels in dark ink on white are named; the network alone names one in seven."""
    images, labels = pictures.mnist_test()
    chosen = 255 - images[:200]
    answer = service.client.post("/predict/digit/batch", json={"pixels": chosen.tolist()})
    hits = [row["digit"] == int(label) for row, label in zip(answer.json()["predictions"], labels, strict=False)]
    assert np.mean(hits) > 0.98


@pytest.mark.parametrize(("scale", "factor"), [(1, "255"), (16, "255/16"), (15, "255/15")])
@pytest.mark.parametrize("as_array", [True, False])
def test_a_small_scale_is_refused_with_the_factor(service, scale, factor, as_array):
    """Masks of 0 and 1, digits of 0..16, whole or fractions: 422 that says what to multiply by, in every form."""
    images, _ = pictures.mnist_test()
    grid = np.rint(images[0] / 255 * scale).astype(np.uint8)
    answers = every_form(service, grid)
    assert {(422, "invalid_scale")} == {answer[:2] for answer in answers.values()}, answers
    said = service.client.post("/predict/digit", json={"pixels": grid.tolist()}).json()
    assert f"Multiply them by {factor};" in said["detail"]
    assert said["errors"][0]["loc"] == ["body", "pixels"]
    part = images[0] / 255 * scale
    with Client(service.url) as client, pytest.raises(ClientError) as caught:
        client.predict_digit(part if as_array else part.tolist())
    assert (caught.value.status, caught.value.code) == (422, "invalid_scale")


def test_the_place_of_a_small_scale_in_a_batch_is_named(service):
    """The second picture of a batch is the one to mend."""
    images, _ = pictures.mnist_test()
    body = {"pixels": [images[0].tolist(), (images[1] > 127).astype(int).tolist()]}
    said = service.client.post("/predict/digit/batch", json=body).json()
    assert (said["code"], said["errors"][0]["loc"]) == ("invalid_scale", ["body", "pixels", 1])


def test_normalised_numbers_are_told_from_single_faults():
    """Pixels minus mean over deviation are called normalised; one wrong number in a right picture keeps its place."""
    images, _ = pictures.mnist_test()
    with pytest.raises(InvalidInput) as caught:
        image.from_pixels(((images[0] / 255 - 0.1307) / 0.3081).tolist())
    assert caught.value.code == "invalid_scale"
    rows = images[0].tolist()
    rows[3][4] = 0.5
    with pytest.raises(InvalidInput) as caught:
        image.from_pixels(rows)
    assert caught.value.errors[0]["loc"] == ["body", "pixels", 3, 4]


@pytest.mark.parametrize("name", ["digit-cnn", "digit-mlp"])
@pytest.mark.parametrize("paper", [5, 12, 20])
def test_digits_on_grey_paper_are_read_as_on_black(paper, name):
    """A 28x28 picture whose paper is not quite black, or not quite white, is no MNIST image: its ink is found first."""
    images, labels = pictures.mnist_test()
    grey = np.rint(images[:200] * ((255 - paper) / 255) + paper).astype(np.uint8)
    session = session_of(name)
    for sent in (grey, 255 - grey):
        rows = np.stack([image.read_picture(each).pixels for each in sent])
        probabilities, outlier = session.run(["probabilities", "outlier"], {"pixels": rows})
        assert (probabilities.argmax(1) == labels[:200]).mean() > 0.97
        assert (outlier > 0.5).mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "P", "PA", "LA", "La", "RGBA", "RGBa", "HSV", "CMYK", "YCbCr", "LAB", "I", "F"])
def test_pillow_images_of_every_mode_are_read(service, mode):
    """The client sends what the image shows, in whatever mode the program keeps it."""
    seven = Image.fromarray(pictures.mnist_test()[0][0])
    steps = {"La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"], "HSV": ["RGB", "HSV"], "LAB": ["RGB"], "PA": ["LA", "PA"]}
    for step in steps.get(mode, [mode]):
        seven = seven.convert(step)
    with Client(service.url) as client:
        assert client.predict_digit(seven).digit == 7


def test_an_array_of_one_channel_is_the_picture(service):
    """[28, 28, 1], as image libraries give grey pictures, is answered as [28, 28], and so is a larger one."""
    seven = pictures.mnist_test()[0][0]
    with Client(service.url) as client:
        assert client.predict_digit(seven[:, :, None]) == client.predict_digit(seven)
        large = np.kron(seven, np.ones((5, 5), np.uint8))
        assert client.predict_digit(large[:, :, None]) == client.predict_digit(large)


def test_all_of_mnist_passes_byte_for_byte():
    """The 10,000 test images reach the model as they are, and so do their negatives as the images."""
    images, _ = pictures.mnist_test()
    assert all(np.array_equal(image.read_picture(each).pixels, each) for each in images)
    assert all(np.array_equal(image.read_picture(255 - each).pixels, each) for each in images[:500])


def test_the_rule_stands_in_the_documentation(service):
    """/docs tells what the model gets of each kind of picture."""
    said = json.dumps(service.client.get("/openapi.json").json()["paths"]["/predict/digit"]["post"]["description"])
    assert "invalid_scale" in said
    assert "dark on light" in said
