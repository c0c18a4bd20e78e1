"""Workers that watch over each other: the count of silence, the folder's turns, real workers that die and freeze."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from models import store
from models.store import Store
from tests.server import wait_until
from tests.workers import CHILD, SPEC, Desk, WorkerProcess, children, plan
from training import worker
from training.job import JobRun, JobSettings
from training.turn import LOCK_FILE, ready_folder
from training.watchdog import LONGEST_BEAT_S, SILENT_S, Heartbeats, Silence, Watchdog

# ---------------------------------------------------------------------- who is silent


def test_only_a_count_that_stands_still_is_silence():
    """A count that changes, downwards too after a restart, is a sign of life; a newcomer has its whole time."""
    silence = Silence(20)
    assert silence.look({"a": 1, "b": 1}, 100) == set()
    assert silence.look({"a": 2, "b": 1}, 109) == set()
    assert silence.look({"a": 3, "b": 1, "c": 7}, 118) == set()
    assert silence.look({"a": 0, "b": 1, "c": 7}, 121) == {"b"}
    assert silence.look({"a": 0, "b": 2, "c": 7}, 130) == set()
    assert silence.look({"a": 0, "b": 3, "c": 7}, 139) == {"c"}


def test_who_was_away_itself_blames_nobody():
    """After a pause of one's own, frozen or without the database, everybody gets the whole time again."""
    silence = Silence(20)
    silence.look({"a": 1}, 100)
    assert silence.look({"a": 1}, 150) == set()
    assert silence.look({"a": 1}, 160) == set()
    assert silence.look({"a": 1}, 170) == {"a"}


def test_heartbeats_count_and_are_forgotten_only_as_they_were_seen(tmp_path):
    """Two workers have two counts; a row that has moved on since it was looked at stays."""
    first, second = (Heartbeats(f"sqlite:///{tmp_path / 'jobs.sqlite'}") for _ in range(2))
    for _ in range(3):
        first.beat("one")
    second.beat("two")
    assert second.counts() == {"one": 2, "two": 0}
    second.forget("one", 1)
    assert "one" in first.counts()
    second.forget("one", 2)
    first.forget("two")
    assert first.counts() == {}
    first.close()
    second.close()


class Queue:
    """Jobs by their holders, in memory."""

    def __init__(self, **held: list[str]) -> None:
        self.held = held
        self.looks = 0

    def holders(self) -> list[str]:
        return [name for name, jobs in self.held.items() if jobs]

    def take_from(self, name: str) -> list[str]:
        return self.held.pop(name, [])

    def drop_lost(self) -> None:
        self.looks += 1

    def give_back_idle(self) -> None:
        pass


