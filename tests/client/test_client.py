"""Both clients against a real service on the shipped models."""

import asyncio
import inspect
import io
import json
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from neuroserve.client import AsyncClient, AsyncTraining, Client, Training, UsageError
from neuroserve.errors import Forbidden, InvalidInput, NotFound, Unauthorized
from tests.server import EXAMPLES, ROOT, Server, shipped, wait_until

SEVEN = EXAMPLES / "seven.png"
WEEK = json.loads((EXAMPLES / "week.json").read_text())
HEADLINE = json.loads((EXAMPLES / "headline.json").read_text())["text"]


@pytest.fixture(scope="module")
def client(service):
    with Client(service.url) as client:
        yield client


def pixels():
    return np.asarray(Image.open(SEVEN).convert("L").resize((28, 28)))


@pytest.mark.parametrize(
    "picture",
    [
        SEVEN,
        str(SEVEN),
        SEVEN.read_bytes(),
        Image.open(SEVEN),
        Image.open(SEVEN).convert("CMYK"),
        pixels(),
        pixels().tolist(),
        np.asarray(Image.open(SEVEN).convert("RGB").resize((90, 90))),
    ],
    ids=["path", "name", "bytes", "PIL", "PIL in CMYK", "pixels", "lists", "photo array"],
)
def test_a_digit_in_any_form(client, picture):
    """The same seven, whatever the program has it in."""
    found = client.predict_digit(picture)
    assert found.digit == 7
    assert found.confidence == max(found.probabilities) == found.probabilities[7]
    assert len(found.probabilities) == 10
    assert found.model.name == "digit-cnn"
    assert found.explanation is None


def test_a_pil_image_is_sent_upright(client):
    """A seven that lies on its side with an EXIF note that says so is still a seven."""
    image = Image.open(SEVEN).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(lying, "JPEG", exif=exif, quality=95)
    assert client.predict_digit(Image.open(lying)).digit == 7


def test_an_explanation_is_typed(client):
    """Saliency rows for a picture, words for a text, columns for a series."""
    digit = client.predict_digit(SEVEN, explain=True, model="digit-mlp").explanation
    assert (len(digit.saliency), len(digit.saliency[0])) == (28, 28)
    topic = client.predict_text(HEADLINE, explain=True).explanation
    assert [word.text for word in topic.words] == HEADLINE.split()
    series = client.forecast(WEEK["values"], WEEK["start"], explain=True).explanation
    assert len(series.weights[0]) == len(series.columns) == 7


def test_a_text_and_a_series(client):
    """A label with its probabilities; 24 hours that begin where the series ends, from lists or an array."""
    topic = client.predict_text(HEADLINE)
    assert topic.label == "Business"
    assert topic.confidence == topic.probabilities["Business"]
    start = datetime.fromisoformat(WEEK["start"])
    found = client.forecast(WEEK["values"], start)
    assert found == client.forecast(np.array(WEEK["values"]), WEEK["start"])
    assert found.target == "OT"
    assert found.times[0] == start + timedelta(hours=len(WEEK["values"]))
    assert len(found.times) == len(found.mean) == found.horizon == 24
    assert all(low <= middle <= high for low, middle, high in zip(found.lower, found.mean, found.upper, strict=True))


def test_batches_give_what_single_calls_give(client):
    """Files and pixels mixed, texts, series: the same answers at the same places."""
    pictures = [SEVEN, pixels(), SEVEN.read_bytes(), np.rot90(pixels()).copy()]
    together = client.predict_digits(pictures)
    alone = [client.predict_digit(picture) for picture in pictures]
    assert [each.digit for each in together] == [each.digit for each in alone]
    assert [each.confidence for each in together] == pytest.approx([each.confidence for each in alone], abs=1e-4)
    texts = [HEADLINE, "The team won the match", HEADLINE]
    assert [each.label for each in client.predict_texts(texts)] == ["Business", "Sports", "Business"]
    (found,) = client.forecasts([(WEEK["values"], WEEK["start"])])
    assert found.mean == pytest.approx(client.forecast(WEEK["values"], WEEK["start"]).mean, abs=1e-3)


def test_many_digits_through_the_real_limit(client):
    """600 pictures are more than one request may hold."""
    rows = pixels().tolist()
    found = client.predict_digits([rows] * 600)
    assert {each.digit for each in found} == {7}
    assert len(found) == 600


def test_a_bad_picture_of_a_batch_is_named(client):
    """A blank picture behind the first part: its place in the list that was given."""
    blank = np.zeros((28, 28), np.uint8)
    with pytest.raises(InvalidInput) as caught:
        client.predict_digits([SEVEN] * 300 + [png(blank)])
    assert (caught.value.code, caught.value.item) == ("blank_image", 300)


