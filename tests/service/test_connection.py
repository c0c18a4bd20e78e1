"""Connections as clients of all kinds use them: what is a request, what is not, and how long each may last."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.server import EXAMPLES, Server

SEVEN = (EXAMPLES / "seven.png").read_bytes()
HEADLINE = (EXAMPLES / "headline.json").read_bytes()
READ_TIMEOUT_S, KEEP_ALIVE_S = 2, 3
PATHS = ["/predict/digit", "/predict/digit?", "/predict/digit/batch", "/v2/models/digit-cnn/infer"]

LARGE = "/docs/static/swagger-ui-bundle.js"
H2C = (
    "Connection: Upgrade, HTTP2-Settings",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade: h2c",
)
OFFERS = {
    "Java": (  # byte for byte what its HttpClient sends, Java 17
        "Connection: Upgrade, HTTP2-Settings",
        "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
        "Upgrade: h2c",
        "User-Agent: Java-http-client/17.0.15",
    ),
    "curl": (
        "User-Agent: curl/7.88.1",
        "Accept: */*",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    ),
    "nginx": ("Upgrade: websocket", "Connection: upgrade"),
    "a browser's websocket": (
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "anything": ("connection: UPGRADE", "upgrade: TLS/1.0, HTTP/2.0, IRC/6.9"),
    "two headers": ("Connection: keep-alive", "Connection: upgrade", "Upgrade: foo"),
}


@pytest.fixture(scope="module")
def brief(tmp_path_factory):
    """A service whose times are short."""
    folder = tmp_path_factory.mktemp("brief")
    with Server(folder, workers=1, read_timeout_s=READ_TIMEOUT_S, keep_alive_s=KEEP_ALIVE_S) as server:
        yield server


@contextmanager
def connect(server, receive_bytes=None):
    address = urlsplit(server.url)
    with socket.socket() as line:
        if receive_bytes:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        line.settimeout(20)
        line.connect((address.hostname, address.port))
        yield line


def head(method, path, *headers, length=None, version="1.1"):
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(body, path="/predict/digit", *headers, kind="image/png"):
    return head("POST", path, f"Content-Type: {kind}", *headers, length=len(body)) + body


LAST = head("GET", "/health/live", "Connection: close")


def answer_from(stream):
    """Status, headers and body of the next response; None where the connection has ended."""
    line = stream.readline()
    if not line:
        return None
    status, headers = int(line.split()[1]), {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    return status, headers, stream.read(int(headers.get("content-length", 0)))


def asked(server, *pieces, pause_s=0.05):
    """All answers to what is sent, piece by piece, until the connection is closed or nothing comes."""
    with connect(server) as line:
        for piece in pieces:
            line.sendall(piece)
            time.sleep(pause_s)
        line.settimeout(1)
        stream, found = line.makefile("rb"), []
        try:
            while (answer := answer_from(stream)) is not None:
                found.append(answer)
        except TimeoutError:
            pass
        return found


def ended_after(line, limit_s):
    """Seconds until the other end closes the connection, whatever it says before."""
    started = time.monotonic()
    line.settimeout(limit_s)
    try:
        while line.recv(65_536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - started


# ---------------------------------------------------------------------- offers of another protocol


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("path", ["/predict/digit", "/predict/digit?"])
def test_an_offer_of_another_protocol_is_ignored_and_the_request_answered(service, offer, path):
    """With its body, in one packet or two, ten times on one connection: as if the offer were not there."""
    whole = post(SEVEN, path, *OFFERS[offer])
    cut = len(whole) - len(SEVEN)
    with connect(service) as line:
        stream = line.makefile("rb")
        for turn in range(10):
            if turn % 3 == 2:
                line.sendall(whole)
            else:
                at = cut + turn % 2 * 100
                line.sendall(whole[:at])
                time.sleep(0.02)
                line.sendall(whole[at:])
            status, headers, body = answer_from(stream)
            assert (status, json.loads(body).get("digit")) == (200, 7)
            assert "upgrade" not in headers
            assert headers.get("connection") is None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("offer", ["Java", "nginx"])
def test_a_body_behind_an_offer_is_never_read_as_a_request(service, path, offer):
    """A body that looks like a request, in a packet of its own, gets no answer of its own."""
    smuggled = head("DELETE", "/models/digit-mlp/versions/1") + head("GET", "/health/live")
    whole = post(smuggled, path, *OFFERS[offer], kind="application/json")
    before = service.client.get("/models/digit-mlp").json()
    for cut in (len(whole), len(whole) - len(smuggled), len(whole) - 10):
        refused, last = asked(service, whole[:cut], whole[cut:] + LAST)
        assert refused[0] in {400, 415, 422}
        assert (last[0], last[1]["connection"]) == (200, "close")
    assert service.client.get("/models/digit-mlp").json() == before


def test_an_offer_with_a_chunked_body_and_requests_behind_it(service):
    """Every request of a row sent without waiting is answered, in its order, with an offer or without one."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (SEVEN[:100], SEVEN[100:])) + b"0\r\n\r\n"
    chunked = head("POST", "/predict/digit", "Content-Type: image/png", "Transfer-Encoding: chunked", *H2C) + chunks
    row = [chunked, post(SEVEN), head("GET", "/health/live", *H2C), post(SEVEN, "/predict/digit", *H2C), chunked]
    answers = asked(service, b"".join(row) + LAST)
    assert [status for status, _, _ in answers] == [200] * 6
    assert [json.loads(body).get("digit") for _, _, body in answers] == [7, 7, None, 7, 7, None]
    assert all(len(asked(service, chunked[:cut], chunked[cut:] + LAST)) == 2 for cut in (40, len(chunked) - 30))


