"""The worker against a real database with real processes; only training itself is a small child without torch."""

import os
import signal
import sys
import time

import pytest

from models.store import Store
from tests.server import wait_until
from tests.workers import OPEN, Desk, WorkerProcess, children, plan


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(state):
    with WorkerProcess(state) as running:
        yield running


@pytest.fixture
def desk(worker, state):
    plan(state)
    desk = Desk(state)
    yield desk
    desk.close()


@pytest.fixture
def own_url():
    """The job database of such a test: the file in its state folder. Elsewhere the same tests run on a server."""


@pytest.fixture
def own(tmp_path, own_url):
    """A state folder for tests that end their worker, and the desk, opened when the worker has made the database."""
    desks = []

    def start(*arguments: str):
        running = WorkerProcess(tmp_path, *arguments, url=own_url).__enter__()
        if not desks:
            desks.append(Desk(tmp_path, own_url))
        return running, desks[0]

    workers = []
    yield lambda *arguments: workers.append(start(*arguments)) or workers[-1]
    for running, _ in workers:
        running.stop()
    for desk in desks:
        desk.close()


def test_a_job_ends_with_a_version_and_a_whole_story(desk, state):
    """Every epoch is told once and in order, the version is live and names the job, nothing is left on disk."""
    job_id = desk.put()
    end = desk.end(job_id)
    assert end["status"] == "succeeded"
    assert end["result"]["model"]["live"]
    assert [row["epoch"] for row in end["history"]] == [1, 2, 3]
    assert desk.events(job_id)[0]["status"] == "running"
    assert desk.epochs(job_id) == [1, 2, 3]
    store = Store(state / "models")
    assert store.manifest("digit-mlp", end["result"]["model"]["version"]).provenance.job_id == job_id
    assert not (state / "jobs" / job_id).exists()


@pytest.mark.slow
def test_progress_is_told_at_most_twice_a_second(desk, state):
    """A child that reports every tenth of an epoch does not flood the database."""
    plan(state, epoch_s=0.5)
    job_id = desk.put()
    desk.end(job_id)
    assert 2 <= len(desk.events(job_id, "progress")) <= 5


@pytest.mark.slow
def test_a_child_that_dies_is_followed_by_one_that_goes_on(desk, state):
    """SIGKILL in epoch 2: a second process takes over, epoch 1 is not told twice, the log says what happened."""
    plan(state, crash_at=2)
    job_id = desk.put()
    assert desk.end(job_id)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2, 3]
    told = [event["message"] for event in desk.events(job_id, "log")]
    assert any("1 of 3 ended too early: SIGKILL: out of luck" in message for message in told)
    assert sum(message.startswith("process ") for message in told) == 2


@pytest.mark.slow
def test_a_child_that_always_dies_fails_the_job_with_its_last_words(desk, state):
    """Three deaths are enough, and the epochs that were reached stay in the history."""
    plan(state, crash_at=2, crashes=9)
    job_id = desk.put()
    end = desk.end(job_id)
    assert end["status"] == "failed"
    assert end["error"].endswith("ended too early 3 times, the last time with SIGKILL: out of luck")
    assert [row["epoch"] for row in end["history"]] == [1]


def test_a_child_that_gives_up_is_believed(desk, state):
    """Its sentence is the job's error, and nothing is tried again."""
    plan(state, error_at=2)
    job_id = desk.put()
    end = desk.end(job_id)
    assert (end["status"], end["error"]) == ("failed", "the loss is no longer a number")
    assert sum(event["message"].startswith("process ") for event in desk.events(job_id, "log")) == 1


def test_an_early_stop_ends_the_epochs(desk, state):
    """A job of three epochs that stops after the second still ends with a version."""
    plan(state, stop_at=2)
    job_id = desk.put()
    assert desk.end(job_id)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2]


def test_the_gate_can_refuse(desk, state):
    """A candidate below the floor is `rejected` with the reason, and no version appears."""
    plan(state, accuracy=0.2)
    before = Store(state / "models").versions("digit-mlp")
    end = desk.end(desk.put())
    assert (end["status"], end["result"]["model"]) == ("rejected", None)
    assert any("0.2" in reason for reason in end["result"]["gate"]["reasons"])
    assert Store(state / "models").versions("digit-mlp") == before


def test_cancelling_ends_the_child_within_two_seconds(desk, state):
    """The process is gone, the worker says so, the folder is removed, and the next job runs."""
    plan(state, epoch_s=5)
    job_id = desk.put()
    wait_until(lambda: desk.events(job_id, "progress"), 10)
    assert children(job_id)
    desk.client.cancel_workflow(job_id)
    began = time.monotonic()
    wait_until(lambda: not children(job_id), 5)
    wait_until(lambda: "stopped" in (desk.row(job_id).attributes or {}), 5)
    assert time.monotonic() - began < 2
    wait_until(lambda: not (state / "jobs" / job_id).exists(), 2)
    plan(state)
    assert desk.end(desk.put())["status"] == "succeeded"