def png(array):
    written = io.BytesIO()
    Image.fromarray(array).save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize(
    "picture", [b"no picture", np.zeros((3, 4)), [[1, 2], [3]], np.zeros((2, 2, 9), np.uint8), 7, None]
)
def test_what_is_no_picture_is_refused_before_it_is_sent(client, picture):
    """UsageError, which is a ValueError too."""
    with pytest.raises(UsageError):
        client.predict_digit(picture)


def test_numbers_that_json_does_not_have_are_refused_before_they_are_sent(client):
    """Infinity in a series; NaN is a missing reading."""
    with pytest.raises(UsageError, match="JSON"):
        client.forecast([[float("inf")] * 7] * 168, WEEK["start"])


def test_refusals_are_typed(client):
    """404 and 422 with the service's own code, sentence and request id."""
    with pytest.raises(NotFound) as caught:
        client.model("nobody")
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id in str(caught.value)
    with pytest.raises(InvalidInput) as caught:
        client.forecast([[1.0] * 6] * 168, WEEK["start"])
    assert caught.value.errors[0].loc[:2] == ("body", "values")


def test_models_with_their_versions(client):
    """What is live, and what each version is."""
    found = {model.name: model for model in client.models()}
    cnn = found["digit-cnn"]
    assert cnn.live == shipped("digit-cnn")
    assert cnn == client.model("digit-cnn")
    assert next(version for version in cnn.versions if version.live).network == "cnn"
    assert client.promote("digit-cnn", cnn.live).live == cnn.live


def test_the_asynchronous_client_gives_the_same(client, service):
    """Every prediction, the models, and a refusal."""

    async def ask():
        async with AsyncClient(service.url) as other:
            with pytest.raises(NotFound):
                await other.model("nobody")
            asked = (other.predict_digit(SEVEN), other.predict_text(HEADLINE), other.forecast(**WEEK), other.models())
            return [*await asyncio.gather(*asked), await other.predict_digits([SEVEN] * 3)]

    expected = [client.predict_digit(SEVEN), client.predict_text(HEADLINE), client.forecast(**WEEK), client.models()]
    found = asyncio.run(ask())
    assert found[0].digit == expected[0].digit == found[4][2].digit == 7
    assert found[1].label == expected[1].label
    assert found[2].times == expected[2].times
    assert [each.name for each in found[3]] == [each.name for each in expected[3]]


def test_both_clients_have_the_same_methods():
    """Whatever one is taught, the other knows, with the same arguments."""
    for one, other in ((Client, AsyncClient), (Training, AsyncTraining)):
        for name, method in inspect.getmembers(one, inspect.isfunction):
            if not name.startswith("_"):
                twin = inspect.signature(getattr(other, name))
                assert str(twin.parameters) == str(inspect.signature(method).parameters), name


def test_keys_open_what_they_should(tmp_path):
    """No key, one that may predict, and one that may not promote."""
    settings = {"api_keys": "me:predict:0123456789abcdef", "workers": 1}
    with Server(tmp_path, ready=False, **settings) as server:
        with Client(server.url) as nobody, pytest.raises(Unauthorized):
            nobody.predict_text(HEADLINE)
        with Client(server.url, api_key="0123456789abcdef") as me:
            assert me.predict_text(HEADLINE).label == "Business"
            with pytest.raises(Forbidden):
                me.promote("digit-cnn", 1)


def test_importing_the_client_is_light():
    """No array, picture, network or service library is loaded by it, nor httpx before a client is made."""
    heavy = {"numpy", "PIL", "torch", "onnxruntime", "pydantic", "fastapi", "service", "training", "models", "httpx"}
    code = f"import sys, neuroserve.client, neuroserve.cli; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_real_training_is_watched_to_its_end(tmp_path, data_dir):
    """One epoch of the small network: events in order, then a job with its version; the same key gives the same job."""
    settings = {"trainer": "embedded", "workers": 1, "data": data_dir}
    with Server(tmp_path, **settings) as server, Client(server.url) as client:
        order = {"network": "mlp", "epochs": 1, "promote": "always", "idempotency_key": "once"}
        training = client.train("digit", **order)
        assert client.train("digit", **order).id == training.id
        events = list(training.events())
        assert training.watch(progress=False).succeeded
        assert [event.id for event in events] == [str(place) for place in range(1, len(events) + 1)]
        assert [event.type for event in events].count("epoch") == 1
        assert training.job.result.model.name == "digit-mlp"
        made = training.job.result.model.version
        assert training.job.result.model.live
        wait_until(lambda: client.model("digit-mlp").live == made, 5)
        assert client.rollback("digit-mlp").live == shipped("digit-mlp")
        assert [job.id for job in client.jobs(task="digit")] == [training.id]
