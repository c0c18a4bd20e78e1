"""The embedded worker: a real process that the parent starts, restarts and stops."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.settings import Settings
from service.trainer import EmbeddedWorker
from tests.server import ROOT, wait_until
from tests.service.test_train import ended, follow, job_of, serving, submit
from tests.workers import COMMAND, plan


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    plan(tmp_path)
    monkeypatch.setenv("CHILD_PLAN", str(tmp_path / "plan.json"))
    worker = EmbeddedWorker(Settings(state=tmp_path), COMMAND)
    worker.start()
    yield worker
    worker.stop(15)


@pytest.mark.slow
def test_an_embedded_worker_that_is_killed_comes_back_and_goes_on(embedded, tmp_path):
    """kill -9 in the middle of a job: the parent starts a new one, and the client sees one whole story."""
    plan(tmp_path, epoch_s=0.8)
    with serving(tmp_path) as client:
        job_id = submit(client, epochs=3)
        wait_until(lambda: job_of(client, job_id)["history"], 20)
        first = embedded.pid
        os.kill(first, 9)
        wait_until(lambda: embedded.poll() or embedded.pid not in {None, first}, 10)
        assert job_of(client, job_id)["status"] == "running"
        job = ended(client, job_id, 30)
        whole = follow(client, job_id)
    assert job["status"] == "succeeded"
    assert [row["epoch"] for row in job["history"]] == [1, 2, 3]
    assert [place for _, place in whole] == list(range(1, len(whole) + 1))
    assert [name for name, _ in whole].count("epoch") == 3


def test_a_worker_that_cannot_live_is_tried_ever_more_seldom(tmp_path):
    """Restarts do not become a busy loop, and stopping in a pause is harmless."""
    worker = EmbeddedWorker(Settings(state=tmp_path), (sys.executable, "-c", "raise SystemExit(3)"))
    worker.start()
    pids, until = set(), time.monotonic() + 2.0
    while time.monotonic() < until:
        worker.poll()
        pids.add(worker.pid)
        time.sleep(0.02)
    assert 2 <= len(pids - {None}) <= 4
    worker.stop(1)
    worker.poll()
    assert worker.pid is None


@pytest.mark.slow
def test_a_stopped_worker_is_killed_and_replaced_within_ten_seconds(tmp_path, monkeypatch):
    """SIGSTOP in the middle of a job: the parent misses its heartbeat, and the job comes to its end."""
    plan(tmp_path, epoch_s=0.4)
    monkeypatch.setenv("CHILD_PLAN", str(tmp_path / "plan.json"))
    worker = EmbeddedWorker(Settings(state=tmp_path), COMMAND)
    worker.start()
    try:
        with serving(tmp_path) as client:
            job_id = submit(client, epochs=3)
            wait_until(lambda: worker.poll() or job_of(client, job_id)["history"], 30)
            stopped = worker.pid
            os.kill(stopped, signal.SIGSTOP)
            wait_until(lambda: worker.poll() or worker.pid not in {None, stopped}, 10)
            wait_until(lambda: worker.poll() or job_of(client, job_id)["status"] == "succeeded", 30)
    finally:
        worker.stop(15)


def test_a_worker_that_still_loads_may_be_silent_longer(tmp_path):
    """Imports take their time: only who never says anything for ten times as long is killed."""
    mute = (sys.executable, "-c", "import time; time.sleep(60)")
    worker = EmbeddedWorker(Settings(state=tmp_path, worker_silent_s=2), mute)
    worker.start()
    try:
        first = worker.pid
        now = time.monotonic()
        for second in range(19):
            worker._kill_silent(now + second)
        assert worker.pid == first
        assert worker._process.poll() is None
        for second in range(19, 23):
            worker._kill_silent(now + second)
        assert worker._process.wait(5) == -signal.SIGKILL
    finally:
        worker.stop(1)


def test_a_worker_that_does_not_listen_is_killed(tmp_path):
    """SIGTERM, the grace time, SIGKILL."""
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    worker = EmbeddedWorker(Settings(state=tmp_path), (sys.executable, "-c", deaf))
    worker.start()
    time.sleep(0.05)
    began = time.monotonic()
    worker.stop(0.5)
    assert time.monotonic() - began < 3
    assert worker.pid is None


@pytest.mark.slow
def test_the_worker_dies_with_the_service(tmp_path):
    """kill -9 of the parent leaves no worker behind."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from service.settings import Settings\n"
        "from service.trainer import EmbeddedWorker\n"
        f"worker = EmbeddedWorker(Settings(state=Path({str(tmp_path)!r})))\n"
        "worker.start()\n"
        "print(worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        pid = int(parent.stdout.readline())
        wait_until((tmp_path / "worker-local.lock").exists, 20)
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 10)


def test_settings_are_on_the_workers_command_line_and_secrets_are_not(tmp_path, monkeypatch):
    """The database's password travels in the environment, and the API keys not at all."""
    monkeypatch.setenv("NEUROSERVE_API_KEYS", "ops:admin:a-secret-of-some-length")
    show = "import os, sys, json; json.dump([sys.argv, dict(os.environ)], open('seen.json', 'w'))"
    monkeypatch.chdir(tmp_path)
    url = "postgresql://neuro:password@db/jobs"
    settings = Settings(state=tmp_path, database_url=url, train_concurrency=3, trainer_silent_s=7)
    worker = EmbeddedWorker(settings, (sys.executable, "-c", show))
    worker.start()
    text = wait_until(lambda: (seen := tmp_path / "seen.json").exists() and seen.read_text(), 10)
    worker.stop(5)
    arguments, environment = json.loads(text)
    assert not any("password" in argument for argument in arguments)
    given = dict(itertools.pairwise(arguments))
    assert (given["--concurrency"], given["--silent-s"]) == ("3", "7.0")
    assert environment["NEUROSERVE_DATABASE_URL"] == url
    assert "NEUROSERVE_API_KEYS" not in environment
