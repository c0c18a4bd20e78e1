"""Requests that no honest client sends: each gets an answer of the documented form, and nothing is done for it."""

import math
import socket

import httpx
import pytest

from service.errors import InternalError
from service.exchange import Desk
from service.wire import parse_json, problem
from tests.server import Server, shipped

JSON = {"Content-Type": "application/json"}
PROBLEM = "application/problem+json"
TOO_MUCH = 11 * 2**20


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A service whose store the tests change."""
    with Server(tmp_path_factory.mktemp("strange"), workers=1) as server:
        yield server


def told(service, raw):
    """What a request sent byte by byte is answered: the head's lines, and the JSON of the body."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=20) as line:
        line.sendall(raw)
        answer = b"".join(iter(lambda: line.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


@pytest.mark.parametrize("body", ['{"\\ud800": NaN}', '{"text": "\\uDC00", "model": "\\ud800", "version": NaN}'])
@pytest.mark.parametrize("path", ["/predict/sequence", "/predict/digit", "/v2/models/digit-cnn/infer"])
def test_half_a_surrogate_pair_beside_nan_is_answered(service, path, body):
    """Python's JSON reader, which NaN calls for, lets such text in; it could not be sent back, and nobody answered."""
    answer = service.client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert "half of a surrogate pair" in answer.text


LATIN_1 = '{"text": "Café prices rise", "task": "digit", "version": 1}'.encode("latin-1")
JSON_PATHS = [
    "/predict/sequence",
    "/predict/sequence?",
    "/predict/sequence/batch",
    "/predict/digit",
    "/predict/digit/batch",
    "/train",
    "/models/digit-cnn/promote",
    "/models/digit-cnn/canary",
    "/v2/models/topic-gru/infer",
    "/v2/repository/index",
]


@pytest.mark.parametrize("body", [LATIN_1, LATIN_1[:-1] + b', "x": NaN}', '{"text": "Oil"}'.encode("utf-16") + b"\xff"])
@pytest.mark.parametrize("path", JSON_PATHS)
def test_a_body_that_is_not_utf8_is_refused_as_that(own, path, body):
    """Whoever reads it: the sentence names the byte, and what to do."""
    answer = own.client.post(path, content=body, headers=JSON)
    told = answer.json()
    assert answer.status_code == 400
    assert told.get("detail", told.get("error")).startswith("The body is not UTF-8: byte 0x")
    if not path.startswith("/v2"):
        assert told["code"] == "unreadable_json"


def test_a_binary_request_whose_head_is_not_utf8_is_refused_as_that(service):
    """The extension of the protocol puts the JSON before the bytes."""
    headers = {**JSON, "Inference-Header-Content-Length": str(len(LATIN_1))}
    answer = service.client.post("/v2/models/topic-gru/infer", content=LATIN_1 + bytes(8), headers=headers)
    assert answer.status_code == 400
    assert "is not UTF-8: byte 0xe9 at position 13" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/predict/sequence", "/predict/sequence?"])
def test_a_byte_order_mark_is_no_part_of_the_text(service, path):
    """Windows puts it before every text that it saves as UTF-8."""
    answer = service.client.post(path, content='{"text": "Oil prices rise"}'.encode("utf-8-sig"), headers=JSON)
    assert (answer.status_code, answer.json()["label"]) == (200, "Business")


def test_a_pair_beside_nan_is_text_like_any_other():
    """Only halves are refused."""
    assert parse_json(b'{"a": NaN, "b": "\\ud83d\\ude00"}')["b"] == "\U0001f600"


WIDE = ["9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775808"]


@pytest.mark.parametrize("digits", [*WIDE, "-9223372036854775809", "1" + "0" * 300])
def test_nan_elsewhere_changes_no_number(digits):
    """Both JSON readers make the same of a whole number, within 64 bits and beyond."""
    (plain,), (beside_nan, _) = parse_json(f"[{digits}]".encode()), parse_json(f"[{digits}, NaN]".encode())
    assert beside_nan == plain
    assert type(beside_nan) is type(plain)


def test_a_number_of_ten_thousand_digits_beside_nan_is_infinite():
    """Python refuses to read so long a whole number."""
    assert parse_json(b"[-" + b"9" * 10_000 + b", NaN]")[0] == -math.inf


def test_an_error_repeats_any_text():
    """What cannot be encoded is replaced, in errors of every origin."""
    error = InternalError("\ud800")
    assert b'"?"' in problem(error, "id")[0]


def test_one_request_that_fails_unforeseen_leaves_no_other_waiting():
    """All requests of one turn are answered, whatever happens to the first of them."""

    class Waiting:
        disconnected = False
        head = httpx.Request("POST", "http://x/")
        failed = gone_on = None

        def go_on(self, decoded):
            self.gone_on = decoded
            if decoded == "bad":
                raise RuntimeError

        def fail(self, error):
            self.failed = error

    desk, first, second = object.__new__(Desk), Waiting(), Waiting()

    class Endpoint:
        def at_once(self, requests):
            return ["bad", "good"]

    for each in (first, second):
        each.head = type("Head", (), {"content_type": b"", "headers": []})
        each.body = each.request_id = b""
    desk._waiting = {Endpoint(): [first, second]}
    desk._serve()
    assert isinstance(first.failed, RuntimeError)
    assert (second.gone_on, second.failed) == ("good", None)


@pytest.mark.parametrize("digits", ["9" * 400, "0" * 5000 + "7"])
def test_a_version_of_hundreds_of_digits_is_no_version(own, digits):
    """It is refused before it becomes the name of a folder."""
    path = f"/models/digit-cnn/versions/{digits}"
    assert own.client.get(f"{path}/report").status_code in {404, 422}
    assert own.client.delete(path).status_code in {404, 422}
    assert own.client.post(f"/predict/digit?version={digits}", json={"image": "x"}).status_code == 422
    assert own.client.get(f"/v2/models/digit-cnn/versions/{digits}").status_code == 404
    if digits[0] != "0":
        for name in ("promote", "canary"):
            body = f'{{"version": {digits}, "percent": 5, "mode": "split"}}'
            assert own.client.post(f"/models/digit-cnn/{name}", content=body, headers=JSON).status_code == 422


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/train", "GET, HEAD, OPTIONS, POST"),
        ("/train/x", "DELETE, GET, HEAD, OPTIONS"),
        ("/models/digit-cnn/canary", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("/predict/digit", "OPTIONS, POST"),
        ("/train/recipes", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ],
)
def test_405_tells_every_method_of_a_path(service, path, methods):
    """Not those of the first route alone."""
    refused = service.client.put(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    assert refused.headers["content-type"] == PROBLEM


def test_what_is_too_large_is_refused_before_anything_is_done(own):
    """Also where a route reads no body: a rollback that answers 413 must not have rolled back."""
    live = shipped("digit-cnn")
    end = f"HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {TOO_MUCH}\r\n\r\n"
    removed, _ = told(own, f"DELETE /models/digit-mlp/versions/1 {end}".encode())
    head, body = told(own, f"POST /models/digit-cnn/rollback {end}".encode())
    assert " 413 " in head
    assert " 413 " in removed
    assert f"content-type: {PROBLEM}" in head
    assert b"body_too_large" in body
    assert own.client.get("/models/digit-cnn").json()["live"] == live


@pytest.mark.parametrize("path", ["/train", "/models/digit-cnn/promote", "/v2/repository/index"])
def test_a_body_that_grows_too_large_is_refused_in_the_same_form(own, path):
    """Chunked, it announces no length."""
    refused = own.client.post(path, content=(b"[" * 2**20 for _ in range(11)), headers=JSON)
    assert refused.status_code == 413
    assert "is larger than the limit" in refused.text
    assert refused.headers["content-type"] == ("application/json" if path.startswith("/v2") else PROBLEM)


@pytest.mark.parametrize("length", [b"0" * 30 + b"2", b"0" * 5000 + b"2"])
@pytest.mark.parametrize("path", [b"/predict/sequence", b"/train"])
def test_a_length_of_many_zeros_is_still_its_number(service, path, length):
    """No reader of numbers trips over its digits."""
    lines = [
        b"POST %b HTTP/1.1" % path,
        b"Host: localhost",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %b" % length,
    ]
    head, _ = told(service, b"\r\n".join([*lines, b"", b"{}"]))
    assert " 422 " in head


@pytest.mark.parametrize("raw", [b"FOO / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: \x00\r\n\r\n", b"\x16\x03\x01\x02"])
def test_bytes_that_are_no_request_are_answered_as_a_problem(service, raw):
    """With an id, as every answer."""
    head, body = told(service, raw)
    assert " 400 " in head
    assert f"content-type: {PROBLEM}" in head
    assert "x-request-id: " in head
    assert b'"code":"unreadable_request"' in body
