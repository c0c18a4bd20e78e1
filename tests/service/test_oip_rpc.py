"""The Open Inference Protocol over gRPC: the same answers, checks and figures as over HTTP, typed and raw."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from google.protobuf.json_format import MessageToDict

from tests.server import ROOT, Server, free_port, shipped, wait_until
from tests.service.oip import golden, infer, manifest
from tests.service.rpc import INFER, Client, address, arrays, parameter, refused, request

MODELS = ["digit-cnn", "digit-mlp", "forecast-lstm", "forecast-transformer", "topic-transformer", "topic-gru"]
DIGIT, TOPIC, SERIES = "digit-cnn", "topic-transformer", "forecast-lstm"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two processes on one port of HTTP and one of gRPC."""
    with Server(tmp_path_factory.mktemp("rpc"), grpc_port=0, access_log=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server) as client:
        yield client


@pytest.fixture(scope="module")
def digits():
    return golden(DIGIT)[0]


def same(found, model):
    expected = golden(model)[1]
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], atol=manifest(model).golden.atol)


# ---------------------------------------------------------------------- answers


@pytest.mark.parametrize("raw_out", [True, False])
@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_the_golden_sample_is_answered_in_every_form(client, model, raw, raw_out):
    """Typed and raw contents, both ways, for each kind of model; the answer explains itself."""
    asked = parameter(request(model, golden(model)[0], raw=raw), "binary_data_output", raw_out)
    response, told = client.infer(asked)
    assert (response.model_name, response.model_version) == (model, str(shipped(model)))
    same(arrays(response), model)
    assert bool(response.raw_output_contents) == raw_out
    assert {"x-model-version", "x-batch-rows", "x-provider", "x-queue-ms", "x-run-ms", "x-request-id"} <= told.keys()
    assert told["x-model-version"] == str(shipped(model))


@pytest.mark.parametrize("raw", [True, False])
def test_outputs_are_raw_unless_something_else_is_asked_for(client, raw):
    """Triton's own clients read nothing else, however they send; all are raw or all are typed."""
    response, _ = client.infer(request(SERIES, golden(SERIES)[0], raw=raw))
    assert len(response.raw_output_contents) == 3
    asked = request(SERIES, golden(SERIES)[0], raw=raw)
    for name in ("upper", "mean"):
        parameter(asked.outputs.add(name=name), "binary_data", False)
    response, _ = client.infer(asked)
    assert [each.name for each in response.outputs] == ["upper", "mean"]
    assert not response.raw_output_contents
    assert arrays(response)["mean"].shape == golden(SERIES)[1]["mean"].shape
    parameter(asked.outputs.add(name="lower"), "binary_data", True)
    assert len(client.infer(asked)[0].raw_output_contents) == 3


@pytest.mark.parametrize("raw_out", [True, False])
def test_the_best_classes_come_as_text(client, raw_out):
    """`value:index:label`, best first."""
    asked = parameter(request(TOPIC, golden(TOPIC)[0]), "binary_data_output", raw_out)
    parameter(asked.outputs.add(name="probabilities"), "classification", 2)
    response, _ = client.infer(asked)
    (output,) = response.outputs
    expected = golden(TOPIC)[1]["probabilities"]
    assert (output.datatype, list(output.shape)) == ("BYTES", [len(expected), 2])
    if raw_out:
        texts, left = [], response.raw_output_contents[0]
        while left:
            size = int.from_bytes(left[:4], "little")
            texts.append(left[4 : 4 + size])
            left = left[4 + size :]
    else:
        texts = list(output.contents.bytes_contents)
    best = [text.decode().split(":") for text in texts[::2]]
    assert [int(index) for _, index, _ in best] == expected.argmax(1).tolist()
    assert [label for *_, label in best] == [manifest(TOPIC).labels[index] for index in expected.argmax(1)]


def test_ids_and_versions_are_as_they_were_asked_for(client, digits):
    """The id of the protocol is not the request id of the metadata."""
    asked = request(DIGIT, digits, id="mine", model_version=str(shipped(DIGIT)))
    response, told = client.infer(asked, metadata=[("x-request-id", "theirs")])
    assert (response.id, told["x-request-id"]) == ("mine", "theirs")
    assert client.infer(request(DIGIT, digits))[0].id == ""
    for wrong in ("999", "0", "x"):
        assert refused(client.infer, request(DIGIT, digits, model_version=wrong))[0] == "NOT_FOUND", wrong