def test_a_watchdog_takes_from_the_silent_and_from_nobody_else(tmp_path):
    """A worker that never counted and one that stopped lose their jobs; one that counts and the watchdog's do not."""
    beats = Heartbeats(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    queue = Queue(me=["1"], never=["2"], stopped=["3"], alive=["4"])
    watchdog = Watchdog(beats, queue, "me", silent_s=20)
    beats.beat("stopped")
    beats.beat("idle")
    for at in range(100, 124, 2):
        beats.beat("alive")
        watchdog.look(at)
    assert queue.held == {"me": ["1"], "alive": ["4"]}
    assert queue.looks == 12
    assert set(beats.counts()) == {"me", "alive", "stopped", "idle"}
    watchdog.start()
    watchdog.stop()


def test_an_idle_worker_is_forgotten_much_later_than_a_dead_one(tmp_path):
    """It counts seldom; its row goes when it has missed three counts."""
    beats = Heartbeats(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    watchdog = Watchdog(beats, Queue(), "me", silent_s=20)
    beats.beat("idle")
    for at in range(100, 370, 2):
        watchdog.look(at)
    assert set(beats.counts()) == {"me", "idle"}
    watchdog.look(370)
    assert set(beats.counts()) == {"me"}


def test_a_worker_that_has_just_taken_its_first_job_is_not_taken_for_dead(tmp_path):
    """It counts before it takes a job, so whoever sees it hold one sees a new count too."""
    beats = Heartbeats(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    queue = Queue()
    watchdog = Watchdog(beats, queue, "me", silent_s=20)
    beats.beat("idle")
    for at in range(100, 130, 2):
        watchdog.look(at)
    read = queue.holders

    def holders() -> list[str]:
        found = read()
        beats.beat("idle")  # between two readings of the one who looks
        queue.held["idle"] = ["1"]
        return found

    queue.holders = holders
    watchdog.look(130)
    queue.holders = read
    watchdog.look(132)
    assert queue.held == {"idle": ["1"]}


# ---------------------------------------------------------------------- whose folder


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a folder's lock; a child of another machine, whose command line is not seen here."""
    started = []

    def hold(folder, *arguments: str, lock=LOCK_FILE):
        code = (
            "import fcntl, sys, time; lock = open(sys.argv[1], 'a'); fcntl.flock(lock, fcntl.LOCK_EX); "
            "print(1, flush=True); time.sleep(60)"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder / lock), *arguments],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline()
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_that_nobody_holds_is_used_again(tmp_path):
    """The usual case: one folder for all attempts."""
    work = tmp_path / "job"
    assert ready_folder(work) == work
    assert ready_folder(work) == work


def test_a_folder_held_elsewhere_is_copied_and_left_alone(tmp_path, holder):
    """The next attempt goes on from the checkpoint in a folder of its own, what was being written is not taken over."""
    work = tmp_path / "job"
    work.mkdir()
    (work / "checkpoint").write_text("epoch 3")
    (work / "checkpoint.tmp").write_text("half")
    holder(work)
    second = ready_folder(work, wait_s=0.1)
    assert second != work
    assert sorted(path.name for path in second.iterdir()) == ["checkpoint", LOCK_FILE]
    (second / "checkpoint").write_text("epoch 4")
    assert (work / "checkpoint").read_text() == "epoch 3"
    assert ready_folder(work, wait_s=0.1) == second
    holder(second)
    third = ready_folder(work, wait_s=0.1)
    assert (third / "checkpoint").read_text() == "epoch 4"


def test_what_is_left_of_another_worker_on_this_machine_is_ended(tmp_path, holder):
    """Its child dies, even frozen, and the folder is free at once; a process of another job is not touched."""
    work, other = tmp_path / "job", tmp_path / "job-2"
    work.mkdir()
    other.mkdir()
    stray, neighbour = holder(work, "--work", str(work)), holder(other, "--work", str(other))
    stray.send_signal(signal.SIGSTOP)
    assert ready_folder(work) == work
    assert stray.wait(5) == -signal.SIGKILL
    assert neighbour.poll() is None


class Memory:
    """A ledger of one execution: nothing is replayed. It notices when something is tried again."""

    def __init__(self) -> None:
        self.again = asyncio.Event()

    async def step(self, name, work, *, preemptible=True):
        return await work()

    async def tell(self, event):
        if "trying again" in getattr(event, "message", ""):
            self.again.set()

    async def save(self, snapshot):
        pass

    async def count_try(self):
        return 1

    async def count_progress(self):
        pass


def test_a_model_that_a_frozen_process_holds_is_waited_for(tmp_path, holder, monkeypatch):
    """The job says what it waits for, and publishes when the holder is gone; it does not fail."""
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.1)
    locks = tmp_path / "models" / store.LOCKS
    locks.mkdir(parents=True)
    frozen = holder(locks, lock="digit-mlp")
    ledger = Memory()
    settings = JobSettings(tmp_path, tmp_path / "models", fit=(sys.executable, str(CHILD)))
    run = JobRun("1-2-3-4-5", SPEC.model_copy(update={"epochs": 1}), settings, ledger)

    async def held_and_released():
        job = asyncio.create_task(run.run())
        await ledger.again.wait()
        frozen.kill()
        return await job

    end = asyncio.run(asyncio.wait_for(held_and_released(), 60))
    assert end.status == "succeeded", end.error
    assert Store(tmp_path / "models").live("digit-mlp") == 1


class Elsewhere(Memory):
    """The ledger of a job whose worker died, with its disk, after the candidate was recorded."""

    async def step(self, name, work, *, preemptible=True):
        value = await work()
        if name == "candidate":
            await self.run.close()
            shutil.rmtree(self.run.work)
        return value


def test_a_candidate_on_the_disk_of_a_dead_machine_is_made_again(tmp_path):
    """Where the state folder is not shared the job is trained again and published, not failed."""
    ledger = Elsewhere()
    settings = JobSettings(tmp_path, tmp_path / "models", fit=(sys.executable, str(CHILD)))
    ledger.run = JobRun("1-2-3-4-5", SPEC.model_copy(update={"epochs": 1}), settings, ledger)
    end = asyncio.run(asyncio.wait_for(ledger.run.run(), 60))
    assert end.status == "succeeded", end.error
    assert Store(tmp_path / "models").live("digit-mlp") == 1


# ---------------------------------------------------------------------- real workers


class Crew:
    """Workers by name on one database and one state folder, and the desk."""

    def __init__(self, state: Path, url: str | None) -> None:
        self.state, self.url = state, url
        self.workers: dict[str, WorkerProcess] = {}

    def start(self, *names: str, silent_s: float = 2.0, concurrency: int = 1) -> Desk:
        """Start workers at the same time and wait until they take jobs."""
        options = ("--silent-s", str(silent_s), "--concurrency", str(concurrency))
        for name in names:
            self.workers[name] = WorkerProcess(self.state, "--executor-id", name, *options, url=self.url)
        for name in names:
            self.workers[name].ready()
        self.desk = Desk(self.state, self.url)
        return self.desk

    def holder(self, job_id: str) -> WorkerProcess:
        """The worker that has the job now."""
        return self.workers[self.desk.row(job_id).executor_id]

    def freeze(self, worker: WorkerProcess) -> None:
        """Freeze it, but not in the middle of a write to a SQLite file, which would hold up everybody."""
        while True:
            worker.freeze()
            if self.url is not None:
                return
            with contextlib.closing(sqlite3.connect(self.state / "jobs.sqlite", timeout=0.5)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    worker.thaw()
                    time.sleep(0.05)
                else:
                    connection.rollback()
                    return

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.desk.close)
            for process in self.workers.values():
                stack.callback(process.stop)


@pytest.fixture(params=["sqlite", "postgresql"])
def crew(request, tmp_path):
    """A crew on each of the databases."""
    crew = Crew(tmp_path, None if request.param == "sqlite" else request.getfixturevalue("postgres").url())
    yield crew
    crew.stop()


def diary(state):
    """(time, job, process, what…) of all children so far, in order."""
    path = state / "diary"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(at), *rest) for at, *rest in map(str.split, lines)]