def test_what_else_stands_in_connection_still_counts(service):
    """`close` beside the offer ends the connection; `Expect` beside it is answered."""
    ((status, headers, _),) = asked(
        service, post(SEVEN, "/predict/digit", "Connection: Upgrade, close", "Upgrade: h2c")
    )
    assert (status, headers["connection"]) == (200, "close")
    with connect(service) as line:
        line.sendall(
            head("POST", "/predict/digit?", "Content-Type: image/png", "Expect: 100-continue", *H2C, length=len(SEVEN))
        )
        stream = line.makefile("rb")
        assert stream.readline() + stream.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(SEVEN)
        assert answer_from(stream)[0] == 200


def test_a_tunnel_is_refused_and_nothing_in_it_is_read(service):
    """What follows CONNECT is no request."""
    ((status, headers, body),) = asked(service, head("CONNECT", "here:80") + head("GET", "/health/live"))
    assert (status, headers["connection"]) == (400, "close")
    assert b"CONNECT" in body


# ---------------------------------------------------------------------- how long a connection may last


@pytest.mark.slow
@pytest.mark.parametrize("drip", [b"", b"\r\n"], ids=["silent", "empty lines"])
@pytest.mark.parametrize("path", ["/predict/digit", "/predict/digit?", "/health/live"])
def test_a_connection_without_a_request_is_closed_in_time(brief, path, drip):
    """After an answer it has the keep-alive time, which no empty line prolongs."""
    with connect(brief) as line:
        for _ in range(2):
            line.sendall(head("GET", path) if "health" in path else post(SEVEN, path))
            assert answer_from(line.makefile("rb"))[0] == 200
        started, line_ended = time.monotonic(), False
        while time.monotonic() - started < KEEP_ALIVE_S + 3 and not line_ended:
            try:
                line.sendall(drip)
                line.settimeout(0.2)
                line_ended = line.recv(100) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                line_ended = True
        assert line_ended
        assert KEEP_ALIVE_S - 0.1 < time.monotonic() - started < KEEP_ALIVE_S + 1.5


@pytest.mark.slow
@pytest.mark.parametrize("drip", [b"", b"\r\n"], ids=["silent", "empty lines"])
def test_a_connection_that_never_sends_a_request_is_closed_in_time(brief, drip):
    """An empty line is none."""
    with connect(brief) as line:
        stop = threading.Event()
        threading.Thread(target=dripped, args=(line, drip, stop)).start()
        took = ended_after(line, READ_TIMEOUT_S + 5)
        stop.set()
    assert READ_TIMEOUT_S - 0.1 < took < READ_TIMEOUT_S + 2


def dripped(line, drip, stop):
    while not stop.wait(0.1):
        try:
            line.sendall(drip)
        except OSError:
            return


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        (b"G", b"E"),
        (b"GET /health/live HTTP/1.1\r\n", b"A: b\r\n"),
        (head("POST", "/train", "Transfer-Encoding: chunked"), b"1;a=b\r\nx\r\n"),
        (head("POST", "/train", "Transfer-Encoding: chunked") + b"0\r\n", b"T: x\r\n"),
        (head("POST", "/nowhere", "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
        (head("POST", "/predict/digit", length=9000), b"x"),
        (head("POST", "/predict/digit", "Expect: 100-continue", length=9000), b""),
    ],
    ids=["method", "headers", "chunks", "trailers", "refused chunks", "body", "no body"],
)
def test_a_request_that_drips_ends_in_time(brief, begin, drip):
    """Also the second of a connection, and one that was refused before its end."""
    for first in (b"", post(SEVEN)):
        with connect(brief) as line:
            if first:
                line.sendall(first)
                assert answer_from(line.makefile("rb"))[0] == 200
            line.sendall(begin)
            stop = threading.Event()
            threading.Thread(target=dripped, args=(line, drip, stop)).start()
            took = ended_after(line, READ_TIMEOUT_S + 5)
            stop.set()
        assert took < READ_TIMEOUT_S + 2


