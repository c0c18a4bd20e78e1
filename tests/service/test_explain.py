"""`explain=true` over real HTTP: shapes, ranges and headers; and what keeps an explanation from harming others."""

import asyncio
import base64
import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.batch import Part
from service.batcher import Batcher
from service.errors import DeadlinePassed
from service.explain import series
from tests.server import EXAMPLES
from tests.service.explaining import load, probing
from tests.service.fakes import FakeEngine
from training.datasets import mnist

SEVEN = (EXAMPLES / "seven.png").read_bytes()
WEEK = json.loads((EXAMPLES / "week.json").read_text())
PNG = {"Content-Type": "image/png"}
TEXTS = [
    "Oil prices rise as supply fears grow",
    "  AT&amp;T  to buy 🚀 rival \N{EM DASH} Reuters\n",
    "Nas\u0303tase wins\u3000the <b>Open</b> again",
    "News",
    "👩🏽\u200d🚀",
]


def explained(service, path="/predict/sequence", **body):
    answer = service.client.post(path, json={**body, "explain": True})
    assert answer.status_code == 200, answer.text
    return answer.json()["explanation"]


def decoded(picture):
    return np.asarray(Image.open(BytesIO(base64.b64decode(picture))))


@pytest.mark.parametrize("model", ["digit-cnn", "digit-mlp"])
def test_a_picture_is_explained(service, data_dir, model):
    """784 weights 0..1 beside the same answer, and the very pixels of an MNIST picture as a PNG."""
    pixels = mnist.read_idx(data_dir / mnist.FOLDER / mnist.TEST_IMAGES.name)[0]
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    plain, told = (
        service.client.post(f"/predict/digit?model={model}&explain={asked}", content=file.getvalue(), headers=PNG)
        for asked in ("false", "true")
    )
    assert "explanation" not in plain.json()
    content = told.json()
    explanation = content.pop("explanation")
    assert content == plain.json()
    weights = np.array(explanation["saliency"])
    assert weights.shape == (28, 28)
    assert (weights.min(), weights.max()) == (0, 1)
    assert not weights[pixels == 0].any()
    assert (decoded(explanation["input"]) == pixels).all()
    assert told.headers["x-batch-rows"] == "1", "the headers are those of the answer"
    assert told.headers["x-model-version"] == plain.headers["x-model-version"]


def test_pictures_of_a_batch_are_explained_one_by_one(service):
    """Each gets its own explanation, the same as alone."""
    alone = service.client.post("/predict/digit?explain=true", content=SEVEN, headers=PNG).json()["explanation"]
    seven = decoded(alone["input"])
    body = {"pixels": [seven.T.tolist(), seven.tolist()]}
    answer = service.client.post("/predict/digit/batch?explain=true", json=body).json()
    turned, same = (row["explanation"] for row in answer["predictions"])
    assert same == alone
    assert turned["saliency"] != alone["saliency"]
    assert (decoded(turned["input"]) == seven.T).all()


@pytest.mark.parametrize("text", TEXTS)
def test_words_keep_their_places(service, text):
    """Offsets point at the words as they were sent, whatever stands in them, and the largest weight is 1 or 0."""
    words = explained(service, text=text)["words"]
    assert [word["text"] for word in words] == text.split()
    assert all(text[word["start"] : word["end"]] == word["text"] for word in words)
    weights = [word["weight"] for word in words]
    assert all(0 <= weight <= 1 for weight in weights)
    assert max(weights) in {0, 1}


def test_a_word_of_an_entity_weighs_as_a_whole(service):
    """`AT&amp;T` is one word of several tokens, none of which is given to its neighbour."""
    words = explained(service, text="AT&amp;T  to buy rival, says Reuters")["words"]
    assert words[0]["text"] == "AT&amp;T"
    assert words[0]["weight"] > words[1]["weight"]


