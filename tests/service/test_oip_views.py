"""What `/v2` tells of the server and its models, against the manifests and against what really ran."""

import httpx
import pytest
from pydantic import TypeAdapter

from models.store import Store
from service.oip import schemas
from tests.server import SHIPPED, Server, shipped, wait_until
from tests.service.oip import golden, infer, manifest

PARTS = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}


def get(service, path, status=200):
    response = service.client.get(path)
    assert response.status_code == status, response.text
    return response.json()


def test_the_server_names_itself_and_its_extensions(service):
    """Those it has: a client may ask for the binary form after reading this."""
    told = get(service, "/v2")
    assert told["name"] == "neuroserve"
    assert {"binary_tensor_data", "classification", "statistics", "model_configuration"} <= set(told["extensions"])


def test_live_and_ready_tell_so(service):
    """Of the server, of a model and of a version."""
    assert get(service, "/v2/health/live") == {"live": True}
    assert get(service, "/v2/health/ready") == {"ready": True}
    assert get(service, "/v2/models/digit-cnn/ready") == {"name": "digit-cnn", "ready": True}
    version = shipped("digit-cnn")
    assert get(service, f"/v2/models/digit-cnn/versions/{version}/ready") == {"name": "digit-cnn", "ready": True}
    for path in ("/v2/models/digit-cnn/versions/999/ready", "/v2/models/none/ready"):
        assert list(get(service, path, 404)) == ["error"]


@pytest.mark.parametrize("name", SHIPPED.names())
def test_metadata_and_config_are_those_of_the_manifest(service, name):
    """Shapes with the row axis in one, without it in the other; the names are the same."""
    found = manifest(name)
    told = get(service, f"/v2/models/{name}")
    assert told == get(service, f"/v2/models/{name}/versions/{found.version}")
    assert (told["name"], told["platform"]) == (name, "onnxruntime_onnx")
    assert str(found.version) in told["versions"]
    config = get(service, f"/v2/models/{name}/config")
    assert config["max_batch_size"] == 256
    assert "dynamic_batching" in config
    for side, specs in (("input", found.inputs), ("output", found.outputs)):
        assert [each["name"] for each in told[side + "s"]] == [spec.name for spec in specs]
        for spec, mine, configured in zip(specs, told[side + "s"], config[side], strict=True):
            sizes = [size if isinstance(size, int) else -1 for size in spec.shape]
            assert mine["shape"] == sizes
            assert configured["dims"] == (sizes[1:] or [1])
            assert configured["data_type"] == "TYPE_" + mine["datatype"]
            assert configured["name"] == spec.name


@pytest.mark.parametrize("body", [None, b"{}", b'{"ready": false}', b'{"ready": true}'])
def test_the_index_lists_every_version_in_the_store(service, body):
    """All of the shipped ones answer."""
    response = service.client.post("/v2/repository/index", content=body)
    assert response.status_code == 200
    store = Store(service.state / "models")
    expected = {(name, str(version)) for name in store.names() for version in store.versions(name)}
    assert {(each["name"], each["version"]) for each in response.json()} == expected
    assert {each["state"] for each in response.json()} == {"READY"}


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}'])
def test_an_index_asked_for_wrongly_is_refused(service, body):
    """In the form of the protocol."""
    response = service.client.post("/v2/repository/index", content=body)
    assert (response.status_code, list(response.json())) == (400, ["error"])


def test_a_damaged_version_is_unavailable_with_its_reason(tmp_path):
    """It is not ready, not in the index of what is, and not asked in vain."""
    store = Store(tmp_path / "models")
    store.seed(SHIPPED)
    version = shipped("digit-mlp")
    model = store.folder("digit-mlp", version) / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1])
    with Server(tmp_path, workers=1) as server:
        path = f"/v2/models/digit-mlp/versions/{version}"
        for asked in (f"{path}/ready", "/v2/models/digit-mlp/ready"):
            assert list(get(server, asked, 503)) == ["error"]
        listed = {each["name"]: each for each in server.client.post("/v2/repository/index").json()}
        assert listed["digit-mlp"]["state"] == "UNAVAILABLE"
        assert listed["digit-mlp"]["reason"]
        ready = server.client.post("/v2/repository/index", json={"ready": True}).json()
        assert "digit-mlp" not in {each["name"] for each in ready}
        assert "digit-cnn" in {each["name"] for each in ready}


