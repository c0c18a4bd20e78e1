"""Workers that are killed while they load, stopped or blocked: the others answer on, and each is replaced."""

import contextlib
import os
import signal
import threading
import time

import httpx
import psutil
import pytest

from tests.server import EXAMPLES, Server, wait_until

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
WITH_LONG_CALLS = """
import asyncio, sys, time
from starlette.routing import Route
from starlette.responses import PlainTextResponse
from service import worker
from service.cli import main

make = worker.create_app

def create_app(settings):
    async def on_the_loop(request):
        time.sleep(60)
        return PlainTextResponse("late")

    async def beside(request):
        await asyncio.to_thread(time.sleep, 6)
        return PlainTextResponse("done")

    app = make(settings)
    app.router.routes.extend([Route("/test/loop", on_the_loop), Route("/test/beside", beside)])
    return app

worker.create_app = create_app
sys.exit(main(["serve"]))
"""


def workers(server):
    """Ids of the HTTP processes of a service."""
    return {process.pid for process in psutil.Process(server.process.pid).children()}


def call(server, path):
    """A request whose connection may well be cut."""
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{server.url}{path}", timeout=30)


def answers(server):
    """Status of one prediction on a connection of its own; None without an answer."""
    with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=server.url, timeout=5) as client:
        return client.post("/predict/digit", content=SEVEN, headers=PNG).status_code
    return None


def all_answer(server, times=12):
    return all(answers(server) == 200 for _ in range(times))


@pytest.mark.slow
def test_a_replacement_that_is_killed_while_it_loads_does_not_end_the_others(tmp_path):
    """Three replacements die young: one line each, growing pauses, every request answered, two workers at the end."""
    with Server(tmp_path) as server:
        first, healthy = sorted(workers(server))
        os.kill(first, signal.SIGKILL)
        killed = {first}
        deaths = [time.monotonic()]
        for _ in range(3):
            known = {healthy, *killed}
            fresh = wait_until(lambda known=known: workers(server) - known, 10, 0.005)
            killed |= fresh
            for pid in fresh:
                os.kill(pid, signal.SIGKILL)
            deaths.append(time.monotonic())
            assert answers(server) == 200
        wait_until(lambda: len(workers(server)) == 2, 15)
        assert healthy in workers(server)
        assert server.process.poll() is None
        assert server.log.count("before it was ready and is replaced") == 3
        assert deaths[3] - deaths[2] > deaths[2] - deaths[1] - 0.2
        wait_until(lambda: all_answer(server), 20)


@pytest.mark.slow
def test_a_first_start_that_fails_ends_at_once_with_its_reason(tmp_path):
    """Nothing is tried again where it would only fail again: the reason and an exit code."""
    said = Server(tmp_path, device="cuda").refused()
    assert "NEUROSERVE_DEVICE=cuda" in said
    assert "is replaced" not in said


@pytest.mark.slow
def test_a_stopped_worker_is_killed_and_replaced_within_ten_seconds(tmp_path):
    """SIGSTOP of one of two processes: it is missed, and all new connections are answered again soon."""
    with Server(tmp_path) as server:
        before = workers(server)
        stopped = min(before)
        began = time.monotonic()
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: len(workers(server) - {stopped}) == 2 and stopped not in workers(server), 10)
        wait_until(lambda: all_answer(server, 4), 10)
        assert time.monotonic() - began < 20
        assert "is stopped or blocked" in server.log
        assert before - {stopped} <= workers(server)


@pytest.mark.slow
def test_a_stopped_worker_keeps_grpc_calls_waiting_for_ten_seconds_at_most(tmp_path):
    """The kernel gives a stopped process its share of connections until it is replaced."""
    from tests.service.rpc import Client

    with Server(tmp_path, grpc_port=0, worker_silent_s=2) as server:
        stopped = min(workers(server))
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: len(workers(server) - {stopped}) == 2, 10)
        wait_until(lambda: all_answer(server, 4), 10)
        for _ in range(12):
            with Client(server) as client:
                assert client.call("ServerReady").ready


@pytest.mark.slow
def test_a_blocked_event_loop_is_replaced_and_long_work_beside_it_is_not(tmp_path):
    """Six seconds on a thread with a limit of two: nobody is killed. The same on the loop: that worker is."""
    with Server(tmp_path, program=("-c", WITH_LONG_CALLS), worker_silent_s=2) as server:
        before = workers(server)
        assert httpx.get(f"{server.url}/test/beside", timeout=30).text == "done"
        assert workers(server) == before
        blocked = threading.Thread(target=call, args=(server, "/test/loop"))
        blocked.start()
        wait_until(lambda: len(workers(server) & before) == 1 and len(workers(server)) == 2, 10)
        wait_until(lambda: all_answer(server, 4), 10)
        blocked.join()


@pytest.mark.slow
def test_a_pause_of_the_whole_service_kills_nobody(tmp_path):
    """As on a laptop that sleeps: all processes stop and go on together."""
    with Server(tmp_path, worker_silent_s=2) as server:
        before = workers(server)
        os.killpg(server.process.pid, signal.SIGSTOP)
        time.sleep(5)
        os.killpg(server.process.pid, signal.SIGCONT)
        time.sleep(3)
        assert workers(server) == before
        assert all_answer(server, 4)
