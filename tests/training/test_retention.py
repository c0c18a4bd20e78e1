"""What is removed in the long run, and what never is."""

import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from models.canary import CanaryBoard
from models.store import Store
from tests.artifacts import draft, publish
from tests.models.faults import DEAD
from tests.server import ROOT
from tests.workers import Desk, WorkerProcess, plan
from training.retention import Housekeeper, Retention, prune_versions, remove_jobs, shipped


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models")


def filled(store, versions, *live):
    for favourite in range(versions):
        publish(store, favourite=favourite % 10)
    for version in live:
        store.promote("digit-cnn", version)


def test_the_newest_stay_and_what_is_in_use(store):
    """The live version, the one before it and a canary's outlive newer ones."""
    filled(store, 12, 2, 4)
    CanaryBoard(store.root).start(
        "digit-cnn", check=lambda: None, version=6, against=4, percent=10, mode="split", kind="image"
    )
    assert prune_versions(store, "digit-cnn", 3) == [1, 3, 5, 7, 8, 9]
    assert store.versions("digit-cnn") == [2, 4, 6, 10, 11, 12]
    assert prune_versions(store, "digit-cnn", 3) == []


def test_zero_keeps_all(store):
    """As the setting says."""
    filled(store, 4, 1)
    assert prune_versions(store, "digit-cnn", 0) == []
    assert store.versions("digit-cnn") == [1, 2, 3, 4]


def test_what_came_with_the_product_stays_under_any_number(store, tmp_path):
    """A shipped version is known by its files, and is never removed."""
    filled(store, 5, 5)
    zoo = Store(tmp_path / "zoo")
    publish(zoo, favourite=2)
    ours = store.manifest("digit-cnn", 3)
    staged = zoo.stage()
    for name in ours.files:
        (staged / name).write_bytes((store.folder("digit-cnn", 3) / name).read_bytes())
    zoo.publish(staged, draft(favourite=2))
    assert shipped(store, "digit-cnn", zoo) >= {3}
    prune_versions(store, "digit-cnn", 1, tmp_path / "zoo")
    assert set(store.versions("digit-cnn")) >= {3, 5}
    assert 1 not in store.versions("digit-cnn")


KILLED = """
import shutil, sys
from pathlib import Path
from models.store import Store
from tests.models.faults import Disk
from training.retention import prune_versions
root, at = Path(sys.argv[1]), int(sys.argv[2])
shutil.rmtree(root.with_name("models.attic"), ignore_errors=True)
disk = Disk(root, "kill", at)
disk.install()
prune_versions(Store(root), "digit-cnn", 2)
sys.exit(0)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_half(store):
    """Killed at every fourth step: all that is visible is whole, and the next tidying finishes the work."""
    filled(store, 8, 1, 8)
    for at in count(1, 4):
        done = subprocess.run([sys.executable, "-c", KILLED, str(store.root), str(at)], cwd=ROOT, check=False)
        for version in store.versions("digit-cnn"):
            store.verify("digit-cnn", version)
        assert store.live_history("digit-cnn") == [8, 1]
        if done.returncode == 0:
            break
        assert done.returncode == DEAD
    Housekeeper(store.root.parent, store, "sqlite:///nowhere", Retention(2))._leftovers()
    assert store.versions("digit-cnn") == [1, 7, 8]
    assert not list((store.root / ".staging").iterdir())


def rows_of(state, job_id):
    """How many rows of each table of the job database speak of a job."""
    found = {}
    with sqlite3.connect(state / "jobs.sqlite") as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
            if "workflow_uuid" in columns:
                query = f"SELECT count(*) FROM {table} WHERE workflow_uuid = ?"
                if (number := connection.execute(query, (job_id,)).fetchone()[0]) > 0:
                    found[table] = number
    return found


@pytest.mark.slow
def test_old_jobs_leave_no_row_and_open_ones_stay(tmp_path):
    """Rows, steps, events and snapshots of jobs that have ended; what waits or runs is never touched."""
    plan(tmp_path)
    with WorkerProcess(tmp_path, "--keep-versions", "2"):
        desk = Desk(tmp_path)
        jobs = [desk.put() for _ in range(4)]
        assert [desk.end(job, 60)["status"] for job in jobs] == ["succeeded"] * 4
    waiting = desk.put()
    store = Store(tmp_path / "models")
    (model,) = store.names()
    assert len(store.versions(model)) <= 4
    assert store.versions(model)[-1] == 4
    assert len(rows_of(tmp_path, jobs[0])) >= 3
    assert remove_jobs(desk.client, datetime.now(UTC) - timedelta(days=1)) == 0
    assert remove_jobs(desk.client, datetime.now(UTC) + timedelta(minutes=1)) == 4
    assert [rows_of(tmp_path, job) for job in jobs] == [{}] * 4
    assert desk.row(waiting).status == "ENQUEUED"
    desk.close()


@pytest.mark.slow
def test_tidying_removes_old_folders_and_engines_and_only_one_worker_tidies(tmp_path, store):
    """Folders of jobs that have ended and TensorRT's engines of versions that are gone; those in use stay."""
    plan(tmp_path)
    filled(store, 3, 3)
    with WorkerProcess(tmp_path):
        desk = Desk(tmp_path)
        ended = desk.put()
        desk.end(ended, 60)
    waiting = desk.put()
    folders = {name: tmp_path / "jobs" / name for name in (ended, waiting, "of-no-job", "young")}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        if name != "young":
            os.utime(folder, (time.time() - 7200,) * 2)
    engines = {version: tmp_path / "tensorrt" / "digit-cnn" / str(version) for version in (3, 77)}
    for folder in engines.values():
        folder.mkdir(parents=True)
    keeper = Housekeeper(tmp_path, store, f"sqlite:///{tmp_path / 'jobs.sqlite'}", Retention(1, 30))
    from models import disk

    held = disk.take(tmp_path / "retention.lock")
    keeper.tidy()
    assert all(folder.exists() for folder in folders.values())
    os.close(held)
    keeper.tidy()
    assert {name for name, folder in folders.items() if folder.exists()} == {waiting, "young"}
    assert [version for version, folder in engines.items() if folder.exists()] == [3]
    assert store.versions("digit-cnn") == [3]
    assert desk.row(ended).status == "SUCCESS"
    desk.close()
