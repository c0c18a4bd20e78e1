"""`/v2/…/infer` of a real service: the same answers as the graph's, in every form the protocol has."""

import gzip
import json
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.server import EXAMPLES, shipped, wait_until
from tests.service.oip import LENGTH, golden, infer, manifest, outputs

MODELS = ["digit-cnn", "digit-mlp", "forecast-lstm", "forecast-transformer", "topic-transformer", "topic-gru"]
PATH = "/v2/models/digit-cnn/infer"


def post(service, asked, path=PATH, **headers):
    return service.client.post(path, content=asked["content"], headers={**asked["headers"], **headers})


@pytest.fixture(scope="module")
def digits():
    return golden("digit-cnn")[0]


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_the_golden_sample_is_answered_in_every_form(service, model, binary, binary_out):
    """JSON and bytes, both ways, for each kind of model."""
    inputs, expected = golden(model)
    response = post(service, infer(inputs, binary=binary, binary_out=binary_out), f"/v2/models/{model}/infer")
    found, content = outputs(response)
    assert (content["model_name"], content["model_version"]) == (model, str(shipped(model)))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=manifest(model).golden.atol)
    assert (LENGTH in response.headers) == binary_out
    assert response.headers["content-type"] == ("application/octet-stream" if binary_out else "application/json")
    assert {"x-model-version", "x-batch-rows", "x-provider", "x-queue-ms", "x-run-ms", "x-request-id"} <= set(
        response.headers
    )


def test_a_version_in_the_path_answers_and_an_unknown_one_is_not_found(service, digits):
    """With its number in the answer."""
    version = shipped("digit-cnn")
    found, content = outputs(post(service, infer(digits), f"/v2/models/digit-cnn/versions/{version}/infer"))
    assert content["model_version"] == str(version)
    for wrong in ("999", "0", "x", "9" * 30):
        response = post(service, infer(digits), f"/v2/models/digit-cnn/versions/{wrong}/infer")
        assert (response.status_code, list(response.json())) == (404, ["error"]), wrong
    assert len(found["probabilities"]) == 3


def test_nested_data_is_taken_as_flat_data_is(service, digits):
    """Both are row-major."""
    content = {"inputs": [{"name": "pixels", "shape": [3, 28, 28], "datatype": "UINT8", "data": None}]}
    answers = []
    for data in (digits["pixels"].tolist(), digits["pixels"].ravel().tolist()):
        content["inputs"][0]["data"] = data
        answers.append(outputs(service.client.post(PATH, json=content))[0]["probabilities"])
    np.testing.assert_array_equal(*answers)


def test_the_id_comes_back(service, digits):
    """The id of the protocol is not the request id of the headers."""
    response = post(service, infer(digits, id="mine"), **{"X-Request-ID": "theirs"})
    assert outputs(response)[1]["id"] == "mine"
    assert response.headers["x-request-id"] == "theirs"
    assert "id" not in outputs(post(service, infer(digits)))[1]


def test_only_the_outputs_asked_for_come_in_the_asked_order_and_form(service):
    """A flag of the output goes before that of the request."""
    inputs, expected = golden("forecast-lstm")
    wanted = [{"name": "upper"}, {"name": "mean", "parameters": {"binary_data": False}}]
    asked = infer(inputs, binary_out=True, outputs=wanted)
    found, content = outputs(post(service, asked, "/v2/models/forecast-lstm/infer"))
    assert [each["name"] for each in content["outputs"]] == ["upper", "mean"]
    assert ["data" in each for each in content["outputs"]] == [False, True]
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-3)


def test_classes_come_with_their_labels_best_first(service):
    """`value:index:label`, as JSON or as length-prefixed bytes."""
    inputs, expected = golden("topic-transformer")
    wanted = [{"name": "probabilities", "parameters": {"classification": 2, "binary_data": False}}]
    path = "/v2/models/topic-transformer/infer"
    told = post(service, infer(inputs, outputs=wanted), path).json()["outputs"][0]
    assert (told["datatype"], told["shape"]) == ("BYTES", [len(expected["probabilities"]), 2])
    labels = manifest("topic-transformer").labels
    for row, first, second in zip(expected["probabilities"], told["data"][::2], told["data"][1::2], strict=True):
        value, index, label = first.split(":")
        assert (int(index), label) == (row.argmax(), labels[row.argmax()])
        assert float(value) == pytest.approx(row.max(), abs=1e-3)
        assert float(second.split(":")[0]) <= float(value)
    wanted[0]["parameters"]["binary_data"] = True
    response = post(service, infer(inputs, outputs=wanted), path)
    tail = response.content[int(response.headers[LENGTH]) :]
    texts = []
    while tail:
        size = int.from_bytes(tail[:4], "little")
        texts, tail = [*texts, tail[4 : 4 + size].decode()], tail[4 + size :]
    assert texts == told["data"]