@pytest.mark.parametrize(
    ("begin", "flood"),
    [
        (b"0\r\n", b"T: " + b"t" * 1000 + b"\r\n"),
        (b"0\r\nT: ", b"t" * 1000),
        (b"0\r\n", b"T: x\r\n"),
        (b"1;e=", b"e" * 1000),
        (b"", b"1;e=" + b"e" * 1000 + b"\r\nx\r\n"),
    ],
    ids=["trailers", "one trailer", "short trailers", "one extension", "extensions"],
)
@pytest.mark.parametrize("path", ["/predict/digit", "/train", "/nowhere"])
def test_what_is_not_body_counts_as_head(service, path, begin, flood):
    """Trailers and extensions of chunks: 64 KiB of them at most, in whatever pieces they come."""
    start = head("POST", path, "Content-Type: image/png", "Transfer-Encoding: chunked") + begin
    for size in (2_000, 2_000_000):
        sent = 0
        with connect(service) as line:
            line.sendall(start)
            try:
                while sent < 20_000_000:
                    line.sendall(flood * (size // len(flood)))
                    sent += size
                    line.settimeout(0.001)
                    try:
                        if said := line.recv(4096):
                            break
                    except TimeoutError:
                        continue
                    finally:
                        line.settimeout(10)
            except ConnectionError:
                said = b""
        assert sent < 10_000_000
        assert b" 431 " in said.splitlines()[0] or (path == "/nowhere" and b" 404 " in said) or not said, said


def test_a_short_trailer_is_read_and_is_no_header(service):
    """A request with one is answered, and the next one too; the trailer cannot stand in for a header."""
    chunked = head("POST", "/predict/digit", "Content-Type: image/png", "Transfer-Encoding: chunked")
    body = b"%x;a=b\r\n%b\r\n0\r\nContent-Encoding: gzip\r\nX-Request-ID: late\r\n\r\n" % (len(SEVEN), SEVEN)
    *answers, _ = asked(service, (chunked + body) * 3 + LAST)
    assert [(status, json.loads(body)["digit"]) for status, _, body in answers] == [(200, 7)] * 3
    assert all(headers["x-request-id"] != "late" for _, headers, _ in answers)


def test_a_body_of_many_small_chunks_is_no_head(service):
    """The frames of chunks are not counted, however many there are."""
    chunked = head("POST", "/predict/digit", "Content-Type: image/png", "Transfer-Encoding: chunked")
    padded = SEVEN + bytes(40_000)
    frames = b"".join(b"1\r\n%c\r\n" % byte for byte in padded) + b"0\r\n\r\n"
    (status, _, body), _ = asked(service, chunked + frames + LAST)
    assert (status, json.loads(body)["digit"]) == (200, 7)


# ---------------------------------------------------------------------- clients that do not read


def memory_mb(server):
    from tests.test_hostile import memory_mb as measured

    return measured(server)


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_bytes",
    [
        head("GET", "/openapi.json"),
        head("GET", "/docs/static/swagger-ui-bundle.js"),
        post(SEVEN) * 50,
        head("GET", "/") * 500,
    ],
    ids=["openapi", "a page's file", "predictions", "pages"],
)
def test_clients_that_never_read_are_dropped_and_cost_little(brief, request_bytes):
    """Fifty that ask on and on without reading: memory stays, and their connections are gone in time."""
    before = memory_mb(brief)
    lines = []
    address = urlsplit(brief.url)
    for _ in range(50):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect((address.hostname, address.port))
        line.setblocking(False)
        lines.append(line)
    started, gone = time.monotonic(), set()
    most = 0.0
    while len(gone) < 50 and time.monotonic() - started < 30:
        for line in set(lines) - gone:
            try:
                line.send(request_bytes)
            except BlockingIOError:
                pass
            except OSError:
                gone.add(line)
        most = max(most, memory_mb(brief) - before)
        time.sleep(0.05)
    for line in lines:
        line.close()
    print(f"grew by {most:.1f} MB, all gone after {time.monotonic() - started:.1f} s")
    assert len(gone) == 50
    assert most < 100
    assert brief.client.get("/health/live").status_code == 200


@pytest.mark.slow
def test_a_client_that_reads_slowly_gets_all_of_it(brief):
    """Longer than the read timeout, but it makes progress."""
    with connect(brief, receive_bytes=4096) as line:
        line.sendall(
            head("GET", "/docs/static/swagger-ui-bundle.js") * 4 + head("GET", "/health/live", "Connection: close")
        )
        got, started = b"", time.monotonic()
        while piece := line.recv(65_536):
            got += piece
            time.sleep(0.003)
        took = time.monotonic() - started
    assert took > READ_TIMEOUT_S
    assert got.endswith(b'{"status":"alive"}')


def test_many_requests_sent_without_waiting_are_all_answered(service):
    """A thousand at once, of all kinds; what is not yet answered waits as bytes."""
    row = [post(SEVEN), head("GET", "/health/live"), post(SEVEN, "/predict/digit?"), head("GET", "/nowhere")]
    with connect(service) as line:
        stream = line.makefile("rb")
        sender = threading.Thread(target=line.sendall, args=(b"".join(row) * 250,))
        sender.start()
        statuses = [answer_from(stream)[0] for _ in range(1000)]
        sender.join()
    assert statuses == [200, 200, 200, 404] * 250


# ---------------------------------------------------------------------- answers before the end of a request

TOO_MUCH = 30 * 2**20


@pytest.mark.parametrize("path", ["/predict/digit", "/predict/digit/batch", "/train", "/nowhere", "/v2/models/x/infer"])
def test_a_client_that_sends_too_much_gets_its_answer_and_no_reset(service, path):
    """urllib reads nothing before it has sent everything, and says that it will close."""
    request = urllib.request.Request(service.url + path, bytes(TOO_MUCH), {"Content-Type": "image/png"}, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code in ({413} if path != "/nowhere" else {404, 413})
    assert refused.value.read().endswith(b"}")


@pytest.mark.parametrize("way", ["length", "chunked"])
@pytest.mark.parametrize("close", [("Connection: close",), ()], ids=["close", "keep-alive"])
def test_an_early_refusal_reaches_who_sends_first_and_reads_then(service, way, close):
    """Byte for byte, over a slow line, with no reset at the end."""
    start = head(
        "POST",
        "/predict/digit",
        "Content-Type: text/plain",
        *close,
        **({"length": TOO_MUCH} if way == "length" else {}),
    )
    if way == "chunked":
        start = start.removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\n"
    piece = bytes(2**20) if way == "length" else b"100000\r\n" + bytes(2**20) + b"\r\n"
    with connect(service) as line:
        line.sendall(start)
        for _ in range(30):
            line.sendall(piece)
            time.sleep(0.01)
        stream = line.makefile("rb")
        status, headers, _ = answer_from(stream)
        assert status in {413, 415}
        assert headers["connection"] == "close"
        assert stream.read() == b""


def test_a_head_that_is_too_large_is_refused_without_a_reset(service):
    """431 to a client that sends all its megabytes before it reads."""
    with connect(service) as line:
        line.sendall(b"GET /health/live HTTP/1.1\r\n")
        for _ in range(100):
            line.sendall(b"A: " + b"a" * 50_000 + b"\r\n")
        stream = line.makefile("rb")
        assert answer_from(stream)[0] == 431
        assert stream.read() == b""


@pytest.mark.slow
def test_who_sends_on_for_ever_is_closed_at_last(brief):
    """An ended connection reads a bounded number of bytes."""
    sent = 0
    with connect(brief) as line:
        line.sendall(head("POST", "/predict/digit", "Transfer-Encoding: chunked", "Connection: close"))
        try:
            while sent < 2**30:
                line.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
                sent += 2**20
        except ConnectionError:
            pass
    assert sent < 200 * 2**20


def test_a_small_body_behind_a_refusal_costs_no_connection(service):
    """The next request on the connection is answered."""
    with connect(service) as line:
        stream = line.makefile("rb")
        for _ in range(3):
            line.sendall(head("POST", "/nowhere", length=4))
            assert answer_from(stream)[0] == 404
            line.sendall(b"abcd")
            line.sendall(post(SEVEN))
            assert answer_from(stream)[0] == 200


def test_who_waits_to_be_asked_for_the_body_is_not_asked_after_a_refusal(service):
    """The connection ends, for nobody knows whether the body comes."""
    ((status, headers, _),) = asked(service, head("POST", "/predict/digit", "Expect: 100-continue", length=TOO_MUCH))
    assert (status, headers["connection"]) == (413, "close")
