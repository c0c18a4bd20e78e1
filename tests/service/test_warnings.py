"""Warnings on every door: each code where it should be, once, and nowhere else."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from models.store import Store
from neuroserve.client import Client as HttpClient
from tests.artifacts import publish_doubting
from tests.server import EXAMPLES, Server
from tests.service.oip import infer, outputs
from tests.service.rpc import Client, arrays, request
from tests.service.warned import (
    INFER,
    NAME,
    OUTLIER,
    Told,
    bar,
    counted,
    png,
    told,
    told_by_tensors,
    without_outliers,
)


def fast(server, pictures):
    return told(server.client.post("/predict/digit", json={"pixels": pictures[0].tolist()}))


def fast_file(server, pictures):
    return told(server.client.post("/predict/digit", content=png(pictures[0]), headers={"Content-Type": "image/png"}))


def asgi(server, pictures):
    return told(server.client.post("/predict/digit?version=1", json={"pixels": pictures[0].tolist()}))


def explained(server, pictures):
    return told(server.client.post("/predict/digit?explain=true", json={"pixels": pictures[0].tolist()}))


def batch(server, pictures):
    return told(server.client.post("/predict/digit/batch", json={"pixels": [each.tolist() for each in pictures]}))


def asgi_batch(server, pictures):
    body = {"pixels": [each.tolist() for each in pictures]}
    return told(server.client.post("/predict/digit/batch?version=1", json=body))


def file_batch(server, pictures):
    files = [("file", (f"{index}.png", png(each))) for index, each in enumerate(pictures)]
    return told(server.client.post("/predict/digit/batch", files=files))


def tensors(server, pictures, path=INFER, **options):
    return told_by_tensors(server.client.post(path, **infer({"pixels": np.array(pictures)}, **options)))


def tensors_as_json(server, pictures):
    return tensors(server, pictures, binary=False)


def tensors_both_ways(server, pictures):
    return tensors(server, pictures, binary_out=True)


def tensors_of_a_version(server, pictures):
    return tensors(server, pictures, f"/v2/models/{NAME}/versions/1/infer")


def rpc(server, pictures):
    with Client(server) as client:
        response, trailing = client.infer(request(NAME, {"pixels": np.array(pictures)}))
    said = response.parameters
    codes = json.loads(said["warnings"].string_param) if "warnings" in said else [[]] * len(pictures)
    return Told(codes, arrays(response)["probabilities"].tolist(), trailing.get("x-warnings"))


def streamed(server, pictures):
    with Client(server) as client:
        (answer,) = client.stream(iter([request(NAME, {"pixels": np.array(pictures)})]))
    response = answer.infer_response
    said = response.parameters
    codes = json.loads(said["warnings"].string_param) if "warnings" in said else [[]] * len(pictures)
    found = list(dict.fromkeys(code for row in codes for code in row))
    return Told(codes, arrays(response)["probabilities"].tolist(), ", ".join(found) or None)


ONE = [fast, fast_file, asgi, explained]
MANY = [batch, asgi_batch, file_batch, tensors, tensors_as_json, tensors_both_ways, tensors_of_a_version, rpc, streamed]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One process whose live digit model doubts."""
    state = tmp_path_factory.mktemp("warnings")
    store = Store(state / "models")
    publish_doubting(store)
    store.promote(NAME, 1)
    with Server(state, workers=1, grpc_port=0) as server:
        yield server


@pytest.mark.parametrize("door", ONE)
def test_one_picture_is_warned_of_by_the_models_own_doubt(server, door):
    """Above the threshold every door warns once and counts once; the probabilities are the graph's, and hold doubt."""
    before = counted(server)
    clear = door(server, [bar(0.2)])
    assert (clear.codes, clear.header) == ([[]], None)
    doubted = door(server, [bar(0.8)])
    assert (doubted.codes, doubted.header) == ([[OUTLIER]], OUTLIER)
    outlier = round(255 * 0.8) / 255
    assert max(doubted.probabilities[0]) == pytest.approx((1 - outlier) * 0.91 + outlier / 10, abs=1e-6)
    assert sum(doubted.probabilities[0]) == pytest.approx(1, abs=1e-6)
    assert counted(server) == before + 1


