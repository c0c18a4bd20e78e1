"""Calls of gRPC on their way: one queue with HTTP, deadlines, clients that leave, keys and limits, the end."""

import ast
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from models.store import Store
from service.keys import new_key
from service.oip.rpc import messages
from tests.canaries import LIVE_LABEL, NAME, picked, pixels, publish_live, publish_table
from tests.server import ROOT, Server, wait_until
from tests.service.oip import golden, infer
from tests.service.rpc import INFER, Client, address, arrays, parameter, refused, request

DIGIT, HOLD_S = "digit-cnn", 0.4
PROTOS = ROOT / "service" / "oip" / "rpc"


@pytest.fixture(scope="module")
def digits():
    return golden(DIGIT)[0]


# ---------------------------------------------------------------------- one queue


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A service that holds every batch for company, and whose clients must send soon."""
    with Server(
        tmp_path_factory.mktemp("slow"), grpc_port=0, workers=1, max_wait_ms=HOLD_S * 1000, read_timeout_s=1
    ) as server:
        yield server


@pytest.fixture(scope="module")
def client(slow):
    with Client(slow) as client:
        yield client


def failures(server, reason):
    metrics = server.client.get("/metrics").text
    found = re.search(rf'nv_inference_request_failure\{{.*reason="{reason}".*\}} (\S+)', metrics)
    return float(found.group(1)) if found else 0.0


def rows(server):
    return server.client.get(f"/v2/models/{DIGIT}/stats").json()["model_stats"][0]["inference_count"]


def test_rows_of_grpc_and_http_share_a_batch(slow, client, digits):
    """Three of each: both answers say that they were six."""
    asked = infer(digits)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(client.infer, request(DIGIT, digits))
        other = pool.submit(
            slow.client.post, f"/v2/models/{DIGIT}/infer", content=asked["content"], headers=asked["headers"]
        )
        _, told = one.result()
        assert told["x-batch-rows"] == other.result().headers["x-batch-rows"] == "6"


def test_requests_of_one_stream_share_a_batch(slow, client, digits):
    """They are in hand together, though the answers come in order."""
    (before,) = client.call("ModelStatistics", name=DIGIT).model_stats
    began = time.perf_counter()
    assert len(list(client.stream(iter([request(DIGIT, digits)] * 10)))) == 10
    assert time.perf_counter() - began < 10 * HOLD_S / 2
    (after,) = client.call("ModelStatistics", name=DIGIT).model_stats
    assert after.inference_count - before.inference_count == 30
    assert after.execution_count - before.execution_count <= 2


def test_the_deadline_of_a_call_shortens_that_of_the_service(slow, client, digits):
    """Its own of gRPC, or the parameter `timeout` in microseconds: the row never runs."""
    before, refusals = rows(slow), failures(slow, "REJECTED")
    asked = parameter(request(DIGIT, digits), "timeout", 100_000)
    code, said = refused(client.infer, asked)
    assert (code, "The deadline passed" in said) == ("DEADLINE_EXCEEDED", True)
    assert failures(slow, "REJECTED") == refusals + 1
    began = time.perf_counter()
    assert refused(client.infer, request(DIGIT, digits), timeout=0.1)[0] == "DEADLINE_EXCEEDED"
    assert time.perf_counter() - began < HOLD_S
    time.sleep(HOLD_S)
    assert rows(slow) == before


def test_a_call_that_is_cancelled_gives_its_place_back(slow, client, digits):
    """Its rows are dropped before they run, and counted as left by their client."""
    before, left = rows(slow), failures(slow, "CANCELED")
    call = client.method("ModelInfer")[0].future(request(DIGIT, digits), timeout=20)
    stream = client.stream(iter([request(DIGIT, digits)]))
    time.sleep(HOLD_S / 4)
    call.cancel()
    stream.cancel()
    wait_until(lambda: failures(slow, "CANCELED") == left + 2, 5)
    time.sleep(HOLD_S)
    assert rows(slow) == before


def test_a_client_that_sends_nothing_is_let_go(slow, client):
    """As one over HTTP is; one that hangs up without a message is told what is missing."""

    def dribble():
        time.sleep(3)
        yield b""

    began = time.perf_counter()
    code, said = refused(client.channel.stream_unary(INFER), dribble(), timeout=20)
    assert (code, said) == ("DEADLINE_EXCEEDED", "The message did not come within 1 s.")
    assert time.perf_counter() - began < 2.5
    code, said = refused(client.channel.stream_unary(INFER), iter([]), timeout=20)
    assert (code, said) == ("INVALID_ARGUMENT", "The call ended without a message.")


def test_a_connection_without_calls_is_let_go_and_comes_back(slow, digits):
    """Idle connections cost no file for ever, and their clients do not notice."""
    port = int(address(slow).rpartition(":")[2])
    (worker,) = psutil.Process(slow.process.pid).children()

    def connected():
        return {each.raddr for each in worker.net_connections() if each.laddr.port == port and each.raddr}

    others = connected()
    with Client(slow) as idle:
        idle.infer(request(DIGIT, digits))
        mine = connected() - others
        assert mine
        wait_until(lambda: not mine & connected(), 10)
        assert len(arrays(idle.infer(request(DIGIT, digits))[0])["probabilities"]) == 3


def test_a_stream_on_which_nothing_is_asked_ends(tmp_path, digits):
    """After its last answer it waits as long as a connection of HTTP, and says what to do."""
    with Server(tmp_path, grpc_port=0, workers=1, keep_alive_s=1) as server, Client(server) as client:
        stop = threading.Event()

        def asked():
            yield request(DIGIT, digits)
            stop.wait(20)

        stream = client.stream(asked())
        assert not next(stream).error_message
        began = time.perf_counter()
        with pytest.raises(grpc.RpcError, match="No request came within 1 s") as ended:
            next(stream)
        stop.set()
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.5 < time.perf_counter() - began < 3


def test_at_its_end_a_service_answers_what_it_has_and_ends_its_streams(tmp_path, digits):
    """A stream that waits for nothing does not hold it up."""
    with Server(tmp_path, grpc_port=0, workers=1, max_wait_ms=800, shutdown_grace_s=8) as server, Client(server) as one:
        waiting = iter(lambda: time.sleep(0.1) or None, 1)
        stream = one.stream(each for each in waiting if each is not None)
        call = one.method("ModelInfer")[0].future(request(DIGIT, digits), timeout=20)
        time.sleep(0.3)
        began = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        assert len(arrays(call.result())["probabilities"]) == 3
        with pytest.raises(grpc.RpcError, match="shutting down") as ended:
            next(stream)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(20) == 0
        assert time.perf_counter() - began < 6
        assert "Traceback" not in server.log


# ---------------------------------------------------------------------- canaries


def test_a_canary_answers_its_share_of_calls(tmp_path):
    """The same keys as over HTTP; the answer says so."""
    store = Store(tmp_path / "models")
    publish_live(store)
    with Server(tmp_path, grpc_port=0, workers=1) as server, Client(server) as client:
        other = (LIVE_LABEL + 1) % 10
        version = publish_table(store, [other] * 256)
        order = {"version": version, "percent": 50, "mode": "split"}
        assert server.client.post(f"/models/{NAME}/canary", json=order).status_code == 201
        wait_until(lambda: list((store.root / NAME / "canary").glob("tally-*")), 15)
        time.sleep(0.05)
        for number in range(20):
            key = f"client-{number}"
            asked = request(NAME, {"pixels": np.array([pixels(0)], np.uint8)})
            response, told = client.infer(asked, metadata=[("x-canary-key", key)])
            mine = picked(key, version, 50)
            assert (response.model_version == str(version)) == mine == (told.get("x-canary") == "candidate")
            assert arrays(response)["probabilities"].argmax() == (other if mine else LIVE_LABEL)


# ---------------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def secrets():
    return {name: new_key(name, scopes) for name, scopes in {"web": ["predict"], "ops": ["admin"]}.items()}


@pytest.fixture(scope="module")
def closed(tmp_path_factory, secrets):
    """A service with keys that may have one request in hand; batches are held, so that one is."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys"
    file.write_text("\n".join(key.line for _, key in secrets.values()))
    with Server(
        folder / "state", grpc_port=0, workers=1, api_keys_file=file, key_concurrency=1, max_wait_ms=HOLD_S * 1000
    ) as server:
        server.key_file = file
        yield server


