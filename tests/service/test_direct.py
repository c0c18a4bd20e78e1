"""The short way of a request: what a client sees is the same as on the long one, however the bytes come in."""

import base64
import json
import re
import socket
import time
from contextlib import ExitStack
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from service.batch import Answer
from service.exchange import Exchange, Head
from tests.server import EXAMPLES, Server
from tests.service.pictures import mnist_test

HEADLINE = (EXAMPLES / "headline.json").read_bytes()
WEEK = (EXAMPLES / "week.json").read_bytes()
JSON = "application/json"
FORM = "multipart/form-data; boundary=edge"
PNG = {"Content-Type": "image/png"}
CHANGING = {"date", "x-request-id", "x-queue-ms", "x-run-ms", "content-length"}


def small_png(index=0):
    out = BytesIO()
    Image.fromarray(mnist_test()[0][index]).save(out, "PNG")
    return out.getvalue()


def form(content):
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--edge--\r\n"


def forms(*contents):
    return b"".join(form(content).removesuffix(b"--edge--\r\n") for content in contents) + b"--edge--\r\n"


def grids(count):
    return json.dumps({"pixels": mnist_test()[0][:count].tolist()}).encode()


def jpeg():
    out = BytesIO()
    Image.fromarray(mnist_test()[0][3]).resize((90, 90)).save(out, "JPEG")
    return out.getvalue()


CASES = {
    "a small PNG": ("/predict/digit", "image/png", small_png),
    "a JPEG": ("/predict/digit", "image/jpeg", jpeg),
    "a larger picture": ("/predict/digit", "image/png", (EXAMPLES / "seven.png").read_bytes),
    "a form": ("/predict/digit", "multipart/form-data; boundary=edge", lambda: form(small_png())),
    "base64": ("/predict/digit", JSON, lambda: json.dumps({"image": base64.b64encode(small_png()).decode()}).encode()),
    "pixels": ("/predict/digit", JSON, lambda: json.dumps({"pixels": mnist_test()[0][5].tolist()}).encode()),
    "two files": ("/predict/digit/batch", FORM, lambda: forms(small_png(1), small_png(2))),
    "many files": ("/predict/digit/batch", FORM, lambda: forms(*map(small_png, range(64)))),
    "files of two kinds": ("/predict/digit/batch", FORM, lambda: forms(small_png(1), jpeg(), small_png(2))),
    "a bad file among good ones": ("/predict/digit/batch", FORM, lambda: forms(small_png(1), b"hello", small_png(2))),
    "images": (
        "/predict/digit/batch",
        JSON,
        lambda: json.dumps({"images": [base64.b64encode(small_png(index)).decode() for index in range(9)]}).encode(),
    ),
    "three grids of pixels": ("/predict/digit/batch", JSON, lambda: grids(3)),
    "many grids of pixels": ("/predict/digit/batch", JSON, lambda: grids(64)),
    "more grids than go the short way": ("/predict/digit/batch", JSON, lambda: grids(200)),
    "too many grids": ("/predict/digit/batch", JSON, lambda: grids(257)),
    "no grids": ("/predict/digit/batch", JSON, lambda: b'{"pixels": []}'),
    "a blank grid": ("/predict/digit/batch", JSON, lambda: json.dumps({"pixels": [[[0] * 28] * 28] * 2}).encode()),
    "a batch of no known type": ("/predict/digit/batch", "text/plain", lambda: b"7"),
    "a text": ("/predict/sequence", JSON, lambda: HEADLINE),
    "a series": ("/predict/sequence", JSON, lambda: WEEK),
    "a text for another model": ("/predict/sequence", JSON, lambda: b'{"text": "Oil prices", "model": "topic-gru"}'),
    "an explained text": ("/predict/sequence", JSON, lambda: b'{"text": "Oil prices", "explain": true}'),
    "no picture": ("/predict/digit", "image/png", lambda: b"hello"),
    "a blank picture": ("/predict/digit", JSON, lambda: json.dumps({"pixels": [[0] * 28] * 28}).encode()),
    "a wrong media type": ("/predict/digit", "text/plain", lambda: b"7"),
    "no JSON": ("/predict/sequence", JSON, lambda: b"{"),
    "an unknown field": ("/predict/sequence", JSON, lambda: b'{"texts": "Oil"}'),
    "an unknown model": ("/predict/sequence", JSON, lambda: b'{"text": "Oil", "model": "nothing"}'),
    "an empty body": ("/predict/digit", "image/png", lambda: b""),
}


@pytest.mark.parametrize("case", CASES)
def test_both_ways_give_the_same(service, case):
    """A query, even an empty one, takes the long way: same status, same headers, same body."""
    path, kind, make = CASES[case]
    body, headers = make(), {"Content-Type": kind, "X-Request-ID": "mine"}
    short, long = (service.client.post(path + query, content=body, headers=headers) for query in ("", "?"))
    assert short.status_code == long.status_code
    assert [name for name in sorted(short.headers) if name not in CHANGING] == [
        name for name in sorted(long.headers) if name not in CHANGING
    ]
    for name in set(short.headers) - CHANGING - {"x-batch-rows"}:
        assert short.headers[name] == long.headers[name]
    assert short.headers["x-request-id"] == long.headers["x-request-id"] == "mine"
    assert_alike(short.json(), long.json())


