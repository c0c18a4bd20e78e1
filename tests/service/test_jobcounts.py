"""The counts of training jobs: every job once in the state it is in, those that have ended read once only."""

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

from models.database import has_rows, prepare_file
from models.jobs import Job, JobGate, JobResult, JobSpec, JobStatus
from service.jobcounts import JobCounts, families
from service.jobdb import JobDatabase

START = datetime(2026, 1, 1, tzinfo=UTC)


def job(number, status, *, task="digit", passed=None):
    spec = JobSpec(task=task, network="cnn", epochs=1, batch_size=8, learning_rate=0.1)
    result = None if passed is None else JobResult(model=None, metrics={}, gate=JobGate(passed=passed, reasons=[]))
    return Job(id=str(number), status=status, spec=spec, created_at=START + timedelta(hours=number), result=result)


class Jobs:
    """A database of jobs in memory that notes which of them are read."""

    def __init__(self, *found):
        self.all = {each.id: each for each in found}
        self.read = []

    def jobs(self, since, ids):
        found = [each for each in self.all.values() if since is None or each.created_at >= since or each.id in ids]
        self.read = [each.id for each in found]
        return found


def told(counts):
    return {
        (family.name, *sample.labels.values()): sample.value
        for family in families(counts)
        for sample in family.samples
        if sample.value
    }


def test_each_job_counts_in_its_state_and_each_verdict_once():
    """By task; a job that failed before the gate has no verdict."""
    database = Jobs(
        job(1, JobStatus.SUCCEEDED, passed=True),
        job(2, JobStatus.REJECTED, passed=False),
        job(3, JobStatus.FAILED),
        job(4, JobStatus.QUEUED, task="topic"),
    )
    assert told(JobCounts().read(database)) == {
        ("neuroserve_jobs", "digit", "succeeded"): 1,
        ("neuroserve_jobs", "digit", "rejected"): 1,
        ("neuroserve_jobs", "digit", "failed"): 1,
        ("neuroserve_jobs", "topic", "queued"): 1,
        ("neuroserve_gate_verdicts", "digit", "passed"): 1,
        ("neuroserve_gate_verdicts", "digit", "refused"): 1,
    }


def test_a_job_is_followed_to_its_end_however_many_come_after_it():
    """What has ended long ago is not read again, an old one that still runs is."""
    database, counts = Jobs(job(1, JobStatus.RUNNING), job(2, JobStatus.SUCCEEDED, passed=True)), JobCounts()
    counts.read(database)
    for number in range(3, 6):
        database.all[str(number)] = job(number, JobStatus.FAILED)
    counts.read(database)
    database.all["1"] = job(1, JobStatus.REJECTED, passed=False)
    found = counts.read(database)
    assert database.read == ["1", "5"]
    assert told(found) == {
        ("neuroserve_jobs", "digit", "succeeded"): 1,
        ("neuroserve_jobs", "digit", "rejected"): 1,
        ("neuroserve_jobs", "digit", "failed"): 3,
        ("neuroserve_gate_verdicts", "digit", "passed"): 1,
        ("neuroserve_gate_verdicts", "digit", "refused"): 1,
    }


def test_the_real_database_tells_the_same_at_every_look(tmp_path):
    """Queued jobs stay counted, new ones come in, a cancelled one changes its state."""
    database, counts = JobDatabase(f"sqlite:///{tmp_path / 'jobs.sqlite'}", 10), JobCounts()
    spec = job(0, JobStatus.QUEUED).spec
    first = database.submit(spec, None)
    assert told(counts.read(database)) == {("neuroserve_jobs", "digit", "queued"): 1}
    database.submit(spec.model_copy(update={"task": "topic"}), None)
    both = {("neuroserve_jobs", "digit", "queued"): 1, ("neuroserve_jobs", "topic", "queued"): 1}
    assert [told(counts.read(database)) for _ in range(2)] == [both] * 2
    database.cancel(first.id)
    now = {("neuroserve_jobs", "digit", "cancelled"): 1, ("neuroserve_jobs", "topic", "queued"): 1}
    assert [told(counts.read(database)) for _ in range(2)] == [now] * 2
    database.close()


def test_a_service_that_never_trained_tells_nothing():
    """Neither zeros nor names."""
    assert families(None) == []


def test_looking_whether_anything_was_trained_makes_nothing(tmp_path):
    """No file, no table, an empty table, and a table that another process has filled and left."""
    path = tmp_path / "jobs.sqlite"
    url = f"sqlite:///{path}"
    assert not has_rows(url, "jobs")
    assert not path.exists()
    prepare_file(url)
    assert not has_rows(url, "jobs")
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    subprocess.run([sys.executable, "-c", code, path, "CREATE TABLE jobs (id)"], check=True)
    assert not has_rows(url, "jobs")
    subprocess.run([sys.executable, "-c", code, path, "INSERT INTO jobs VALUES (1)"], check=True)
    assert has_rows(url, "jobs")
    with sqlite3.connect(path) as held:
        held.execute("BEGIN IMMEDIATE")
        assert has_rows(url, "jobs")
    held.close()