@pytest.mark.slow
def test_a_cancellation_during_publication_comes_too_late(desk, state):
    """The version is in the store, so the job says so and does not claim to have been cancelled."""
    plan(state, bytes=400 * 2**20)
    job_id = desk.put(network="large", epochs=1)
    staging = state / "models" / ".staging"
    wait_until(lambda: desk.row(job_id).status == "PENDING" and staging.is_dir() and any(staging.iterdir()), 20)
    desk.client.cancel_workflow(job_id)
    late = wait_until(lambda: (desk.row(job_id).attributes or {}).get("late"), 20)
    assert (late["status"], late["result"]["model"]["name"]) == ("succeeded", "digit-large")
    assert Store(state / "models").live("digit-large") == 1


@pytest.mark.slow
def test_the_child_gives_way_to_others(desk, state):
    """It runs at nice 10, apart from the worker's process group, and a second one cannot enter its folder."""
    plan(state, epoch_s=2)
    job_id = desk.put(epochs=1)
    wait_until(lambda: desk.events(job_id, "progress"), 10)
    (child,) = children(job_id)
    assert os.getpriority(os.PRIO_PROCESS, child) == 10
    assert os.getpgid(child) == child
    assert desk.end(job_id)["status"] == "succeeded"


@pytest.mark.slow
def test_a_killed_worker_is_followed_by_one_that_repeats_nothing(own, tmp_path):
    """kill -9 in epoch 3 of 4: its child dies too, and the next worker goes on without telling an epoch twice."""
    plan(tmp_path, epoch_s=0.5)
    first, desk = own()
    job_id = desk.put(epochs=4)
    desk.wait_epoch(job_id, 2)
    first.kill()
    wait_until(lambda: not children(job_id), 2)
    own()
    assert desk.end(job_id)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2, 3, 4]
    assert len({event["row"]["epoch"]: event["at"] for event in desk.events(job_id, "epoch")}) == 4


@pytest.mark.slow
def test_a_stopped_worker_gives_its_job_back(own, tmp_path):
    """SIGTERM: out within ten seconds, the child with it; the job waits with no recovery used up, then goes on."""
    plan(tmp_path, epoch_s=0.5)
    first, desk = own()
    job_id = desk.put(epochs=4)
    desk.wait_epoch(job_id, 1)
    began = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - began < 10
    assert not children(job_id)
    row = desk.row(job_id)
    assert (row.status, row.recovery_attempts) == ("ENQUEUED", 0)
    own()
    assert desk.end(job_id)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_second_worker_of_the_same_name_waits_for_the_first(own, tmp_path):
    """Or it would take the running job for a lost one and train it a second time."""
    plan(tmp_path, epoch_s=0.5)
    first, desk = own()
    job_id = desk.put(epochs=4)
    desk.wait_epoch(job_id, 1)
    own()
    desk.wait_epoch(job_id, 2)
    assert len(children(job_id)) == 1
    first.kill()
    assert desk.end(job_id)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_job_has_a_time_limit(own, tmp_path):
    """A job that would take minutes is failed by the clock and its child ended."""
    plan(tmp_path, epoch_s=60)
    _, desk = own("--time-limit-s", "1")
    job_id = desk.put()
    end = desk.end(job_id)
    assert (end["status"], end["error"]) == ("failed", "the job did not end within its time limit of 1 seconds")
    assert not children(job_id)


@pytest.mark.slow
def test_the_real_trainer_goes_through_the_worker(tmp_path, data_dir, monkeypatch):
    """One epoch of the digit MLP by the real command line, killed once on the way, becomes a live version."""
    monkeypatch.setenv("DATA_DIR", str(data_dir.resolve()))
    with WorkerProcess(tmp_path, command=(sys.executable, "-m", "training", "worker")):
        desk = Desk(tmp_path)
        job_id = desk.put(epochs=2, batch_size=256, learning_rate=0.003)
        wait_until(lambda: desk.epochs(job_id) or desk.row(job_id).status not in OPEN, 120)
        assert desk.epochs(job_id), desk.row(job_id).output
        os.kill(children(job_id)[0], signal.SIGKILL)
        end = desk.end(job_id, 240)
        told = desk.events(job_id)
        desk.close()
    assert end["status"] == "succeeded", end
    assert [event["row"]["epoch"] for event in told if event["type"] == "epoch"] == [1, 2]
    assert any("SIGKILL" in event.get("message", "") for event in told)
    assert Store(tmp_path / "models").live("digit-mlp") == 1