def assert_alike(one, other):
    """The same JSON but for the last digits of numbers."""
    assert json.dumps(rounded(one)) == json.dumps(rounded(other))


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) + 0.0 if isinstance(value, float) else value


def connect(service):
    address = urlsplit(service.url)
    return socket.create_connection((address.hostname, address.port), timeout=10)


def request(body, *more, path="/predict/digit", version="1.1", kind="image/png"):
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer_from(stream):
    """Status, headers and JSON of the next response."""
    status = int(stream.readline().split()[1])
    headers = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, json.loads(stream.read(int(headers["content-length"])))


@pytest.mark.parametrize("cut", [1, 20, 60, -30, -1])
def test_a_request_in_two_pieces_is_one_request(service, cut):
    """Wherever it was cut: many clients send the head and the body apart."""
    whole = request(small_png())
    with connect(service) as line:
        line.sendall(whole[:cut])
        time.sleep(0.05)
        line.sendall(whole[cut:])
        status, _, content = answer_from(line.makefile("rb"))
    assert (status, content["digit"]) == (200, 7)


def test_a_known_head_cut_within_its_last_line_is_waited_for(service):
    """Of the four bytes after a head one has come, and the head is as long as would make that a whole request."""
    body = small_png()
    head = request(body, "X-Pad: ").partition(b"\r\n\r\n")[0]
    assert len(head) < len(body) + 2, "the picture must be larger than the head"
    whole = request(body, "X-Pad: " + "p" * (len(body) + 2 - len(head)))
    with connect(service) as line:
        stream = line.makefile("rb")
        for cut in (len(whole), len(body) + 3):
            line.sendall(whole[:cut])
            time.sleep(0.05)
            line.sendall(whole[cut:])
            status, _, content = answer_from(stream)
            assert (status, content["digit"]) == (200, 7)


def test_a_large_request_in_many_pieces_is_one_request(service):
    """Longer than any one read: all of it is gathered, in order."""
    with connect(service) as line:
        whole = request(grids(64), path="/predict/digit/batch", kind=JSON)
        for at in range(0, len(whole), 10_000):
            line.sendall(whole[at : at + 10_000])
            time.sleep(0.002)
        status, headers, content = answer_from(line.makefile("rb"))
    assert (status, headers["x-batch-rows"]) == (200, "64")
    assert [each["digit"] for each in content["predictions"]][:5] == [7, 2, 1, 0, 4]


def test_the_largest_body_is_a_setting_for_both_ways(tmp_path):
    """What is small enough for the short way may be too large for the service."""
    with Server(tmp_path, workers=1, max_body_bytes=2048) as server:
        for path, body in (("/predict/sequence", WEEK), ("/predict/digit/batch", grids(3))):
            assert len(body) > 2048
            for query in ("", "?"):
                answer = server.client.post(path + query, content=body, headers={"Content-Type": JSON})
                assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
        assert server.client.post("/predict/sequence", content=HEADLINE, headers={"Content-Type": JSON}).is_success


def test_requests_sent_without_waiting_are_answered_in_order(service):
    """Short and long ways mixed on one connection, the second sent before the first was answered."""
    paths = ["/predict/digit", "/predict/digit", "/predict/digit?", "/predict/digit", "/predict/digit?"]
    truth = mnist_test()[1]
    with connect(service) as line:
        line.sendall(b"".join(request(small_png(index), path=path) for index, path in enumerate(paths)))
        stream = line.makefile("rb")
        assert [answer_from(stream)[2]["digit"] for _ in paths] == truth[: len(paths)].tolist()


@pytest.mark.parametrize(("more", "version"), [(["Connection: close"], "1.1"), ([], "1.0")])
def test_a_connection_ends_when_the_client_says_so(service, more, version):
    """The response says so too, and nothing comes after it."""
    with connect(service) as line:
        line.sendall(request(small_png(), *more, version=version))
        stream = line.makefile("rb")
        status, headers, _ = answer_from(stream)
        assert (status, headers["connection"]) == (200, "close")
        assert stream.read() == b""


def test_a_client_that_waits_for_100_continue_gets_it(service):
    """curl asks before it sends a larger body."""
    head, _, body = request(small_png(), "Expect: 100-continue").partition(b"\r\n\r\n")
    with connect(service) as line:
        line.sendall(head + b"\r\n\r\n")
        stream = line.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        line.sendall(body)
        assert answer_from(stream)[0] == 200


