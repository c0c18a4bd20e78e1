"""One execution of a job by a record in memory: replay, time limit, pause, and the end of one that kills workers."""

import asyncio
import json
import sys
from datetime import timedelta

import pytest

from models.jobs import JobSpec, JobStatus
from models.manifest import now
from tests.server import ROOT, wait_until
from training.job import TRIES, JobRun, JobSettings

CHILD = ROOT / "tests" / "training" / "child.py"
JOB = "00000000-0000-4000-8000-000000000000"


class Record:
    """A ledger in memory; what it holds is replayed, as by the real one."""

    def __init__(self, steps=(), tries=0):
        self.steps, self.tries = dict(steps), tries
        self.told, self.counted = [], []

    async def step(self, name, work, *, preemptible=True):
        if name not in self.steps:
            self.steps[name] = await work()
        return self.steps[name]

    async def tell(self, event):
        self.told.append(event)

    async def save(self, snapshot):
        self.snapshot = snapshot

    async def count_try(self):
        self.tries += 1
        return self.tries

    async def count_progress(self):
        self.counted.append(len(self.steps))
        self.tries = 1


def epoch(number, seconds):
    row = {"epoch": number, "train_loss": 1.0, "val_loss": 1.0, "val_metric": 0.9, "seconds": seconds}
    return {"value": {"type": "epoch", "at": now().isoformat(), "row": row, "stopped_early": False}}


def begun(hours=1.0):
    """What an execution that began so long ago recorded first."""
    return {"begin": (now() - timedelta(hours=hours)).isoformat(), "data": {"value": None}}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes an execution by a record; its child is the quick one."""
    monkeypatch.setenv("CHILD_PLAN", str(tmp_path / "plan.json"))

    def make(record, epoch_s=0.05, **changes):
        (tmp_path / "plan.json").write_text(json.dumps({"epoch_s": epoch_s}))
        spec = JobSpec(task="digit", network="mlp", epochs=3, batch_size=64, learning_rate=0.01, **changes)
        settings = JobSettings(tmp_path, tmp_path / "models", fit=(sys.executable, str(CHILD)))
        (tmp_path / "jobs" / JOB).mkdir(parents=True, exist_ok=True)
        return JobRun(JOB, spec, settings, record)

    return make


def test_time_in_which_nobody_ran_the_job_does_not_count(job):
    """A job of two epochs' work that lay still for an hour has its limit before it; it goes on and succeeds."""
    record = Record({**begun(), "epoch 1": epoch(1, 2.0)})
    end = asyncio.run(job(record, time_limit_s=60.0).run())
    assert end.status is JobStatus.SUCCEEDED
    assert [row.epoch for row in end.history] == [1, 2, 3]


def test_the_epochs_of_earlier_workers_count(job):
    """What two workers spent is spent: the third has no minute left."""
    record = Record({**begun(), "epoch 1": epoch(1, 40.0), "epoch 2": epoch(2, 40.0)})
    end = asyncio.run(job(record, time_limit_s=60.0).run())
    assert (end.status, end.error) == (JobStatus.FAILED, "the job did not end within its time limit of 60 seconds")
    assert [row.epoch for row in end.history] == [1, 2]


def test_the_last_try_that_finishes_something_is_a_first_one(job):
    """The third worker in a row still runs the job, and what it finishes wipes the count away."""
    record = Record(tries=TRIES - 1)
    assert asyncio.run(job(record).run()).status is JobStatus.SUCCEEDED
    assert len(record.counted) == 1
    assert record.tries == 1


def test_one_try_more_is_a_failure_that_is_recorded(job):
    """Nothing is begun, the history so far is kept, and a replay after another death says the same."""
    record = Record({**begun(), "epoch 1": epoch(1, 2.0)}, tries=TRIES)
    for _ in range(2):
        end = asyncio.run(job(record).run())
        assert end.error == "the worker process died 3 times in a row while it ran this job"
        assert [row.epoch for row in end.history] == [1]
        record.tries = 0
    assert list(record.steps) == ["begin", "data", "epoch 1", "epoch 2"]


def test_a_paused_job_parks_at_the_end_of_its_epoch(job):
    """The epoch that runs is recorded, the child is gone, and a new execution goes on behind it."""
    record = Record()

    async def scenario():
        run = job(record, epoch_s=0.5)
        task = asyncio.create_task(run.run())
        await asyncio.to_thread(wait_until, lambda: "data" in record.steps, 20)
        run.pause()
        await asyncio.to_thread(wait_until, lambda: run.parked, 20)
        assert run._attempt is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert list(record.steps) == ["begin", "data", "epoch 1"]
    end = asyncio.run(job(record).run())
    assert end.status is JobStatus.SUCCEEDED
    assert [row.epoch for row in end.history] == [1, 2, 3]
