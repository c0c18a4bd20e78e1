"""The parent process: workers are replaced, signals are obeyed, a wrong start says why."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.server import EXAMPLES, ROOT, Server, shipped, wait_until

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}


def workers(server):
    """HTTP processes of a service."""
    return psutil.Process(server.process.pid).children()


def predict(server):
    return server.client.post("/predict/digit", content=SEVEN, headers=PNG)


def test_a_killed_worker_is_replaced_and_the_service_answers_on(tmp_path):
    """kill -9 of one HTTP process costs its own connections at most."""
    with Server(tmp_path) as server:
        before = {process.pid for process in workers(server)}
        assert len(before) == 2
        os.kill(before.copy().pop(), signal.SIGKILL)

        def replaced():
            now = {process.pid for process in workers(server)}
            return len(now) == 2 and now != before

        wait_until(replaced, 10)
        with httpx.Client(base_url=server.url) as fresh:
            assert fresh.post("/predict/digit", content=SEVEN, headers=PNG, timeout=10).status_code == 200


def test_sigterm_finishes_what_was_accepted_and_leaves_nothing_behind(tmp_path):
    """Requests in flight are answered, then every process is gone, with exit code 0."""
    with Server(tmp_path) as server:
        family = workers(server)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(predict, server) for _ in range(64)]
            assert answers[8].result().status_code == 200
            server.process.send_signal(signal.SIGTERM)
            kept = [answer for answer in answers if not answer.exception(20)]
        assert all(answer.result().status_code == 200 for answer in kept)
        assert server.process.wait(20) == 0
        assert not [process for process in family if process.is_running() and process.status() != "zombie"]


def test_a_killed_parent_takes_its_workers_along(tmp_path):
    """kill -9 of the parent leaves no worker that holds the port."""
    with Server(tmp_path) as server:
        family = workers(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        wait_until(lambda: not any(process.is_running() for process in family), 15)


def test_totals_are_right_with_several_workers(tmp_path):
    """A scrape of any worker sums all of them, and a dead worker's counts stay."""
    with Server(tmp_path) as server:
        for _ in range(20):
            with httpx.Client(base_url=server.url) as client:  # a new connection each, so that both workers get some
                assert client.post("/predict/digit", content=SEVEN, headers=PNG).status_code == 200
        counter = 'neuroserve_request_seconds_count{route="/predict/digit",status="200"} 20.0'
        for _ in range(4):
            with httpx.Client(base_url=server.url) as client:
                assert counter in client.get("/metrics").text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": "cuda"}, "NEUROSERVE_DEVICE=cuda"),
        ({"device": "tpu"}, "NEUROSERVE_DEVICE"),
        ({"max_batch_rows": "many"}, "NEUROSERVE_MAX_BATCH_ROWS"),
        ({"port": "99999"}, "NEUROSERVE_PORT"),
    ],
)
def test_a_wrong_setting_refuses_to_start_with_a_sentence(tmp_path, settings, says):
    """No trace, no half-started service: the variable's name and what is wrong with it."""
    said = Server(tmp_path, **settings).refused()
    assert says in said
    assert "Traceback" not in said


def test_a_taken_port_is_told(tmp_path):
    """Exit code 1 and the address that is in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {**os.environ, "NEUROSERVE_STATE": str(tmp_path), "NEUROSERVE_PORT": str(port)}
        command = [sys.executable, "-m", "service"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use" in done.stderr


def test_a_store_of_an_earlier_start_keeps_its_live_version(tmp_path):
    """The shipped models seed an empty store only; what was promoted stays."""
    with Server(tmp_path) as server:
        assert predict(server).json()["model"] == {"name": "digit-cnn", "version": shipped("digit-cnn")}
    (tmp_path / "models" / "digit-mlp" / "live").unlink()
    with Server(tmp_path) as server:
        assert server.client.get("/models/digit-mlp").json()["live"] is None


def test_a_corrupted_live_version_starts_on_the_previous_one_and_says_so(tmp_path):
    """A damaged file in the store costs a log line and a note in /models, not the service."""
    from models.store import Store
    from service.settings import ZOO
    from tests.artifacts import publish

    store = Store(tmp_path / "models")
    store.seed(Store(ZOO))
    newer = publish(store, favourite=4)
    store.promote("digit-cnn", newer)
    (store.folder("digit-cnn", newer) / "model.onnx").write_bytes(b"damaged")
    with Server(tmp_path) as server:
        answer = predict(server)
        assert answer.json()["digit"] == 7
        assert answer.headers["x-model-version"] == str(shipped("digit-cnn"))
        told = server.client.get("/models/digit-cnn").json()
        assert "was changed after it was published" in told["problem"]
        assert f"digit-cnn version {newer} is refused" in server.log


def test_an_open_event_stream_does_not_hold_up_a_shutdown(tmp_path):
    """A client that follows a waiting job is let go at once; the stream can be taken up again later."""
    with Server(tmp_path, trainer="external", shutdown_grace_s=20) as server:
        job = server.client.post("/train", json={"task": "digit", "network": "mlp", "epochs": 1}).json()
        with server.client.stream("GET", f"/train/{job['id']}/events") as stream:
            lines = stream.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: status"
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert not [line for line in lines if line.startswith("event: done")]
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("count", [2, 16])
def test_connections_are_spread_evenly_over_the_workers(tmp_path, count):
    """A client's pool never ends up at one process while the other idles."""

    def connect(server):
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as one:
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(64).startswith(b"HTTP/1.1 200")
            opened.append(one)
            assert release.wait(30)

    def held(process):
        return sum(each.status == "ESTABLISHED" for each in process.net_connections("tcp"))

    with Server(tmp_path) as server:
        server.client.close()
        opened, release = [], threading.Event()
        wait_until(lambda: [held(process) for process in workers(server)] == [0, 0], 5)
        with ThreadPoolExecutor(count) as pool:
            try:
                for _ in range(count):
                    pool.submit(connect, server)
                wait_until(lambda: len(opened) == count, 10)
                shares = [held(process) for process in workers(server)]
            finally:
                release.set()
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 2