def test_more_classes_than_there_are_give_all(service, digits):
    """And an output without labels of its own gives none."""
    wanted = [{"name": "probabilities", "parameters": {"classification": 99}}]
    assert post(service, infer(digits, outputs=wanted)).json()["outputs"][0]["shape"] == [3, 10]
    inputs, _ = golden("forecast-lstm")
    wanted = [{"name": "mean", "parameters": {"classification": 1}}]
    told = post(service, infer(inputs, outputs=wanted), "/v2/models/forecast-lstm/infer").json()
    assert told["outputs"][0]["data"][0].count(":") == 1


def test_a_body_that_is_the_tensor_alone_is_one_row(service, digits):
    """Inference-Header-Content-Length: 0; the answer is binary."""
    expected = golden("digit-cnn")[1]["probabilities"]
    response = service.client.post(PATH, content=digits["pixels"][1].tobytes(), headers={LENGTH: "0"})
    np.testing.assert_allclose(outputs(response)[0]["probabilities"], expected[1:2], atol=1e-3)
    assert response.headers["content-type"] == "application/octet-stream"
    ids = golden("topic-transformer")[0]["token_ids"][:1]
    path = "/v2/models/topic-transformer/infer"
    response = service.client.post(path, content=ids.tobytes(), headers={LENGTH: "0"})
    assert outputs(response)[0]["probabilities"].shape == (1, 4)


@pytest.mark.parametrize(
    ("model", "size"), [("digit-cnn", 0), ("digit-cnn", 785), ("topic-transformer", 0), ("topic-transformer", 7),
                        ("forecast-lstm", 784)]
)  # fmt: skip
def test_a_raw_body_that_is_no_row_is_refused(service, model, size):
    """Too short, not a whole number of values, or for a model with several inputs."""
    response = service.client.post(f"/v2/models/{model}/infer", content=b"\1" * size, headers={LENGTH: "0"})
    assert (response.status_code, list(response.json())) == (400, ["error"])


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("binary", [True, False])
def test_packed_bodies_are_taken_and_answers_are_packed_when_asked(service, name, pack, binary):
    """The lengths are those of the unpacked bodies."""
    inputs = {"pixels": np.repeat(golden("digit-cnn")[0]["pixels"], 20, axis=0)}
    asked = infer(inputs, binary=binary, binary_out=binary)
    asked["content"] = pack(asked["content"])
    response = post(service, asked, **{"Content-Encoding": name, "Accept-Encoding": name})
    assert response.headers["content-encoding"] == name
    assert int(response.headers["content-length"]) < len(response.content)
    assert len(outputs(response)[0]["probabilities"]) == 60
    assert "content-encoding" not in post(service, asked, **{"Content-Encoding": name, "Accept-Encoding": "br"}).headers


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"{}", 415),
        ("gzip", b"{}", 400),
        ("gzip", gzip.compress(b"{}")[:-4], 400),
        ("gzip", gzip.compress(b"{}") + b"more", 400),
        ("deflate", zlib.compress(bytes(11 * 2**20)), 413),
        ("gzip", gzip.compress(bytes(2**28)), 413),
    ],
    ids=["unknown", "not packed", "cut", "followed", "too large", "bomb"],
)
def test_a_packed_body_that_cannot_be_taken_is_refused(service, encoding, body, status):
    """A bomb is not unpacked beyond the limit."""
    response = service.client.post(PATH, content=body, headers={"Content-Encoding": encoding})
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert ("accept-encoding" in response.headers) == (status == 415)


