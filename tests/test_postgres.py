"""The job database on a real PostgreSQL server: the same tests as on SQLite, and what only a server can do, go away."""

import time

import pytest

from models.database import shown
from tests.postgres import Postgres
from tests.server import EXAMPLES, Server, free_port, wait_until
from tests.service.test_train import (  # noqa: F401
    assert_exactly_the_limit_waits,
    busy,
    client,
    ended,
    follow,
    idle,
    job_of,
    serving,
    submit,
    test_a_job_is_followed_to_its_version,
    test_a_running_job_is_cancelled_within_two_seconds,
    test_a_waiting_job_is_cancelled_at_once,
    test_events_come_once_in_order_and_can_be_taken_up_again,
    test_the_list_is_newest_first_and_pages_show_each_job_once,
    test_the_same_key_gives_the_same_job,
)
from tests.training.test_worker import (  # noqa: F401
    own,
    test_a_stopped_worker_gives_its_job_back,
)
from tests.workers import Desk, WorkerProcess, plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.url()


@pytest.fixture(scope="module")
def idle_url(postgres):
    return postgres.url()


@pytest.fixture
def own_url(postgres):
    return postgres.url()


# ---------------------------------------------------------------------- a server that goes away


@pytest.fixture
def frail():
    """A server of the test's own, to be stopped."""
    with Postgres() as server:
        yield server


def test_a_job_outlives_its_database(frail, tmp_path):
    """The server dies while a job runs and is back seconds later: the job ends well, its story has no gap."""
    plan(tmp_path, epoch_s=0.8)
    url = frail.url()
    with serving(tmp_path, database_url=url) as client, WorkerProcess(tmp_path, url=url):  # noqa: F811
        job_id = submit(client, epochs=4)
        wait_until(lambda: job_of(client, job_id)["history"], 20)
        frail.stop()
        lost = client.get(f"/train/{job_id}")
        assert (lost.status_code, lost.json()["code"]) == (503, "jobs_unavailable")
        assert int(lost.headers["retry-after"]) > 0
        time.sleep(3)  # longer than an epoch and a few heartbeats
        frail.start()
        began = time.monotonic()
        wait_until(lambda: client.get(f"/train/{job_id}").status_code == 200, 10)
        job = ended(client, job_id, 60)
        print(f"ended {time.monotonic() - began:.1f} s after the server was back")
        whole = follow(client, job_id)
    assert job["status"] == "succeeded", job
    assert [row["epoch"] for row in job["history"]] == [1, 2, 3, 4]
    assert [place for _, place in whole] == list(range(1, len(whole) + 1))
    assert [name for name, _ in whole].count("epoch") == 4


def test_a_worker_waits_for_its_database(frail, tmp_path):
    """Started before the server it says where it looks, not the password; it takes jobs once the server is there."""
    frail.stop()
    url = frail.url()
    worker = WorkerProcess(tmp_path, url=url)
    try:
        wait_until(lambda: "cannot be reached, trying again" in worker.said, 20)
        assert shown(url) in worker.said
        assert "p%40ss" not in worker.said
        frail.start()
        worker.ready()
        desk = Desk(tmp_path, url)
        assert desk.end(desk.put(epochs=1))["status"] == "succeeded"
        desk.close()
    finally:
        assert worker.stop() == 0


def test_a_full_queue_takes_exactly_its_limit_on_a_server(postgres, tmp_path):
    """A server takes many changes at a time, where SQLite takes one."""
    settings = {"trainer": "external", "workers": 2, "database_url": postgres.url()}
    with Server(tmp_path, **settings) as server:
        assert_exactly_the_limit_waits(server)
        assert server.client.post("/train", json={"task": "digit"}).status_code == 429


def test_predictions_go_on_without_the_job_database(tmp_path):
    """With a server that is not there only /train is a 503; the service starts and predicts, and its log says why."""
    url = f"postgresql://neuro:secret@127.0.0.1:{free_port()}/jobs"
    with Server(tmp_path, trainer="external", workers=1, database_url=url) as server:
        picture = (EXAMPLES / "seven.png").read_bytes()
        headers = {"Content-Type": "image/png"}
        lost = server.client.post("/train", json={"task": "digit"})
        assert (lost.status_code, lost.json()["code"]) == (503, "jobs_unavailable")
        assert server.client.post("/predict/digit", content=picture, headers=headers).json()["digit"] == 7
        wait_until(lambda: "the job database failed" in server.log, 5)
        assert "secret" not in server.log + lost.text


def test_an_address_of_no_database_is_refused_at_the_start(tmp_path):
    """One sentence that says what to give, without the password."""
    said = Server(tmp_path, database_url="mysql://neuro:secret@db/jobs").refused()
    assert "NEUROSERVE_DATABASE_URL" in said
    assert "postgresql://USER:PASSWORD@HOST/NAME" in said
    assert "secret" not in said
