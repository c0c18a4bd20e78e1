"""The log of requests: one line each when asked for, on either way, with nothing in it that was sent."""

import json
import logging

import pytest

from service.access import AccessLog
from tests.server import EXAMPLES, Server, wait_until

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
SECRET = "ns_0123456789abcdef-very-secret"


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A service with a key that writes JSON lines, though it logs warnings only."""
    settings = {"access_log": True, "log_format": "json", "log_level": "warning", "workers": 1}
    with Server(tmp_path_factory.mktemp("logged"), api_keys=f"web:predict:{SECRET}", **settings) as server:
        server.client.headers["Authorization"] = f"Bearer {SECRET}"
        yield server


def line_of(server, request_id):
    """The one line of a request."""

    def found():
        return [line for line in server.lines if f'"request_id": "{request_id}"' in line]

    [line] = wait_until(found, 5)
    return json.loads(line)


@pytest.mark.parametrize("query", ["", "?model=digit-cnn&token=tell-nobody"])
def test_a_prediction_is_one_line_on_either_way(logged, query):
    """Who, what, how it ended and how long it took; a query takes the long way and is not told."""
    request_id = f"seven-{len(query)}"
    headers = {**PNG, "X-Request-ID": request_id}
    assert logged.client.post(f"/predict/digit{query}", content=SEVEN, headers=headers).status_code in {200, 422}
    line = line_of(logged, request_id)
    assert (line["level"], line["logger"], line["method"], line["path"]) == (
        "info",
        "service.access",
        "POST",
        "/predict/digit",
    )
    assert (line["route"], line["key"], line["client"]) == ("/predict/digit", "web", "127.0.0.1")
    assert line["status"] in {200, 422}
    assert 0 < line["ms"] < 30_000


def test_the_route_is_told_beside_the_path(logged):
    """The template, so that lines of one route can be counted, and the path that was asked for."""
    logged.client.get("/models/digit-cnn?secret=1", headers={"X-Request-ID": "one-model"})
    line = line_of(logged, "one-model")
    assert (line["method"], line["path"], line["route"], line["status"]) == (
        "GET",
        "/models/digit-cnn",
        "/models/{name}",
        200,
    )


def test_a_refused_caller_is_told_too(logged):
    """Without a key there is no name; a path that breaks the line does not."""
    headers = {"Authorization": "Bearer wrong-but-long-enough", "X-Request-ID": "stranger"}
    assert logged.client.get("/models/a%0Ab", headers=headers).status_code == 401
    line = line_of(logged, "stranger")
    assert (line["status"], line["key"], line["path"]) == (401, None, "/models/a%0Ab")


def test_neither_keys_nor_what_was_sent_are_in_the_log(logged):
    """Not a key, good or bad, not a query's value, not a text."""
    text = "words that only this request holds"
    headers = {"X-Request-ID": "wordy"}
    logged.client.post("/predict/sequence", json={"text": text}, headers=headers)
    line_of(logged, "wordy")
    for hidden in (SECRET, "wrong-but-long-enough", "tell-nobody", text, "secret=1"):
        assert hidden not in logged.log


@pytest.mark.parametrize("query", ["", "?"])
def test_a_proxy_on_this_machine_says_for_whom_it_asks(logged, query):
    """Both ways believe it as uvicorn does: the last address that is no proxy of ours."""
    headers = {**PNG, "X-Request-ID": f"behind-{len(query)}", "X-Forwarded-For": "198.51.100.9, 203.0.113.7"}
    logged.client.post(f"/predict/digit{query}", content=SEVEN, headers=headers)
    assert line_of(logged, f"behind-{len(query)}")["client"] == "203.0.113.7"


def test_no_lines_unless_asked_for(service):
    """The default keeps quiet, on either way."""
    for path in ("/predict/digit", "/predict/digit?"):
        assert service.client.post(path, content=SEVEN, headers=PNG).status_code == 200
    assert "service.access" not in service.log


def test_a_line_for_people(caplog):
    """Method, path, status and time first; what is not known is a dash."""
    with caplog.at_level(logging.INFO):
        AccessLog().write(b"a1", "GET", "/models", route="/models", status=200, seconds=0.0123, client="::1")
    assert caplog.messages == ["GET /models 200 in 12.3 ms, key -, from ::1, id a1"]


def test_a_client_whose_address_is_unknown_has_none():
    """A Unix socket has no peer address, and a stranger's word for another is not believed."""
    log = AccessLog()
    claim = [(b"x-forwarded-for", b"203.0.113.7")]
    assert log.client(None, claim) is None
    assert log.client(("198.51.100.9", 4711), claim) == "198.51.100.9"
    assert log.client(("127.0.0.1", 4711), []) == "127.0.0.1"