def test_a_request_of_more_rows_than_a_batch_is_answered_in_order(service, digits):
    """They go in several batches."""
    inputs = {"pixels": np.tile(digits["pixels"], (64, 1, 1))}
    response = post(service, infer(inputs))
    expected = np.tile(golden("digit-cnn")[1]["probabilities"], (64, 1))
    np.testing.assert_allclose(outputs(response)[0]["probabilities"], expected, atol=1e-3)
    assert int(response.headers["x-batch-rows"]) <= 64


def test_rows_from_both_doors_share_a_batch(service, digits):
    """A picture at /predict and one at /v2, at the same time, are run together now and then."""
    picture = (EXAMPLES / "seven.png").read_bytes()

    def ask(turn):
        if turn % 2:
            response = post(service, infer({"pixels": digits["pixels"][:1]}))
        else:
            response = service.client.post("/predict/digit", content=picture, headers={"Content-Type": "image/png"})
        return response.status_code, int(response.headers["x-batch-rows"]), turn % 2

    before = service.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(400)))
    assert {status for status, _, _ in answers} == {200}
    assert max(rows for _, rows, v2 in answers if v2) > 1
    assert max(rows for _, rows, v2 in answers if not v2) > 1

    def counted():
        after = service.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]
        rows, batches = (after[name] - before[name] for name in ("inference_count", "execution_count"))
        return batches if rows == 400 else None

    assert wait_until(counted, 5) < 400


def test_a_timeout_may_only_shorten_the_deadline(service, digits):
    """Of many requests at once those that must wait longer than a microsecond are refused; 0 stands for no limit."""
    many = {"pixels": np.tile(digits["pixels"], (20, 1, 1))}
    hurried, patient = (infer(many, parameters={"timeout": timeout, "priority": 3}) for timeout in (1, 0))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(service, hurried), range(64)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("deadline" in answer.json()["error"] for answer in answers if answer.status_code == 503)
    with ThreadPoolExecutor(16) as pool:
        assert {answer.status_code for answer in pool.map(lambda _: post(service, patient), range(64))} == {200}
    failures = [
        line for line in service.client.get("/metrics").text.splitlines() if "nv_inference_request_failure{" in line
    ]
    rejected = [line for line in failures if 'model="digit-cnn"' in line and 'reason="REJECTED"' in line]
    assert sum(float(line.split()[-1]) for line in rejected) >= sum(answer.status_code == 503 for answer in answers)


@pytest.mark.parametrize("model", ["digit-cnn", "digit-mlp"])
def test_errors_of_either_way_in_have_the_form_of_the_protocol(service, model):
    """A default model has the short way, others the long one until they are open."""
    path = f"/v2/models/{model}/infer"
    for body in (b"", b"{", b"[]", b"{}", b'{"inputs": []}', b"[" * 5000, b"\xff"):
        response = service.client.post(path, content=body)
        assert (response.status_code, list(response.json())) == (400, ["error"]), body[:10]
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", PATH, 405),
        ("POST", "/v2/models/digit-cnn", 405),
        ("POST", "/v2/repository/models/digit-cnn/load", 501),
        ("POST", "/v2/repository/models/digit-cnn/unload", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/cudasharedmemory/region/x/register", 501),
        ("GET", "/v2/trace/setting", 501),
        ("POST", "/v2/logging", 501),
        ("POST", "/v2/models/digit-cnn/generate", 501),
    ],
)
def test_errors_of_the_framework_have_the_form_of_the_protocol_too(service, method, path, status):
    """Nothing under /v2 answers with problem+json."""
    response = service.client.request(method, path)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert response.headers["content-type"] == "application/json"
    assert (status == 405) == ("allow" in response.headers)


def test_a_body_over_the_limit_is_refused(service):
    """Before it is read."""
    response = service.client.post(PATH, content=bytes(11 * 2**20))
    assert (response.status_code, list(response.json())) == (413, ["error"])


def test_a_tensor_in_shared_memory_is_refused(service):
    """That is an extension which is not offered."""
    described = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8"}
    described["parameters"] = {"shared_memory_region": "mine", "shared_memory_byte_size": 784}
    response = service.client.post(PATH, content=json.dumps({"inputs": [described]}))
    assert (response.status_code, list(response.json())) == (501, ["error"])
