"""SIGTERM: the service says at once that it is not ready, serves on for its grace, and cuts nobody off."""

import http.client
import json
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from service.drain import begin_no_more
from tests.server import EXAMPLES, Server, wait_until
from tests.service.rpc import Client
from tests.service.test_connection import LAST, answer_from, connect, head, post

SEVEN = (EXAMPLES / "seven.png").read_bytes()
DRAIN_S = 1.5


class Load:
    """Clients of both kinds that ask on and on until they can connect no more; what each met."""

    def __init__(self, server, *, kept, fresh):
        self.address = urlsplit(server.url)
        self.answered = []  # (when, whether the answer was the connection's last)
        self.cut, self.refused_at = [], []
        clients = [self._kept] * kept + [self._fresh] * fresh
        self.threads = [threading.Thread(target=self._run, args=(client,)) for client in clients]
        for thread in self.threads:
            thread.start()

    def _run(self, client):
        while True:
            try:
                line = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=20)
                line.connect()
            except OSError:
                self.refused_at.append(time.monotonic())
                return
            try:
                client(line)
            except (OSError, http.client.HTTPException) as exc:
                self.cut.append((time.monotonic(), client.__name__, repr(exc)))
            line.close()

    def _kept(self, line):
        for _ in range(200):
            if self._ask(line, {"Content-Type": "image/png"}) == "close":
                return
            time.sleep(0.005)

    def _fresh(self, line):
        self._ask(line, {"Content-Type": "image/png", "Connection": "close"})

    def _ask(self, line, headers):
        line.request("POST", "/predict/digit", SEVEN, headers)
        answer = line.getresponse()
        assert json.loads(answer.read())["digit"] == 7
        last = answer.headers.get("connection")
        self.answered.append((time.monotonic(), last))
        return last


@pytest.mark.slow
def test_no_request_is_cut_when_the_service_is_told_to_stop(tmp_path):
    """Kept and new connections under load: each request gets its answer, until a connection is refused cleanly."""
    with Server(tmp_path, drain_s=DRAIN_S) as server:
        load = Load(server, kept=6, fresh=3)
        time.sleep(1.5)
        told = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for thread in load.threads:
            thread.join(30)
        assert server.process.wait(20) == 0
    before = sum(when < told for when, _ in load.answered)
    after = [last for when, last in load.answered if when > told + 0.1]
    print(f"{before / 1.5:.0f}/s before; {len(after)} answers after SIGTERM; cut: {load.cut}")
    assert not load.cut
    assert len(after) > 50
    assert set(after) == {"close"}
    assert min(load.refused_at) > told + DRAIN_S - 0.2
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_the_service_is_not_ready_from_the_moment_it_is_told_to_stop(tmp_path):
    """Over HTTP and gRPC, while it still takes new connections and answers them."""
    with Server(tmp_path, drain_s=DRAIN_S, grpc_port=0) as server, Client(server) as client:
        assert client.call("ServerReady").ready
        server.process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503, 0.3, 0.01)
        seen = httpx.get(f"{server.url}/health/ready")
        assert (seen.json()["status"], seen.headers["retry-after"]) == ("not_ready", "1")
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 503
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert not client.call("ServerReady").ready
        answer = httpx.post(f"{server.url}/predict/digit", content=SEVEN, headers={"Content-Type": "image/png"})
        assert (answer.json()["digit"], answer.headers["connection"]) == (7, "close")
        assert time.monotonic() - told < DRAIN_S
        assert server.process.wait(20) == 0


def test_requests_on_their_way_at_the_end_are_answered(tmp_path):
    """Connected and not yet asked, half sent, in hand: none is reset; one that is only idle is closed."""
    with Server(tmp_path, workers=1, max_wait_ms=700) as server, connect(server) as new, connect(server) as half:
        with connect(server) as hand, connect(server) as idle:
            idle.sendall(head("GET", "/health/live"))
            assert answer_from(idle.makefile("rb"))[0] == 200
            whole = post(SEVEN)
            hand.sendall(whole)
            half.sendall(whole[:-50])
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert idle.recv(10) == b""
            new.sendall(LAST)
            half.sendall(whole[-50:])
            for line in (hand, half, new):
                status, headers, _ = answer_from(line.makefile("rb"))
                assert (status, headers["connection"]) == (200, "close")
        assert server.process.wait(20) == 0


def test_a_second_interrupt_ends_the_wait(tmp_path):
    """Who types ^C twice does not wait for the grace."""
    with Server(tmp_path, workers=1, drain_s=30) as server:
        (worker,) = psutil.Process(server.process.pid).children()
        started = time.monotonic()
        for _ in range(2):
            for process in (worker, server.process):  # a terminal tells all of them
                process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 8


def test_a_socket_that_begins_no_more_keeps_what_has_begun():
    """Connections that are set up can still be accepted; a new one finds nobody."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        with socket.create_connection(listener.getsockname()) as old, socket.socket() as late:
            old.sendall(b"asked")
            assert begin_no_more(listener)
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(listener.getsockname())
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(10) == b"asked"
                accepted.sendall(b"told")
                assert old.recv(10) == b"told"