def test_a_request_of_many_rows_is_split_and_put_together(client, digits):
    """256 rows, more than one batch takes, typed and raw; one row more is refused."""
    many = {"pixels": np.resize(digits["pixels"], (256, 28, 28))}
    expected = np.resize(golden(DIGIT)[1]["probabilities"], (256, 10))
    for raw in (True, False):
        found = arrays(client.infer(request(DIGIT, many, raw=raw))[0])
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)
    more = {"pixels": np.zeros((257, 28, 28), np.uint8)}
    assert refused(client.infer, request(DIGIT, more)) == (
        "INVALID_ARGUMENT", "A request has 1 to 256 rows, input 'pixels' has 257.",
    )  # fmt: skip


def test_a_stream_is_answered_in_order_and_an_error_ends_one_request_only(client, digits):
    """Many requests are in hand at once."""
    asked = [request(DIGIT, digits, id=str(number)) for number in range(100)]
    asked[3].model_name = "none"
    asked[5].ClearField("raw_input_contents")
    told = list(client.stream(iter(asked)))
    assert [each.infer_response.id for each in told] == [str(number) for number in range(100)]
    assert [number for number, each in enumerate(told) if each.error_message] == [3, 5]
    assert "no model 'none'" in told[3].error_message
    assert "takes 2352 values" in told[5].error_message
    same(arrays(told[99].infer_response), DIGIT)


def test_a_stream_of_garbage_is_told_so(client, digits):
    """The next request of the same stream is answered."""
    good = request(DIGIT, digits, id="good").SerializeToString()
    call = client.channel.stream_stream(f"/{INFER.split('/')[1]}/ModelStreamInfer")
    wrong, right = call(iter([b"\xff\xff", good]), timeout=20)
    assert b"The message is none that" in wrong
    assert b"good" in right


# ---------------------------------------------------------------------- the two doors