def versions(state):
    """The job of each version in the store, after the store was verified."""
    there = Store(state / "models")
    return [there.verify("digit-mlp", number).provenance.job_id for number in there.versions("digit-mlp")]


@pytest.mark.slow
def test_two_workers_share_a_queue_and_no_job_runs_twice(crew, tmp_path):
    """Eight short jobs: each is trained once and published once, and both workers have done some."""
    plan(tmp_path, epoch_s=0.05, diary=str(tmp_path / "diary"))
    desk = crew.start("one", "two", silent_s=20)
    jobs = [desk.put(epochs=1) for _ in range(8)]
    for job_id in jobs:
        assert desk.end(job_id, 60)["status"] == "succeeded"
    assert Counter(job for _, job, _, what, *_ in diary(tmp_path) if what == "epoch") == Counter(jobs)
    assert Counter(versions(tmp_path)) == Counter(jobs)
    assert {desk.row(job_id).executor_id for job_id in jobs} == {"one", "two"}


@pytest.mark.slow
@pytest.mark.parametrize("crew", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("concurrency", "together"), [(1, False), (2, True)])
def test_the_number_of_jobs_at_a_time_is_a_setting(crew, tmp_path, concurrency, together):
    """Two jobs overlap with `--concurrency 2` and do not with 1."""
    plan(tmp_path, epoch_s=1.0, diary=str(tmp_path / "diary"))
    desk = crew.start("one", concurrency=concurrency)
    for job_id in [desk.put(epochs=1), desk.put(epochs=1)]:
        assert desk.end(job_id, 60)["status"] == "succeeded"
    begun = [at for at, _, _, what, *_ in diary(tmp_path) if what == "epoch"]
    ended = [at for at, _, _, what, *_ in diary(tmp_path) if what == "done"]
    assert len(begun) == len(ended) == 2
    assert (max(begun) < min(ended)) is together


