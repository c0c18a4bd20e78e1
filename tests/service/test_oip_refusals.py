"""What `/v2` refuses for its state, not for its words: a full queue, a deadline, a client that left, a missing key."""

import gzip
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server import Server, wait_until
from tests.service.oip import golden, infer

PATH = "/v2/models/digit-cnn/infer"
WAIT_S = 0.4


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """One worker that holds every batch back for a while, with room for eight rows."""
    with Server(tmp_path_factory.mktemp("waiting"), workers=1, max_wait_ms=WAIT_S * 1000, max_queue_rows=8) as server:
        yield server


def one_row(**content):
    return infer({"pixels": golden("digit-cnn")[0]["pixels"][:1]}, **content)


def failures(server, reason):
    """Requests that the metrics have counted as failed for a reason."""
    lines = server.client.get("/metrics").text.splitlines()
    mine = [line for line in lines if line.startswith('nv_inference_request_failure{model="digit-cnn"')]
    return sum(float(line.rpartition(" ")[2]) for line in mine if f'reason="{reason}"' in line)


@pytest.mark.parametrize("encoding", ["identity", "gzip"], ids=["short way", "long way"])
def test_a_full_queue_is_unavailable(waiting, encoding):
    """503 with `Retry-After`, at once; the rows that were in the queue are answered; each refusal is counted."""
    before = failures(waiting, "REJECTED")
    asked = one_row()
    if encoding == "gzip":
        asked = {"content": gzip.compress(asked["content"]), "headers": asked["headers"] | {"Content-Encoding": "gzip"}}

    def ask(_):
        with httpx.Client(base_url=waiting.url) as client:
            began = time.monotonic()
            return client.post(PATH, **asked), time.monotonic() - began

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    refused = [(answer, took) for answer, took in answers if answer.status_code != 200]
    assert 1 <= len(refused) <= 12
    for answer, _ in refused:
        assert (answer.status_code, answer.headers["retry-after"], list(answer.json())) == (503, "1", ["error"])
    assert failures(waiting, "REJECTED") == before + len(refused)


def test_a_timeout_ends_the_wait_before_the_service_would(waiting):
    """503 when the microseconds have passed, and no row is run; a longer one changes nothing."""
    before = waiting.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]["inference_count"]
    began = time.monotonic()
    answer = waiting.client.post(PATH, **one_row(parameters={"timeout": 20_000}))
    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert "deadline" in answer.json()["error"]
    assert time.monotonic() - began < WAIT_S
    time.sleep(WAIT_S)
    assert waiting.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]["inference_count"] == before
    assert waiting.client.post(PATH, **one_row(parameters={"timeout": 10**15})).status_code == 200


def test_a_client_that_left_is_counted_and_its_row_not_run(waiting):
    """CANCELED, as Triton calls it."""
    before = failures(waiting, "CANCELED")
    rows = waiting.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]["inference_count"]
    asked, address = one_row(), urlsplit(waiting.url)
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked['content'])}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in asked["headers"].items())
    for _ in range(3):
        with socket.create_connection((address.hostname, address.port)) as line:
            line.sendall(head.encode() + b"\r\n" + asked["content"])
    wait_until(lambda: failures(waiting, "CANCELED") == before + 3, 5)
    assert waiting.client.post(PATH, **one_row()).status_code == 200
    told = waiting.client.get("/v2/models/digit-cnn/stats").json()["model_stats"][0]
    assert told["inference_count"] == rows + 1
    assert told["inference_stats"]["fail"]["count"] >= 3


def test_a_missing_key_is_told_in_the_form_of_the_protocol(tmp_path):
    """401 without one, 403 with one of another scope, on the short way and on the long one."""
    keys = "web:predict:a-secret-of-enough-length-1,ops:admin:a-secret-of-enough-length-2"
    with Server(tmp_path, workers=1, api_keys=keys) as server:
        for path in (PATH, "/v2/models/digit-mlp/infer"):
            for key, status in ((None, 401), ("wrong", 401), ("a-secret-of-enough-length-1", 200)):
                asked = one_row()
                if key is not None:
                    asked["headers"]["Authorization"] = f"Bearer {key}"
                answer = server.client.post(path, **asked)
                assert answer.status_code == status, answer.text
                assert status == 200 or list(answer.json()) == ["error"]
        assert server.client.get("/v2/health/ready").status_code == 200
        assert list(server.client.get("/v2/models/digit-cnn").json()) == ["error"]
        operations = server.client.get("/openapi.json").json()["paths"][PATH.replace("digit-cnn", "{name}")]
        shown = operations["post"]["responses"]["401"]["content"]["application/json"]["example"]
        assert list(shown) == ["error"]
