"""`/train` over real HTTP, with a real job database and, where jobs run, a real worker process."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn

from models.jobs import JobSpec, JobStatus
from service.app import create_app
from service.settings import Settings
from tests.server import Server, wait_until
from tests.workers import WorkerProcess, children, plan

UNKNOWN = "00000000-0000-0000-0000-000000000000"


@contextlib.contextmanager
def serving(state, **settings):
    """The application on a free port, in a thread; its models are not loaded, for no prediction is asked of it."""
    app = create_app(Settings(state=state, trainer=settings.pop("trainer", "external"), **settings))
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 10)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        asyncio.run(app.state.jobs.close())


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def url():
    """The job database: the file in the state folder. Elsewhere the same tests run on a server."""


@pytest.fixture(scope="module")
def idle_url():
    """The job database that no worker serves."""


@pytest.fixture(scope="module")
def busy(state, url):
    """A client of a service whose jobs are run by a worker."""
    with serving(state, max_queued_jobs=100, database_url=url) as client, WorkerProcess(state, url=url):
        yield client


@pytest.fixture
def client(busy, state):
    plan(state)
    return busy


@pytest.fixture(scope="module")
def idle(tmp_path_factory, idle_url):
    """A client of a service that no worker serves: its jobs wait."""
    with serving(tmp_path_factory.mktemp("idle"), max_queued_jobs=1000, database_url=idle_url) as client:
        yield client


def submit(client, **body):
    answer = client.post("/train", json={"task": "digit", "network": "mlp", "epochs": 2, **body})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def job_of(client, job_id):
    return client.get(f"/train/{job_id}").json()


def ended(client, job_id, seconds=20):
    return wait_until(lambda: JobStatus((job := job_of(client, job_id))["status"]).ended and job, seconds)


def follow(client, job_id, after=None, most=10_000):
    """(event, id) of the stream, and its bytes; at most so many events."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    events, name = [], None
    with client.stream("GET", f"/train/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("id: "):
                events.append((name, int(line.removeprefix("id: "))))
                if len(events) == most:
                    break
    return events


# ---------------------------------------------------------------------- submitting


def test_a_job_gets_every_default_of_its_recipe(idle):
    """Only `task` is needed; the answer says where the job is and what it will do."""
    recipe = idle.get("/train/recipes").json()["tasks"]["digit"]
    answer = idle.post("/train", json={"task": "digit"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/train/{job['id']}"
    assert job["status"] == "queued"
    assert job["spec"]["network"] == recipe["default_network"]
    assert job["spec"]["epochs"] == recipe["networks"][recipe["default_network"]]["epochs"]["default"]
    assert (job["spec"]["seed"], job["spec"]["promote"]) == (0, "if_better")
    assert (job["spec"]["priority"], job["spec"]["time_limit_s"]) == (5, None)
    assert job_of(idle, job["id"]) == job


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"task": "digit", "colour": 1}', ["body", "colour"]),
        ("{}", ["body", "task"]),
        ('{"task": 7}', ["body", "task"]),
        ('{"task": "digit", "epochs": 0}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": 1000000000}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": -1}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": true}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": 1.5}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": 2.0}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": "5"}', ["body", "epochs"]),
        ('{"task": "digit", "epochs": %s}' % ("9" * 400), ["body", "epochs"]),
        ('{"task": "digit", "batch_size": 0}', ["body", "batch_size"]),
        ('{"task": "digit", "learning_rate": NaN}', ["body", "learning_rate"]),
        ('{"task": "digit", "learning_rate": Infinity}', ["body", "learning_rate"]),
        ('{"task": "digit", "learning_rate": 0}', ["body", "learning_rate"]),
        ('{"task": "digit", "learning_rate": true}', ["body", "learning_rate"]),
        ('{"task": "digit", "seed": -1}', ["body", "seed"]),
        ('{"task": "digit", "seed": 99999999999}', ["body", "seed"]),
        ('{"task": "digit", "promote": "perhaps"}', ["body", "promote"]),
        ('{"task": "digit", "priority": 0}', ["body", "priority"]),
        ('{"task": "digit", "priority": 11}', ["body", "priority"]),
        ('{"task": "digit", "priority": 2.0}', ["body", "priority"]),
        ('{"task": "digit", "priority": "high"}', ["body", "priority"]),
        ('{"task": "digit", "time_limit_s": 0}', ["body", "time_limit_s"]),
        ('{"task": "digit", "time_limit_s": -1}', ["body", "time_limit_s"]),
        ('{"task": "digit", "time_limit_s": NaN}', ["body", "time_limit_s"]),
        ('{"task": "digit", "time_limit_s": "1h"}', ["body", "time_limit_s"]),
        ('{"task": "digit", "time_limit_s": 21601}', ["body", "time_limit_s"]),
    ],
)
def test_a_wrong_field_is_named(idle, body, place):
    """422 with the place of the field, and no job."""
    before = idle.get("/train").json()["jobs"]
    answer = idle.post("/train", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["loc"] == place
    assert idle.get("/train").json()["jobs"] == before


def test_a_range_is_told_in_the_error(idle):
    """Who sends too much learns how much is allowed, for all wrong numbers at once."""
    allowed = idle.get("/train/recipes").json()["tasks"]["digit"]["networks"]["cnn"]["epochs"]
    answer = idle.post("/train", json={"task": "digit", "network": "cnn", "epochs": 10**9, "batch_size": 10**9})
    problem = answer.json()
    assert problem["code"] == "out_of_range"
    assert problem["errors"][0]["msg"] == f"must be from {allowed['min']:g} to {allowed['max']:g}"
    assert [error["loc"][1] for error in problem["errors"]] == ["epochs", "batch_size"]


def test_a_time_limit_is_at_most_the_settings(tmp_path):
    """The error names the setting and its value; up to it every number of seconds is taken."""
    with serving(tmp_path, job_time_limit_s=60) as client:
        problem = client.post("/train", json={"task": "digit", "time_limit_s": 60.5}).json()
        assert problem["code"] == "out_of_range"
        assert problem["errors"][0]["msg"] == "must be at most 60, NEUROSERVE_JOB_TIME_LIMIT_S"
        job = client.post("/train", json={"task": "digit", "time_limit_s": 60}).json()
        assert job["spec"]["time_limit_s"] == 60


def test_a_job_from_before_an_option_was_known_is_still_read(idle):
    """Rows of an older release have neither priority nor limit; they show the defaults."""
    old = JobSpec(task="digit", network="mlp", epochs=2, batch_size=64, learning_rate=0.01)
    known = old.model_dump(mode="json", exclude={"priority", "time_limit_s"})
    assert JobSpec.model_validate(known) == old
    assert (old.priority, old.time_limit_s) == (5, None)
    made = [{**known, "priority": 10}, {**known, "time_limit_s": 5.0}]
    assert [JobSpec.model_validate(spec).priority for spec in made] == [10, 5]


def test_an_unknown_task_or_network_is_answered_with_the_known_ones(idle):
    """422, a code for each, and the list to choose from."""
    answer = idle.post("/train", json={"task": "Poem"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_task")
    assert "'Poem'" in answer.json()["detail"]
    assert "digit" in answer.json()["detail"]
    answer = idle.post("/train", json={"task": "digit", "network": "abacus"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_network")
    assert "mlp" in answer.json()["detail"]


def test_the_same_key_gives_the_same_job(idle):
    """A request that is sent again makes no second job; another request under the key is refused."""
    headers = {"Idempotency-Key": "tuesday's run, first try"}
    first = idle.post("/train", json={"task": "digit"}, headers=headers)
    again = idle.post("/train", json={"task": "digit", "seed": 0}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = idle.post("/train", json={"task": "digit", "seed": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert idle.post("/train", json={"task": "digit"}, headers={"Idempotency-Key": ""}).status_code == 422


def test_a_full_queue_says_when_to_come_back(tmp_path):
    """429 for the third of two places, but a repeated request still finds its job."""
    with serving(tmp_path, max_queued_jobs=2) as client:
        body, key = {"task": "digit"}, {"Idempotency-Key": "one"}
        assert client.post("/train", json=body, headers=key).status_code == 202
        second = submit(client)
        full = client.post("/train", json=body)
        assert (full.status_code, full.json()["code"]) == (429, "job_queue_full")
        assert int(full.headers["retry-after"]) > 0
        assert client.post("/train", json=body, headers=key).status_code == 202
        client.delete(f"/train/{second}")
        assert client.post("/train", json=body).status_code == 202


def test_a_full_queue_takes_exactly_its_limit(tmp_path):
    """Forty at once, over two HTTP processes: sixteen wait, the others are told to come back."""
    with Server(tmp_path, trainer="external", workers=2) as server:
        assert_exactly_the_limit_waits(server)


def assert_exactly_the_limit_waits(server):
    """Each request comes by a connection of its own, so that both processes get some."""
    ready = threading.Barrier(40)

    def ask(seed):
        with httpx.Client(base_url=server.url, timeout=30) as client:
            client.get("/health/live")
            ready.wait(30)
            return client.post("/train", json={"task": "digit", "seed": seed}).status_code

    with ThreadPoolExecutor(40) as pool:
        statuses = Counter(pool.map(ask, range(40)))
    assert statuses == {202: 16, 429: 24}
    assert len(server.client.get("/train?limit=100").json()["jobs"]) == 16


def test_training_can_be_off(tmp_path):
    """POST is a 503 that says so; the list still works."""
    with serving(tmp_path, trainer="off") as client:
        answer = client.post("/train", json={"task": "digit"})
        assert (answer.status_code, answer.json()["code"]) == (503, "training_off")
        assert client.get("/train").json() == {"jobs": [], "next_cursor": None}


def test_a_lost_database_is_a_503(tmp_path):
    """Where no database can be made every route says so and none shows why."""
    (tmp_path / "file").touch()
    with serving(tmp_path, database_url=f"sqlite:///{tmp_path / 'file' / 'jobs.sqlite'}") as client:
        for answer in (
            client.get("/train"),
            client.post("/train", json={"task": "digit"}),
            client.get(f"/train/{UNKNOWN}/events"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "jobs_unavailable")
            assert str(tmp_path) not in answer.text


# ---------------------------------------------------------------------- watching


def test_an_unknown_job_is_a_404(idle):
    """For all three routes, whatever the id looks like."""
    for job_id in ("nope", UNKNOWN, "x" * 500, "%00"):
        for answer in (
            idle.get(f"/train/{job_id}"),
            idle.delete(f"/train/{job_id}"),
            idle.get(f"/train/{job_id}/events"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_job_is_followed_to_its_version(client):
    """It ends `succeeded` with a live version, its history, its times in order, and no error."""
    job = ended(client, submit(client))
    assert job["status"] == "succeeded"
    assert job["result"]["model"]["live"]
    assert job["result"]["gate"]["passed"]
    assert [row["epoch"] for row in job["history"]] == [1, 2]
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert job["error"] is None


def test_a_running_job_tells_its_progress(client, state):
    """While it runs it can be seen where it is."""
    plan(state, epoch_s=1.5)
    job_id = submit(client)
    job = wait_until(lambda: (job := job_of(client, job_id))["progress"] and job["history"] and job, 20)
    assert job["status"] == "running"
    assert job["progress"]["epochs"] == 2
    assert job["started_at"] is not None
    assert ended(client, job_id)["status"] == "succeeded"


def test_failures_and_refusals_say_why(client, state):
    """`failed` has the sentence of the trainer, `rejected` the reasons of the gate."""
    plan(state, error_at=1)
    failed = ended(client, submit(client))
    assert (failed["status"], failed["error"]) == ("failed", "the loss is no longer a number")
    plan(state, accuracy=0.1)
    rejected = ended(client, submit(client))
    assert (rejected["status"], rejected["result"]["model"]) == ("rejected", None)
    assert not rejected["result"]["gate"]["passed"]


def test_events_come_once_in_order_and_can_be_taken_up_again(client, state):
    """Places 1, 2, 3, ... from `queued` to `done`; after a broken line exactly the rest; after the last nothing."""
    plan(state, epoch_s=0.8)
    job_id = submit(client)
    begun = follow(client, job_id, most=4)
    rest = follow(client, job_id, after=begun[-1][1])
    whole = follow(client, job_id)
    assert begun + rest == whole
    assert [place for _, place in whole] == list(range(1, len(whole) + 1))
    names = [name for name, _ in whole]
    assert (names[:2], names[-1], names.count("epoch")) == (["status", "status"], "done", 2)
    last = {"Last-Event-ID": str(whole[-1][1])}
    assert client.get(f"/train/{job_id}/events", headers=last).status_code == 204


def test_a_wrong_last_event_id_is_a_422(idle):
    """It must be a number that the stream gave."""
    answer = idle.get(f"/train/{submit(idle)}/events", headers={"Last-Event-ID": "yesterday"})
    assert answer.status_code == 422


def test_the_list_is_newest_first_and_pages_show_each_job_once(idle):
    """Three pages by their cursors are the whole list; filters leave out the others."""
    made = [submit(idle) for _ in range(7)]
    pages, cursor = [], None
    while True:
        page = idle.get("/train", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        pages += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages[:7] == made[::-1]
    assert len(set(pages)) == len(pages)
    idle.delete(f"/train/{made[0]}")
    assert [job["id"] for job in idle.get("/train?status=cancelled").json()["jobs"]].count(made[0]) == 1
    assert made[0] not in [job["id"] for job in idle.get("/train?status=queued&limit=100").json()["jobs"]]
    assert idle.get("/train?task=topic").json()["jobs"] == []
    assert idle.get("/train?cursor=soon").json()["code"] == "invalid_cursor"
    for wrong in ("limit=0", "limit=101", "status=lost"):
        assert idle.get(f"/train?{wrong}").status_code == 422


# ---------------------------------------------------------------------- cancelling


def test_a_waiting_job_is_cancelled_at_once(idle):
    """`cancelled` in the answer, a stream of two events, and no second time."""
    job_id = submit(idle)
    answer = idle.delete(f"/train/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert follow(idle, job_id) == [("status", 1), ("done", 2)]
    again = idle.delete(f"/train/{job_id}")
    assert (again.status_code, again.json()["code"]) == (409, "job_ended")


def test_a_running_job_is_cancelled_within_two_seconds(client, state):
    """`cancelling`, then `cancelled` when the child is gone; the stream says both, and takes up at either."""
    plan(state, epoch_s=5)
    job_id = submit(client)
    wait_until(lambda: job_of(client, job_id)["progress"], 20)
    answer = client.delete(f"/train/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    began = time.monotonic()
    job = ended(client, job_id)
    assert time.monotonic() - began < 2
    assert job["status"] == "cancelled"
    assert not children(job_id)
    whole = follow(client, job_id)
    assert [name for name, _ in whole][-2:] == ["status", "done"]
    assert [place for _, place in whole] == list(range(1, len(whole) + 1))
    for after in (len(whole) - 2, len(whole) - 1):
        assert follow(client, job_id, after=after) == whole[after:]


@pytest.mark.slow
def test_the_next_job_starts_soon_after_a_cancellation(client, state):
    """The slot is free within three seconds of the DELETE: the job behind it runs, and to its end."""
    plan(state, epoch_s=5)
    first = submit(client)
    second = submit(client)
    wait_until(lambda: job_of(client, first)["progress"], 20)
    plan(state)
    began = time.monotonic()
    client.delete(f"/train/{first}")
    wait_until(lambda: job_of(client, second)["status"] != "queued", 20)
    assert time.monotonic() - began < 3
    assert ended(client, second)["status"] == "succeeded"


# ---------------------------------------------------------------------- order and time


@pytest.mark.slow
def test_waiting_jobs_run_by_priority_then_by_age(client, state):
    """Behind a running job the lowest number comes first, equals as they came; the list by status tells who waits."""
    plan(state, epoch_s=0.7)
    running = submit(client)
    wait_until(lambda: job_of(client, running)["status"] == "running", 20)
    waiting = {name: submit(client, epochs=1, **what) for name, what in PRIORITIES.items()}
    plan(state)
    queued = [job["id"] for job in client.get("/train?status=queued").json()["jobs"]]
    assert set(queued) == set(waiting.values())
    started = {name: ended(client, job_id, 90)["started_at"] for name, job_id in waiting.items()}
    assert sorted(started, key=started.__getitem__) == ["urgent", "first", "second", "whenever"]


PRIORITIES = {"whenever": {"priority": 10}, "first": {}, "second": {"priority": 5}, "urgent": {"priority": 1}}


def test_a_job_has_the_time_limit_that_it_asked_for(client, state):
    """A job that hangs is failed by its own clock, long before the setting's, and its child is gone."""
    plan(state, epoch_s=60)
    job_id = submit(client, time_limit_s=1.5)
    job = ended(client, job_id)
    assert (job["status"], job["error"]) == ("failed", "the job did not end within its time limit of 1.5 seconds")
    assert not children(job_id)


def warnings_of(client, job_id):
    return [(each["code"], each["detail"]) for each in job_of(client, job_id).get("warnings", [])]


def test_a_job_that_no_worker_can_take_says_so(tmp_path):
    """In the answer, in the job, in the list and in the stream; no longer when a worker comes."""
    with serving(tmp_path) as client:
        posted = client.post("/train", json={"task": "digit"})
        assert posted.status_code == 202
        job_id = posted.json()["id"]
        ((code, detail),) = warnings_of(client, job_id)
        assert [code] == [each["code"] for each in posted.json()["warnings"]] == ["no_worker"]
        assert "python -m training worker" in detail
        assert [each["code"] for each in client.get("/train").json()["jobs"][0]["warnings"]] == ["no_worker"]
        with client.stream("GET", f"/train/{job_id}/events") as stream:
            lines = stream.iter_lines()
            while "event: warnings" not in next(lines):
                pass
            block = [next(lines)]
            while block[-1]:
                block.append(next(lines))
            assert "no_worker" in block[0]
            assert not [line for line in block if line.startswith("id:")], "it has no place to be taken up from"
            plan(tmp_path)
            with WorkerProcess(tmp_path):
                wait_until(lambda: not warnings_of(client, job_id), 30)
                while "event: warnings" not in next(lines):
                    pass
                assert '"warnings":[]' in next(lines)
                assert ended(client, job_id)["status"] == "succeeded"
                assert "warnings" not in client.post("/train", json={"task": "digit"}).json()


def test_a_cancelled_job_waits_for_no_worker(tmp_path):
    """A warning is true or not there."""
    with serving(tmp_path) as client:
        job_id = submit(client)
        assert warnings_of(client, job_id)
        client.delete(f"/train/{job_id}")
        assert "warnings" not in job_of(client, job_id)
        told = client.get(f"/train/{job_id}/events").text
        assert "event: done" in told