@pytest.mark.parametrize("given", ["a b", "x" * 129, ""])
def test_an_id_that_is_not_sane_is_replaced(service, given):
    """So that it may stand in logs and headers."""
    with connect(service) as line:
        line.sendall(request(small_png(), f"X-Request-ID: {given}"))
        _, headers, _ = answer_from(line.makefile("rb"))
    assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A service of one process that holds a batch back for a second."""
    with Server(tmp_path_factory.mktemp("waiting"), workers=1, max_wait_ms=1000) as server:
        yield server


def test_a_thousand_hung_up_requests_cost_the_device_nothing(waiting):
    """Clients that left while their rows waited: no row of theirs is run, each is counted, the next is served."""
    rows, left = 'neuroserve_rows_total{model="digit-cnn"', 'route="/predict/digit",status="499"'
    before, body = counted(waiting, rows), request(small_png())
    for _ in range(10):
        lines = [connect(waiting) for _ in range(100)]
        for line in lines:
            line.sendall(body)
        for line in lines:
            line.close()
    end = time.monotonic() + 10
    while counted(waiting, "neuroserve_request_seconds_count{" + left) < 1000 and time.monotonic() < end:
        time.sleep(0.05)
    assert counted(waiting, "neuroserve_request_seconds_count{" + left) == 1000
    assert waiting.client.post("/predict/digit", content=small_png(), headers=PNG).json()["digit"] == 7
    assert counted(waiting, rows) == before + 1


def counted(server, start):
    """The sum of the metrics whose lines begin so."""
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(start))


def test_what_cannot_be_rendered_is_an_error_and_the_batch_goes_on(caplog):
    """A fault of ours is a 500 with fixed words; its reason is in the log."""
    written = []

    class Line:
        def default_headers(self):
            return []

        def finish(self, _exchange, status, response):
            written.append((status, response))

    def render(_answer):
        raise ValueError("secret")

    exchange = Exchange(Line(), Head(None, "/predict/digit", [], b"", None, 1, keep_alive=True))
    exchange.render = render
    exchange.set_result(Answer([np.zeros((1, 10))], 1, "CPUExecutionProvider", 0.0, 0.0, 1))
    ((status, response),) = written
    assert status == 500
    assert b"secret" not in response
    assert "secret" in caplog.text
    assert exchange.done()


def test_many_at_once_share_a_batch(waiting):
    """Rows of different connections run together, and each gets its own answer."""
    requests = [request(small_png(index)) for index in range(50)]
    with ExitStack() as opened:
        lines = [opened.enter_context(connect(waiting)) for _ in requests]
        for line, whole in zip(lines, requests, strict=True):
            line.sendall(whole)
        answers = [answer_from(opened.enter_context(line.makefile("rb"))) for line in lines]
    assert [content["digit"] for _, _, content in answers] == mnist_test()[1][:50].tolist()
    assert {headers["x-batch-rows"] for _, headers, _ in answers} == {"50"}


def test_a_full_queue_refuses_at_once_and_keeps_what_it_accepted(tmp_path):
    """Over the limit in rows: 429 with `Retry-After`, before the others are answered; those in the queue get theirs."""
    with Server(tmp_path, workers=1, max_wait_ms=1000, max_queue_rows=8) as server, ExitStack() as opened:
        lines = [opened.enter_context(connect(server)) for _ in range(20)]
        streams = [opened.enter_context(line.makefile("rb")) for line in lines]
        whole = request(small_png())
        began = time.monotonic()
        for line in lines:
            line.sendall(whole)
        refused = [answer_from(stream) for stream in streams[8:]]
        assert time.monotonic() - began < 0.9
        assert {(status, content["code"], headers["retry-after"]) for status, headers, content in refused} == {
            (429, "queue_full", "1")
        }
        assert [answer_from(stream)[0] for stream in streams[:8]] == [200] * 8


def test_a_request_past_its_deadline_never_reaches_the_device(tmp_path):
    """504, and no row is run; the next request is answered."""
    with Server(tmp_path, workers=1, max_wait_ms=1000, deadline_ms=100) as server, connect(server) as line:
        before = counted(server, 'neuroserve_rows_total{model="digit-cnn"')
        line.sendall(request(small_png()))
        status, _, content = answer_from(line.makefile("rb"))
        assert (status, content["code"]) == (504, "deadline_passed")
        time.sleep(1)
        assert counted(server, 'neuroserve_rows_total{model="digit-cnn"') == before


def test_a_head_seen_before_is_answered_for_its_own_body(service):
    """Requests of one head and other bodies on one connection: each body counts, also one that takes the long way."""
    texts = [b'{"text": "Oil prices rise"}', b'{"text": "The cup finals!"}', b'{"text":"Oil","explain": 1}']
    assert {len(text) for text in texts} == {27}
    told = []
    with connect(service) as line:
        stream = line.makefile("rb")
        for text in [*texts, *texts]:
            line.sendall(request(text, path="/predict/sequence", kind=JSON))
            status, _, content = answer_from(stream)
            told.append((status, content.get("label", content.get("code"))))
    assert told[:3] == told[3:]
    assert told[:3] == [(200, "Business"), (200, "Sports"), (422, "invalid_input")]