def test_every_view_says_what_its_http_twin_says(server, client):
    """Metadata, configuration, statistics, index and readiness."""

    def told(name, /, **content):
        return MessageToDict(
            client.call(name, **content), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    def get(path):
        return server.client.get(f"/v2{path}").json()

    assert told("ServerLive") == {"live": True}
    assert told("ServerReady") == {"ready": True}
    assert told("ModelReady", name=DIGIT) == told("ModelReady", name=DIGIT, version=str(shipped(DIGIT)))
    assert told("ModelReady", name=DIGIT) == {"ready": True}
    assert told("ModelReady", name="none") == told("ModelReady", name=DIGIT, version="999") == {"ready": False}
    server_told = told("ServerMetadata")
    assert {**server_told, "extensions": sorted([*server_told["extensions"], "binary_tensor_data"])} == get("")
    for model in MODELS:
        plain = told("ModelMetadata", name=model)
        for tensor in (*plain["inputs"], *plain["outputs"]):
            tensor["shape"] = list(map(int, tensor["shape"]))
        assert plain == get(f"/models/{model}")
        ours, theirs = told("ModelConfig", name=model)["config"], get(f"/models/{model}/config")
        assert (ours["max_batch_size"], ours["backend"]) == (theirs["max_batch_size"], theirs["backend"])
        assert ours["model_transaction_policy"] == {"decoupled": False}
        for side in ("input", "output"):
            names = [(each["name"], each["data_type"], list(map(int, each["dims"]))) for each in ours[side]]
            assert names == [(each["name"], each["data_type"], each["dims"]) for each in theirs[side]]
    index = told("RepositoryIndex", ready=True)["models"]
    assert index == server.client.post("/v2/repository/index", json={"ready": True}).json()
    assert {each["name"] for each in index} >= set(MODELS)
    for name, content in (("ModelMetadata", {"name": "none"}), ("ModelConfig", {"name": DIGIT, "version": "999"}),
                          ("ModelStatistics", {"name": "none"})):  # fmt: skip
        assert refused(client.call, name, **content)[0] == "NOT_FOUND", name


def test_rows_of_both_doors_are_counted_together(server, client, digits):
    """In /stats, in the statistics of gRPC, and by route in the metrics."""

    def figures():
        """Both doors' figures, when all workers have written theirs and they agree."""
        (told,) = client.call("ModelStatistics", name=DIGIT).model_stats
        (theirs,) = server.client.get(f"/v2/models/{DIGIT}/stats").json()["model_stats"]
        success = theirs["inference_stats"]["success"]
        assert told.inference_stats.success.count > 0
        same = (told.inference_count, told.execution_count, told.inference_stats.success.ns) == (
            theirs["inference_count"], theirs["execution_count"], success["ns"],
        )  # fmt: skip
        return told.inference_count if same else None

    client.infer(request(DIGIT, digits))
    time.sleep(0.5)
    before = wait_until(figures, 5)
    client.infer(request(DIGIT, digits))
    asked = infer(digits)
    server.client.post(f"/v2/models/{DIGIT}/infer", content=asked["content"], headers=asked["headers"])
    wait_until(lambda: figures() == before + 6, 5)
    assert any(each.name == DIGIT for each in client.call("ModelStatistics").model_stats)
    assert f'route="{INFER}",status="200"' in server.client.get("/metrics").text


def test_a_call_has_its_line_in_the_access_log(server, client, digits):
    """With its id, its status and the client's address."""
    refused(client.infer, request("none", digits), metadata=[("x-request-id", "look-for-me")])
    (line,) = wait_until(lambda: [line for line in server.log.splitlines() if "look-for-me" in line], 5)
    assert f"POST {INFER} 404" in line
    assert "from 127.0.0.1" in line


def test_all_workers_listen_on_the_one_port(server, digits):
    """Each connection stays with one of them; every one answers."""
    port = int(address(server).rpartition(":")[2])
    workers = psutil.Process(server.process.pid).children()
    listening = [
        worker
        for worker in workers
        if any(each.laddr.port == port and each.status == psutil.CONN_LISTEN for each in worker.net_connections())
    ]
    assert len(listening) == len(workers) == 2

    def ask(_):
        with Client(server) as one:
            return arrays(one.infer(request(DIGIT, digits))[0])["probabilities"].argmax(1).tolist()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    assert answers == [golden(DIGIT)[1]["probabilities"].argmax(1).tolist()] * 24


def test_grpcs_own_health_check_is_answered(client):
    """For probes of Kubernetes and balancers."""
    check = "/grpc.health.v1.Health/Check"
    assert client.call(check).status == client.call(check, service="inference.GRPCInferenceService").status == 1
    assert refused(client.call, check, service="other")[0] == "NOT_FOUND"


# ---------------------------------------------------------------------- the start


def test_grpc_is_off_by_default_and_then_not_loaded(service):
    """Nor is it loaded before the workers are forked: its threads would not survive that."""
    assert "gRPC" not in service.log
    code = "import sys, service.worker, service.supervisor, service.cli; print({'grpc', 'google'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", ["grpc", "google"])
def test_without_its_packages_the_service_refuses_to_start(tmp_path, package):
    """With a sentence that says what to install."""
    code = f"import sys; sys.modules[{package!r}] = None\nfrom service.cli import main; sys.exit(main(['serve']))"
    environment = {"NEUROSERVE_GRPC_PORT": "0", "NEUROSERVE_STATE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "NEUROSERVE_GRPC_PORT is set" in done.stderr
    assert "pip install 'neuroserve[grpc]'" in done.stderr


def test_a_port_that_is_taken_is_not_shared(tmp_path, server):
    """Two services on one port would answer by turns."""
    port = address(server).rpartition(":")[2]
    said = Server(tmp_path, grpc_port=port, workers=1).refused()
    assert f"cannot serve on 127.0.0.1:{port}" in said


def test_without_keys_it_does_not_listen_beyond_this_machine(tmp_path):
    """The rule of HTTP's address: both doors have the same."""
    said = Server(tmp_path, grpc_port=free_port(), host="0.0.0.0", workers=1).refused()
    assert "no API key is set" in said