@pytest.mark.parametrize("door", MANY)
def test_each_row_of_many_has_warnings_of_its_own(server, door):
    """The whole answer names each code once, however many rows have it; the metric counts every row."""
    before = counted(server)
    clear = door(server, [bar(0.1)] * 3)
    assert (clear.codes, clear.header) == ([[]] * 3, None)
    mixed = door(server, [bar(0.1), bar(0.9), bar(0.3), bar(1)])
    assert (mixed.codes, mixed.header) == ([[], [OUTLIER], [], [OUTLIER]], OUTLIER)
    assert max(mixed.probabilities[3]) == pytest.approx(0.1, abs=1e-6)
    assert counted(server) == before + 2


def test_the_client_hands_warnings_on(server):
    """One picture and many; an answer without warnings has an empty tuple."""
    with HttpClient(server.url) as client:
        assert client.predict_digit(bar(0.1)).warnings == ()
        (warning,) = client.predict_digit(bar(0.9)).warnings
        assert (warning.code, "training data" in warning.detail) == (OUTLIER, True)
        found = client.predict_digits([bar(0.1), bar(0.9)])
        assert [[each.code for each in one.warnings] for one in found] == [[], [OUTLIER]]


def test_ten_answers_are_counted_ten_times(server):
    """The same picture again and again, on the fast path and over tensors, is warned of every time."""
    before = counted(server)
    for _ in range(10):
        assert fast(server, [bar(0.9)]).codes == [[OUTLIER]]
        assert tensors(server, [bar(0.9)]).codes == [[OUTLIER]]
    assert counted(server) == before + 20


def test_rows_that_run_in_several_batches_keep_their_warnings(server):
    """A request of more rows than one run takes: each row's codes at its place, over HTTP and gRPC."""
    pictures = [bar(0.9 if row in {0, 70, 199} else 0.1) for row in range(200)]
    expected = [[OUTLIER] if row in {0, 70, 199} else [] for row in range(200)]
    assert tensors(server, pictures).codes == expected
    assert rpc(server, pictures).codes == expected
    assert batch(server, pictures).codes == expected


def test_the_metadata_names_both_outputs(server):
    """A client that asks for nothing gets both outputs; one that asks for the outlier probability alone gets that."""
    names = {each["name"] for each in server.client.get(f"/v2/models/{NAME}").json()["outputs"]}
    assert names == {"probabilities", "outlier"}
    asked = infer({"pixels": np.array([bar(0.8)])}, outputs=[{"name": "outlier"}])
    found, content = outputs(server.client.post(INFER, **asked))
    assert found["outlier"].tolist() == pytest.approx([0.8])
    assert json.loads(content["parameters"]["warnings"]) == [[OUTLIER]]


# ---------------------------------------------------------------------- several marks

TWO_DIGITS = (Path(__file__).parent / "files" / "two_digits.png").read_bytes()
PNG = {"Content-Type": "image/png"}


def in_base64(data):
    return base64.b64encode(data).decode()


FILES = {
    "fast": lambda client, data: client.post("/predict/digit", content=data, headers=PNG),
    "asgi": lambda client, data: client.post("/predict/digit?version=1", content=data, headers=PNG),
    "explained": lambda client, data: client.post("/predict/digit?explain=1", content=data, headers=PNG),
    "form": lambda client, data: client.post("/predict/digit", files={"file": data}),
    "base64": lambda client, data: client.post("/predict/digit", json={"image": in_base64(data)}),
    "batch form": lambda client, data: client.post("/predict/digit/batch", files=[("file", data)]),
    "batch base64": lambda client, data: client.post("/predict/digit/batch", json={"images": [in_base64(data)]}),
    "batch explained": lambda client, data: client.post("/predict/digit/batch?explain=1", files=[("file", data)]),
}