def test_each_call_asks_for_its_key(closed, secrets, digits):
    """In the metadata, as over HTTP; probes are open. Nobody reads what a stranger sends."""
    with Client(closed) as stranger, Client(closed, secrets["ops"][0]) as ops, Client(closed, secrets["web"][0]) as web:
        assert stranger.call("ServerLive").live
        assert stranger.call("ServerReady").ready
        assert stranger.call("/grpc.health.v1.Health/Check").status == 1
        for name in ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelStatistics", "RepositoryIndex"):
            assert refused(stranger.call, name)[0] == "UNAUTHENTICATED", name
        code, said = refused(stranger.infer, request(DIGIT, digits))
        assert (code, "needs an API key" in said) == ("UNAUTHENTICATED", True)
        assert refused(list, stranger.stream(iter([])))[0] == "UNAUTHENTICATED"
        began = time.perf_counter()
        unsent = (time.sleep(5) or b"" for _ in range(1))
        assert refused(stranger.channel.stream_unary(INFER), unsent, timeout=20)[0] == "UNAUTHENTICATED"
        assert time.perf_counter() - began < 3
        code, said = refused(ops.infer, request(DIGIT, digits))
        assert (code, "lacks the scope 'predict'" in said) == ("PERMISSION_DENIED", True)
        assert len(arrays(web.infer(request(DIGIT, digits))[0])["probabilities"]) == 3
        assert secrets["web"][0] not in closed.log