def test_children_that_run_together_share_the_cpus(monkeypatch):
    """Threads are divided by the number of jobs, at least one each; what somebody has set stays."""
    monkeypatch.setattr(worker, "train_threads", lambda: 7)
    for concurrency, each in ((1, "7"), (3, "2"), (16, "1")):
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setenv("MKL_NUM_THREADS", "4")
        worker._share_threads(concurrency)
        assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == (each, "4")


@pytest.mark.slow
@pytest.mark.parametrize(("crew", "silent_s"), [("sqlite", 2.0), ("postgresql", SILENT_S)], indirect=["crew"])
def test_a_worker_that_dies_for_good_loses_its_job_to_another(crew, tmp_path, silent_s):
    """kill -9 without a restart: within 30 s one survivor goes on from the last finished epoch and tells none twice."""
    plan(tmp_path, epoch_s=0.4, diary=str(tmp_path / "diary"))
    desk = crew.start("one", "two", "three", silent_s=silent_s)
    job_id = desk.put(epochs=5)
    desk.wait_epoch(job_id, 2)
    (old,) = children(job_id)
    crew.holder(job_id).kill()
    died = time.monotonic()
    wait_until(lambda: [pid for pid in children(job_id) if pid != old], 30)
    took_s = time.monotonic() - died
    print(f"taken over after {took_s:.1f} s")
    assert took_s > silent_s - 2 * LONGEST_BEAT_S, "a worker that was only late would lose its job"
    assert desk.end(job_id, 60)["status"] == "succeeded"
    assert desk.epochs(job_id) == [1, 2, 3, 4, 5]
    trained = Counter(epoch for _, _, _, what, *rest in diary(tmp_path) if what == "epoch" for epoch in rest)
    assert sorted(trained) == ["1", "2", "3", "4", "5"]
    assert sum(trained.values()) <= 6, "more than one epoch was trained again"
    assert len({process for _, _, process, *_ in diary(tmp_path)}) == 2
    assert versions(tmp_path) == [job_id]


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_up_has_lost_its_job(crew, tmp_path):
    """SIGSTOP, resumed elsewhere, SIGCONT: one child at a time, one version, and it takes new jobs."""
    plan(tmp_path, epoch_s=0.5)
    desk = crew.start("one", "two")
    job_id = desk.put(epochs=8)
    desk.wait_epoch(job_id, 1)
    (old,) = children(job_id)
    frozen = crew.holder(job_id)
    crew.freeze(frozen)
    wait_until(lambda: (now := children(job_id)) and old not in now, 30)
    assert crew.holder(job_id) is not frozen
    frozen.thaw()
    wait_until(lambda: f"job {job_id} is another worker's now" in frozen.said, 30)
    assert desk.end(job_id, 60)["status"] == "succeeded"
    assert desk.epochs(job_id) == list(range(1, 9))
    assert versions(tmp_path) == [job_id]
    crew.holder(job_id).stop()
    plan(tmp_path)
    assert desk.end(desk.put(epochs=1), 60)["status"] == "succeeded"


@pytest.mark.slow
@pytest.mark.parametrize("crew", ["postgresql"], indirect=True)
def test_a_worker_frozen_while_it_publishes_publishes_no_second_version(crew, tmp_path):
    """It stops in the middle of the copy to the store; the other publishes; awake again it adds nothing."""
    plan(tmp_path, bytes=200 * 2**20)
    desk = crew.start("one", "two")
    staging = tmp_path / "models" / ".staging"
    job_id = desk.put(epochs=1)
    wait_until(lambda: staging.is_dir() and any(path.is_dir() for path in staging.iterdir()), 20, 0.002)
    frozen = crew.holder(job_id)
    crew.freeze(frozen)
    assert not Store(tmp_path / "models").versions("digit-mlp"), "it was too fast to be frozen in time"
    assert desk.end(job_id, 60)["status"] == "succeeded"
    frozen.thaw()
    wait_until(lambda: f"job {job_id} is another worker's now" in frozen.said, 30)
    assert versions(tmp_path) == [job_id]
    wait_until(lambda: not [path for path in staging.iterdir() if path.is_dir()], 30)