@pytest.mark.parametrize("door", FILES)
def test_a_picture_of_two_digits_is_warned_of_on_every_door(server, door):
    """The evidence of the marks lowers the confidence, and probabilities still sum to 1; one digit has none of it."""
    before = counted(server, "several_marks")
    found = told(FILES[door](server.client, TWO_DIGITS))
    assert (found.codes, found.header) == ([["several_marks"]], "several_marks")
    assert max(found.probabilities[0]) < 0.2
    assert sum(found.probabilities[0]) == pytest.approx(1, abs=1e-6)
    assert counted(server, "several_marks") == before + 1
    seven = told(FILES[door](server.client, (EXAMPLES / "seven.png").read_bytes()))
    assert (seven.codes, seven.header) == ([[]], None)
    assert max(seven.probabilities[0]) > 0.9


def test_of_many_files_one_holds_two_digits(server):
    """The warning stands where it belongs, through the service and through the client."""
    seven = (EXAMPLES / "seven.png").read_bytes()
    files = [("file", each) for each in (seven, TWO_DIGITS, png(bar(0.9)), seven)]
    found = told(server.client.post("/predict/digit/batch", files=files))
    assert found.codes == [[], ["several_marks"], [OUTLIER], []]
    assert found.header == f"several_marks, {OUTLIER}"
    with HttpClient(server.url) as client:
        codes = [[each.code for each in one.warnings] for one in client.predict_digits([seven, TWO_DIGITS])]
    assert codes == [[], ["several_marks"]]


# ---------------------------------------------------------------------- texts

TOPIC = "topic-transformer"
BUSINESS, SPORT = "Shares of the bank rose on Wall Street today. ", "The home team won the final match by two goals. "
TEXTS = {
    "plain": ("Oil prices rise as supply fears grow", []),
    "greek": ("Καλημέρα κόσμε", ["unknown_words"]),
    "signs": ("???", ["unknown_words"]),
    "emoji": ("😀 🚀", ["unknown_words"]),
    "long": (BUSINESS * 10 + SPORT * 60, ["truncated"]),
    "long_chinese": ("你好世界 " * 400, ["truncated", "unknown_words"]),
}


def text_on_the_fast_path(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text}))


def text_of_a_model(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text, "model": TOPIC}))


def text_explained(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text, "explain": True}))


@pytest.mark.parametrize("door", [text_on_the_fast_path, text_of_a_model, text_explained])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_warned_of_by_what_was_read_of_it(server, door, name):
    """The codes are in the answer and in the header, and each is counted."""
    text, codes = TEXTS[name]
    before = {code: counted(server, code, TOPIC) for code in ("truncated", "unknown_words")}
    assert without_outliers(door(server, text)) == ([codes], sorted(codes))
    after = {code: counted(server, code, TOPIC) for code in before}
    assert {code: after[code] - before[code] for code in before} == {code: float(code in codes) for code in before}


def test_texts_of_a_batch_have_warnings_of_their_own(server):
    """In order, with one header for all."""
    answer = server.client.post(
        "/predict/sequence/batch", json={"inputs": [{"text": text} for text, _ in TEXTS.values()]}
    )
    rows, named = without_outliers(told(answer))
    assert rows == [codes for _, codes in TEXTS.values()]
    assert named == ["truncated", "unknown_words"]


def test_a_cut_text_names_both_counts(server):
    """The sentence says how many tokens were read and how many were given."""
    answer = server.client.post("/predict/sequence", json={"text": "oil " * 812}).json()
    (detail,) = [each["detail"] for each in answer["warnings"] if each["code"] == "truncated"]
    assert "256 of 812 tokens" in detail


@pytest.mark.parametrize("binary", [True, False])
def test_token_ids_are_warned_of_where_most_are_unknown(server, binary):
    """Over tensors the unknown id alone tells; padding does not count, and nothing is refused."""
    ids = np.array([[40, 41, 42, 43, 0, 0], [1, 1, 1, 40, 0, 0], [1, 40, 41, 42, 43, 44]])
    answer = server.client.post(f"/v2/models/{TOPIC}/infer", **infer({"token_ids": ids}, binary=binary))
    rows, named = without_outliers(told_by_tensors(answer))
    assert (rows, named) == ([[], ["unknown_words"], []], ["unknown_words"])
    with Client(server) as client:
        response, trailing = client.infer(request(TOPIC, {"token_ids": ids}))
    assert "unknown_words" in json.loads(response.parameters["warnings"].string_param)[1]
    assert "unknown_words" in trailing["x-warnings"]
