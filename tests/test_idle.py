"""What a service costs that nobody uses."""

import time

import pytest

from tests.bench.idle import SETTLE_S, measure
from tests.server import Server, wait_until

pytestmark = pytest.mark.slow


def test_an_idle_service_with_its_trainer_hardly_runs_and_hardly_writes(tmp_path):
    """Twice the bar of `tests.bench.idle` for the CPU, as other work on the machine makes each wake-up dearer."""
    with Server(tmp_path, trainer="embedded") as server:
        wait_until(lambda: "takes jobs from" in server.log, 30)
        time.sleep(SETTLE_S)
        share, written = measure(server.process.pid, 30)
    assert share <= 0.01
    assert written <= 10_000  # two counts of the trainer's row, a page of 4 kB each


def test_an_idle_trainer_takes_a_job_within_seconds(tmp_path):
    """Although its engine is not running; a second job soon afterwards meets a running one."""
    with Server(tmp_path, trainer="embedded") as server:
        wait_until(lambda: "takes jobs from" in server.log, 30)
        for _ in range(2):
            job = server.client.post("/train", json={"task": "digit", "network": "mlp", "epochs": 1}).json()["id"]
            reaches(server, job, "running")
            server.client.delete(f"/train/{job}")
            reaches(server, job, "cancelled")


def reaches(server, job, status):
    """Wait until a job has that status."""
    wait_until(lambda: server.client.get(f"/train/{job}").json()["status"] == status, 15)