def test_stats_count_what_ran_in_all_workers(tmp_path):
    """Requests of several connections over two workers: rows, batches and times add up, and only grow."""
    with Server(tmp_path, workers=2) as server:
        inputs = golden("digit-cnn")[0]
        asked = infer(inputs)
        empty = get(server, "/v2/models/digit-cnn/stats")["model_stats"]
        assert [each["inference_count"] for each in empty] == [0]
        for _ in range(8):
            with httpx.Client(base_url=server.url) as client:
                for _ in range(5):
                    assert client.post("/v2/models/digit-cnn/infer", **asked).status_code == 200
        with httpx.Client(base_url=server.url) as client:
            assert client.post("/predict/digit", json={"pixels": inputs["pixels"][0].tolist()}).status_code == 200

        def all_counted():
            (told,) = get(server, "/v2/models/digit-cnn/stats")["model_stats"]
            done = told["inference_stats"]["success"]["count"] == 41
            return told if done and told["inference_count"] == 121 else None

        told = wait_until(all_counted, 5)
        TypeAdapter(schemas.Statistics).validate_python({"model_stats": [told]})
        figures = told["inference_stats"]
        assert figures.keys() == PARTS
        assert told["execution_count"] == sum(each["compute_infer"]["count"] for each in told["batch_stats"])
        assert sum(each["batch_size"] * each["compute_infer"]["count"] for each in told["batch_stats"]) == 121
        assert figures["success"]["ns"] == pytest.approx(figures["queue"]["ns"] + figures["compute_infer"]["ns"], abs=9)
        assert figures["compute_infer"]["ns"] > 0
        assert figures["fail"] == figures["cache_hit"] == {"count": 0, "ns": 0}
        assert told["last_inference"] > 1_700_000_000_000
        assert [told] == [
            each for each in get(server, "/v2/models/stats")["model_stats"] if each["name"] == "digit-cnn"
        ]
        version = shipped("digit-cnn")
        assert get(server, f"/v2/models/digit-cnn/versions/{version}/stats")["model_stats"] == [told]
        check_the_metrics(server, told)


def check_the_metrics(server, told):
    """Triton's names hold the same figures."""
    key = f'{{model="digit-cnn",version="{told["version"]}"}}'
    lines = dict(line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines["nv_inference_request_success" + key]) == 41
    assert float(lines["nv_inference_count" + key]) == 121
    assert float(lines["nv_inference_exec_count" + key]) == told["execution_count"]
    assert float(lines["nv_inference_pending_request_count" + key]) == 0
    for name, part in (("request", "success"), ("queue", "queue"), ("compute_infer", "compute_infer")):
        seconds = float(lines[f"nv_inference_{name}_duration_us{key}"]) / 1e6
        assert seconds == pytest.approx(told["inference_stats"][part]["ns"] / 1e9, abs=1e-6)


def test_stats_of_what_is_not_there_are_not_found(service):
    """Nor those of a version."""
    for path in ("/v2/models/none/stats", "/v2/models/digit-cnn/versions/999/stats"):
        assert list(get(service, path, 404)) == ["error"]


def test_the_shown_examples_are_requests_and_answers(service):
    """What `/docs` shows of infer is taken, and the answer has its form; every path of the protocol is there."""
    document = service.client.get("/openapi.json").json()
    paths = {path for path in document["paths"] if path.startswith("/v2")}
    model = "/v2/models/{name}"
    for path in (model, f"{model}/versions/{{version}}"):
        assert {path + end for end in ("", "/ready", "/config", "/stats", "/infer")} <= paths
    assert {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index"} <= paths
    operation = document["paths"]["/v2/models/{name}/infer"]["post"]
    requests = operation["requestBody"]["content"]["application/json"]["examples"]
    responses = operation["responses"]["200"]["content"]["application/json"]["examples"]
    assert requests.keys() == responses.keys()
    for name, shown in requests.items():
        schemas.InferRequest.model_validate(shown["value"])
        answer = service.client.post("/v2/models/digit-cnn/infer", json=shown["value"]).json()
        expected = responses[name]["value"]
        assert answer.keys() == expected.keys()
        assert answer["outputs"][0].keys() == expected["outputs"][0].keys()
        assert answer["outputs"][0]["shape"] == expected["outputs"][0]["shape"]
        schemas.InferResponse.model_validate(expected)


def test_the_shown_errors_are_those_of_their_status(service):
    """`{"error": …}` for every status of every operation under /v2."""
    document = service.client.get("/openapi.json").json()
    count = 0
    for path, methods in document["paths"].items():
        for operation in methods.values() if path.startswith("/v2") else ():
            for status, response in operation["responses"].items():
                if status[0] in "45":
                    assert list(response["content"]["application/json"]["example"]) == ["error"], (path, status)
                    count += 1
    assert count > 20