def test_a_key_takes_no_more_than_its_share(closed, secrets, digits):
    """RESOURCE_EXHAUSTED, with the seconds to wait; in a stream it is the request that is told."""
    with Client(closed, secrets["web"][0]) as web:
        first = web.method("ModelInfer")[0].future(request(DIGIT, digits), metadata=web.metadata, timeout=20)
        time.sleep(HOLD_S / 4)
        with pytest.raises(grpc.RpcError, match="has 1 requests in hand") as over:
            web.infer(request(DIGIT, digits))
        assert over.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert dict(over.value.trailing_metadata())["retry-after"] == "1"
        first.result()
        told = list(web.stream(iter([request(DIGIT, digits, id=str(number)) for number in range(3)])))
        assert [bool(each.error_message) for each in told] == [False, True, True]
        assert "has 1 requests in hand" in told[1].error_message
        assert len(arrays(web.infer(request(DIGIT, digits))[0])["probabilities"]) == 3


def test_a_key_that_is_taken_away_ends_its_stream(closed, secrets, digits):
    """Each request of a stream is judged by the keys that hold then."""

    def asked():
        yield request(DIGIT, digits)
        closed.key_file.write_text(secrets["ops"][1].line)
        wait_until(lambda: "1 API keys are in force" in closed.log, 10)
        yield request(DIGIT, digits)

    with Client(closed, secrets["web"][0]) as web:
        answers = web.stream(asked())
        assert not next(answers).error_message
        with pytest.raises(grpc.RpcError, match="not known here") as ended:
            next(answers)
        assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


# ---------------------------------------------------------------------- the messages


def test_the_descriptors_are_those_of_the_protos(tmp_path):
    """`messages.binpb` is what the compiler makes of them."""
    names = sorted(path.name for path in PROTOS.glob("*.proto"))
    out = tmp_path / "messages.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"--descriptor_set_out={out}", *names]
    subprocess.run(command, check=True)
    made, there = (FileDescriptorSet.FromString(path.read_bytes()) for path in (out, PROTOS / "messages.binpb"))
    assert {file.name: file for file in made.file} == {file.name: file for file in there.file}


def tritons():
    """The protocol's files as Triton's own client has them; its modules need an older protobuf, so they are read."""
    folder = Path(find_spec("tritonclient").submodule_search_locations[0]) / "grpc"
    for name in ("service_pb2.py", "model_config_pb2.py"):
        text = re.search(r"AddSerializedFile\((b'.*')\)", (folder / name).read_text()).group(1)
        yield FileDescriptorProto.FromString(ast.literal_eval(text))


def fields(message: DescriptorProto, place: str):
    """Every field of a message and those in it: its number, its type and whether it is repeated."""
    for field in message.field:
        kind = field.type_name.rpartition(".")[2] or field.type
        yield f"{place}.{field.name}", (field.number, field.type, kind, field.label)
    for nested in message.nested_type:
        yield from fields(nested, f"{place}.{nested.name}")


def enums(file):
    for holder in (file, *file.message_type):
        for enum in holder.enum_type:
            yield from ((f"{enum.name}.{value.name}", value.number) for value in enum.value)


def test_every_field_has_tritons_number_and_type():
    """And every method its messages."""
    (ours,) = (file for file in FileDescriptorSet.FromString((PROTOS / "messages.binpb").read_bytes()).file
               if file.package == "inference")  # fmt: skip
    theirs, numbers, methods = {}, {}, {}
    for file in tritons():
        for message in file.message_type:
            theirs |= fields(message, message.name)
        numbers |= enums(file)
        for service in file.service:
            methods |= {each.name: each for each in service.method}
    mine = {name: value for message in ours.message_type for name, value in fields(message, message.name)}
    assert len(mine) > 100
    assert mine == {name: theirs.get(name) for name in mine}
    assert dict(enums(ours)).items() <= numbers.items()
    (service,) = ours.service
    for each in service.method:
        told = methods[each.name]
        assert (each.input_type, each.output_type) == (told.input_type, told.output_type)
        assert (each.client_streaming, each.server_streaming) == (told.client_streaming, told.server_streaming)
    assert f"{ours.package}.{service.name}" == messages.INFERENCE
