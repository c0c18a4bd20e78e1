"""Accepting: a process without room, or without file descriptors, goes on as soon as there are some."""

import asyncio
import resource
import socket
import time
from contextlib import ExitStack

import psutil
import pytest

from service.acceptor import Acceptor
from tests.server import Server
from tests.service.test_connection import answer_from, connect, head


def test_over_its_limit_a_process_accepts_again_when_a_connection_has_gone(monkeypatch, caplog):
    """One line in the log for the whole time."""
    monkeypatch.setattr("service.acceptor._SLACK", 0)
    counts, opened = [0], []

    class Line(asyncio.Protocol):
        def connection_made(self, transport):
            opened.append(transport)

    async def crowd():
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(16)
            listener.setblocking(False)
            acceptor = Acceptor(listener, counts, 0, Line, most=2)
            for _ in range(5):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            await asyncio.sleep(0.35)
            first = len(opened)
            acceptor.gone()
            await asyncio.sleep(0.35)
            second = len(opened)
            acceptor.close()
            await acceptor.wait_closed()
            await asyncio.sleep(0.05)
            for transport in opened:
                transport.close()
            return first, second, len(opened)

    assert asyncio.run(crowd()) == (2, 3, 5)
    assert [record.levelname for record in caplog.records].count("ERROR") == 2  # before one had gone, and after


@pytest.mark.slow
def test_a_service_out_of_file_descriptors_hears_again(tmp_path):
    """Clients that only hold connections take all of them; the next client is answered when their time is over."""
    with Server(tmp_path, read_timeout_s=2) as server:
        for worker in psutil.Process(server.process.pid).children():
            room = max(int(each) for each in worker_files(worker.pid)) + 20
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (room, room))
        with ExitStack() as stack:
            for _ in range(150):
                stack.enter_context(connect(server))
            time.sleep(0.5)
            started = time.monotonic()
            line = stack.enter_context(connect(server))
            line.sendall(head("GET", "/health/live"))
            assert answer_from(line.makefile("rb"))[0] == 200
            print(f"answered after {time.monotonic() - started:.1f} s")
        assert 1 <= server.log.count("cannot accept further connections") <= 30
        for _ in range(10):
            assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/ready").status_code == 200


def worker_files(pid):
    from pathlib import Path

    return [each.name for each in Path(f"/proc/{pid}/fd").iterdir()]