def test_a_long_text_is_explained_in_bounded_work(service):
    """Words past what the model reads have 0; the telling one among hundreds is found; the rows are few."""
    filler = "of the and to in for that with as it "  # words of no topic, so that the answer rests on the others
    text = filler * 6 + "Microsoft Windows software " + filler * 200
    assert service.client.post("/predict/sequence", json={"text": text}).json()["label"] == "Sci/Tech"
    before = rows_run(service, "topic-transformer")
    words = explained(service, text=text)["words"]
    assert rows_run(service, "topic-transformer") - before <= 100
    assert len(words) == len(text.split())
    heaviest = {word["text"] for word in sorted(words, key=lambda word: -word["weight"])[:5]}
    assert heaviest > {"Microsoft", "Windows", "software"}
    assert not any(word["weight"] for word in words[260:])


def rows_run(service, model):
    lines = service.client.get("/metrics").text.splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'neuroserve_rows_total{{model="{model}')
    )


@pytest.mark.parametrize("times", [1, 3])
def test_a_series_is_explained(service, times):
    """One row for each step that was sent, one weight a column; what the model does not look back on has 0."""
    explanation = explained(service, values=WEEK["values"] * times, start=WEEK["start"])
    weights = np.array(explanation["weights"])
    assert explanation["columns"] == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    assert weights.shape == (168 * times, 7)
    assert (weights.min(), weights.max()) == (0, 1)
    assert not weights[:-336].any()
    assert weights[:, -1].sum() > weights[:, :-1].sum(), "the target's own past matters most"


def test_a_still_series_has_no_weights(service):
    """Where nothing differs from the mean, nothing can be taken away: all 0, and no division by it."""
    assert not np.array(explained(service, values=[[1.0] * 7] * 48, start=WEEK["start"])["weights"]).any()


def test_items_of_a_mixed_batch_ask_for_themselves(service):
    """Only those that say so are explained; answers stay in order."""
    texts = [{"text": TEXTS[0], "explain": True}, {"text": TEXTS[0]}, {**WEEK, "explain": True}]
    told = service.client.post("/predict/sequence/batch", json={"inputs": texts}).json()["predictions"]
    assert told[0]["explanation"] == explained(service, text=TEXTS[0])
    assert "explanation" not in told[1]
    assert len(told[2]["explanation"]["weights"]) == 168
    assert told[0]["label"] == told[1]["label"]


def test_the_docs_say_what_a_weight_means(service):
    """Every answer's schema has its explanation, and no word of it being unavailable is left."""
    document = service.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name, field in (("Digit", "saliency"), ("Topic", "words"), ("Forecast", "weights")):
        assert "explanation" in schemas[f"{name}Prediction"]["properties"]
        assert "weigh" in schemas[f"{name}Explanation"]["properties"][field]["description"]
    assert "not available" not in json.dumps(document)


@pytest.mark.parametrize("most", [1, 7, 30, 100, 400])
@pytest.mark.parametrize("length", [1, 2, 24, 168, 1000])
def test_spans_cover_every_step(length, most):
    """However many are allowed, no step is left out, and they are never more."""
    spans = series._spans(length, most)
    assert len(spans) <= most
    assert set().union(*(range(begin, end) for begin, end in spans)) == set(range(length))


def test_an_explanation_ends_at_the_deadline_of_its_request():
    """Nothing is run for a request that is too late."""
    loaded = load("digit-mlp")

    async def late():
        async with probing(loaded, seconds=0.0) as prober:
            await prober.run({"pixels": np.zeros((1, 28, 28), np.uint8)})

    with pytest.raises(DeadlinePassed):
        asyncio.run(late())


def test_a_version_that_explains_outlives_its_swap():
    """An engine that is held is closed behind the block, not between an answer and its explanation."""

    async def run():
        batcher, engine = Batcher("digit", max_queue_rows=8, max_batch_rows=8), FakeEngine()
        with batcher.hold(engine):
            batcher.retire(engine)
            for _ in range(2):
                (future,) = batcher.submit(engine, [Part({"x": np.ones((1, 1))})], timeout_s=5)
                assert (await future).outputs[0] == 2
            assert not engine.closed
        await batcher.close()
        return engine.closed

    assert asyncio.run(run())
