"""HEAD and OPTIONS as monitors, proxies and browsers send them: at every path, without a route of their own."""

import re

import pytest

from service.app import create_app
from service.settings import Settings
from tests.server import Server
from tests.service.test_connection import LAST, connect, head

PAGES = ("/", "/docs", "/redoc", "/openapi.json", "/playground/main.js", "/docs/static/swagger-ui.css")
PLACES = {
    "name": "digit-cnn",
    "version": "1",
    "job_id": "none",
    "task": "xor",
}


def documented(tmp_path):
    """Every path of the document that has a GET, with something in its places."""
    paths = create_app(Settings(state=tmp_path)).openapi()["paths"]
    return [
        re.sub(r"{(\w+)}", lambda place: PLACES.get(place[1], "none"), path) for path in paths if "get" in paths[path]
    ]


def raw(service, method, path):
    """Status, headers and every byte behind them, until the connection ends."""
    with connect(service) as line:
        line.sendall(head(method, path, "Connection: close"))
        answer = b"".join(iter(lambda: line.recv(65_536), b""))
    start, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = start.decode().split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def test_head_is_what_get_is_without_a_body(service, tmp_path):
    """Status and headers are the same at every path there is, and one there is not."""
    paths = [*documented(tmp_path), *PAGES, "/nowhere", "/predict/digit"]
    assert len(paths) > 30
    for path in paths:
        if path.endswith("/events"):
            continue
        (got, expected, body), (_, _, again) = raw(service, "GET", path), raw(service, "GET", path)
        status, headers, nothing = raw(service, "HEAD", path)
        assert (status, nothing) == (got, b""), path
        assert set(headers) == set(expected), path
        changing = {"date", "x-request-id"} | ({"content-length"} if len(body) != len(again) else set())
        assert [name for name in set(headers) - changing if headers[name] != expected[name]] == [], path


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_requests_behind_one_without_a_body_are_answered(service, method):
    """Nothing of a body stands in the way of the next answer."""
    with connect(service) as line:
        line.sendall(head(method, "/health/ready") * 3 + LAST)
        said = b"".join(iter(lambda: line.recv(65_536), b""))
    assert said.count(b"HTTP/1.1 ") == 4
    assert said.endswith(b'{"status":"alive"}')


def test_head_of_an_event_stream_ends(tmp_path):
    """Though the stream itself would not."""
    with Server(tmp_path, workers=1, trainer="external") as server:
        job = server.client.post("/train", json={"task": "digit"}).json()
        answer = server.client.head(f"/train/{job['id']}/events", timeout=5)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/health/live", "GET, HEAD, OPTIONS"),
        ("/v2/health/ready", "GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("/models", "GET, HEAD, OPTIONS"),
        ("/train", "GET, HEAD, OPTIONS, POST"),
        ("/predict/digit", "OPTIONS, POST"),
        ("/v2/models/digit-cnn/infer", "OPTIONS, POST"),
        ("/playground/main.js", "GET, HEAD, OPTIONS"),
        ("*", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)
def test_options_tells_what_a_path_allows(service, path, methods):
    """204 without a body; the same `Allow` as a 405."""
    status, headers, body = raw(service, "OPTIONS", path)
    assert (status, headers["allow"], body) == (204, methods.lower(), b"")
    if path != "*":
        status, headers, _ = raw(service, "TRACE", path)
        assert (status, headers["allow"]) == (405, methods.lower())


def test_options_of_nothing_is_not_found(service):
    """There is nothing to allow."""
    assert raw(service, "OPTIONS", "/nowhere")[0] == 404


@pytest.mark.parametrize("request_line", [b"OPTIONS / HTTP/1.0", b"HEAD /health/ready HTTP/1.0", b"OPTIONS * HTTP/1.0"])
def test_a_check_without_a_host_is_answered(service, request_line):
    """As HAProxy sends it when nothing else is set."""
    with connect(service) as line:
        line.sendall(request_line + b"\r\n\r\n")
        said = b"".join(iter(lambda: line.recv(65_536), b""))
    assert said.split()[1] in {b"200", b"204"}
