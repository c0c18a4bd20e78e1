"""What a job can die of: each time it fails with a sentence, nothing is half-written, and the next job runs.

The worker, its database and its processes are real; the training is the real one on few images where it matters.
"""

import contextlib
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models.store import Store
from tests.killing import WORKER
from tests.server import ROOT, wait_until
from tests.workers import Desk, WorkerProcess, plan

pytestmark = pytest.mark.slow

CHILDREN = ROOT / "tests" / "training"
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


@contextlib.contextmanager
def working(state: Path, child: str, before: str = ""):
    """A desk whose jobs a worker runs with that child; `before` is code for the worker's beginning."""
    command = (sys.executable, "-c", before + WORKER.format(child=str(CHILDREN / child)))
    with WorkerProcess(state, command=command):
        desk = Desk(state)
        try:
            yield desk
        finally:
            desk.close()


@contextlib.contextmanager
def little_room(folder: Path, size: int):
    """Let the folder hold `size` bytes in all: on a file system of its own where mounting is allowed.

    Gives the code that must otherwise run in the worker: a limit on the size of each file, which fails a write too.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    print(f"room is little by {'a tmpfs' if mounted else 'RLIMIT_FSIZE'}")
    try:
        yield "" if mounted else SMALL_FILES.format(limit=size)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def failed(desk: Desk, job_id: str, seconds: float = 300) -> str:
    """The sentence that the job failed with."""
    end = desk.end(job_id, seconds)
    assert (end["status"], end["result"]) == ("failed", None), end
    return end["error"]


def logs(desk: Desk, job_id: str) -> list[str]:
    return [event["message"] for event in desk.events(job_id, "log")]


def test_a_job_that_kills_its_worker_each_time_is_given_up(tmp_path):
    """Three workers die at the same epoch; the fourth says so, keeps the epoch before it, and runs the next job."""
    plan(tmp_path, kill_worker_at=2, diary=str(tmp_path / "diary"))
    desk, job_id, deaths = None, None, 0
    while deaths < 5:
        with WorkerProcess(tmp_path) as worker:
            if desk is None:
                desk = Desk(tmp_path)
                job_id = desk.put()
            if not dies(worker, desk, job_id):
                break
            deaths += 1
    with WorkerProcess(tmp_path):
        assert deaths == 3
        assert failed(desk, job_id) == "the worker process died 3 times in a row while it ran this job"
        assert desk.epochs(job_id) == [row["epoch"] for row in desk.row(job_id).output["history"]] == [1]
        begun = [line.split()[3:] for line in (tmp_path / "diary").read_text().splitlines()]
        assert (begun.count(["epoch", "1"]), begun.count(["epoch", "2"])) == (1, 3)
        assert not (tmp_path / "jobs" / job_id).exists()
        plan(tmp_path)
        assert desk.end(desk.put(), 60)["status"] == "succeeded"
        desk.close()


def dies(worker: WorkerProcess, desk: Desk, job_id: str) -> bool:
    """Whether the worker dies before the job has ended."""
    wait_until(lambda: worker.process.poll() is not None or desk.row(job_id).status == "SUCCESS", 60)
    return worker.process.poll() is not None


def test_deaths_between_which_a_job_comes_on_are_forgiven(tmp_path):
    """Who kills the worker in four epochs, one after the other, is no job that kills its worker each time."""
    plan(tmp_path, epoch_s=0.4)
    desk = None
    for epoch in range(1, 6):
        with WorkerProcess(tmp_path) as worker:
            if desk is None:
                desk = Desk(tmp_path)
                job_id = desk.put(epochs=5)
            if epoch == 5:
                assert desk.end(job_id)["status"] == "succeeded"
            else:
                desk.wait_epoch(job_id, epoch)
                worker.kill()
    assert desk.epochs(job_id) == [1, 2, 3, 4, 5]
    desk.close()


def test_too_large_a_batch_is_halved_once_and_said_so(tmp_path, data_dir, monkeypatch):
    """The kernel refuses torch the memory for 64 rows: the job goes on with 32, tells it, and the manifest has it."""
    monkeypatch.setenv("DATA_DIR", str(data_dir.resolve()))
    plan(tmp_path, room_rows=48, allocator="torch")
    with working(tmp_path, "hungry.py") as desk:
        job_id = desk.put(epochs=1)
        end = desk.end(job_id, 300)
        assert end["status"] == "succeeded", end
        told = [message for message in logs(desk, job_id) if "out of memory" in message]
        assert len(told) == 1
        assert told[0].startswith("out of memory with batch size 64, tried once more with 32")
        assert desk.epochs(job_id) == [1]
        manifest = Store(tmp_path / "models").manifest("digit-mlp", 1)
        assert manifest.provenance.settings["batch_size"] == 32
        # NumPy's refusal, a MemoryError, and no batch that fits
        plan(tmp_path, room_rows=8, allocator="numpy")
        job_id = desk.put(epochs=1)
        sentence = failed(desk, job_id)
        assert sentence.startswith("out of memory with batch size 64 and with 32: ")
        assert "smaller batch size" in sentence
        assert not (tmp_path / "jobs" / job_id).exists()
        assert Store(tmp_path / "models").versions("digit-mlp") == [1]


def test_a_small_batch_that_is_refused_is_still_want_of_memory(tmp_path):
    """Whatever ends the second try, the sentence says that the first was out of memory."""
    plan(tmp_path, memory_for=32, error_at=2)
    sentence = "the loss is no longer a number (batch size 32; with 64 it ran out of memory)"
    with working(tmp_path, "child.py") as desk:
        assert failed(desk, desk.put()) == sentence
        plan(tmp_path, memory_for=16)
        assert failed(desk, desk.put()).startswith("out of memory with batch size 64 and with 32")
        plan(tmp_path)
        assert desk.end(desk.put(), 60)["status"] == "succeeded"


def test_data_that_is_missing_or_damaged_fails_the_job(tmp_path, data_dir, monkeypatch):
    """The sentence names the file and what to do; when the file is there, the next job runs."""
    data = tmp_path / "data"
    shutil.copytree(data_dir / "mnist", data / "mnist")
    images = data / "mnist" / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    monkeypatch.setenv("DATA_DIR", str(data))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no mirror is reached
    plan(tmp_path)
    with working(tmp_path, "counted.py") as desk:
        images.unlink()
        sentence = failed(desk, desk.put(epochs=1))
        assert f"{images.name} is missing and could not be downloaded" in sentence
        assert f"put the file at {images}" in sentence
        images.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        sentence = failed(desk, desk.put(epochs=1))
        assert f"{images} is damaged or another file: its sha256 is " in sentence
        assert not list((tmp_path / "jobs").iterdir())
        images.write_bytes(whole)
        assert desk.end(desk.put(epochs=1), 300)["status"] == "succeeded"
    assert Store(tmp_path / "models").live_history("digit-mlp") == [1]


def test_a_full_disk_at_the_checkpoint_fails_the_job(tmp_path, data_dir, monkeypatch):
    """The sentence says which file found no room; the folder is emptied, nothing is published, the next job runs."""
    monkeypatch.setenv("DATA_DIR", str(data_dir.resolve()))
    plan(tmp_path)
    with little_room(tmp_path / "jobs", 2**20) as before, working(tmp_path, "counted.py", before) as desk:
        job_id = desk.put(epochs=1)
        sentence = failed(desk, job_id)
        assert sentence.startswith("the checkpoint ")
        assert "could not be written: " in sentence
        assert not list((tmp_path / "jobs").iterdir())
        assert not (tmp_path / "models" / "digit-mlp").exists()
        # the smaller network of the quick child finds room
    plan(tmp_path)
    with working(tmp_path, "child.py") as desk:
        assert desk.end(desk.put(), 60)["status"] == "succeeded"


def test_a_full_disk_at_publication_leaves_the_live_version(tmp_path):
    """Version 1 stays live and whole, nothing of the failed one is seen or left, and a smaller one is published."""
    plan(tmp_path)
    with little_room(tmp_path / "models", 8 * 2**20) as before, working(tmp_path, "child.py", before) as desk:
        assert desk.end(desk.put(), 60)["status"] == "succeeded"
        store = Store(tmp_path / "models")
        plan(tmp_path, bytes=16 * 2**20)
        sentence = failed(desk, desk.put())
        assert sentence.startswith("the version could not be published: ")
        assert (store.versions("digit-mlp"), store.live_history("digit-mlp")) == ([1], [1])
        assert store.verify("digit-mlp", 1).version == 1
        staging = tmp_path / "models" / ".staging"
        assert not staging.exists() or not list(staging.iterdir())
        assert not list((tmp_path / "jobs").iterdir())
        plan(tmp_path, accuracy=0.95)
        assert desk.end(desk.put(), 60)["result"]["model"] == {"name": "digit-mlp", "version": 2, "live": True}


def test_the_limit_of_a_file_stands_in_for_a_full_disk(tmp_path):
    """Where no file system can be mounted, a write beyond RLIMIT_FSIZE is refused in the worker as on a full disk."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    plan(tmp_path, bytes=16 * 2**20)
    with working(tmp_path, "child.py", SMALL_FILES.format(limit=8 * 2**20)) as desk:
        assert failed(desk, desk.put()).startswith("the version could not be published: ")
        plan(tmp_path)
        assert desk.end(desk.put(), 60)["status"] == "succeeded"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == hard


def test_a_database_that_takes_no_writes_for_a_while_ends_no_job(tmp_path):
    """While every write of the worker is refused, as on a full disk, the job waits; then it goes on to its end."""
    plan(tmp_path, epoch_s=1.0)
    with WorkerProcess(tmp_path) as worker:
        desk = Desk(tmp_path)
        job_id = desk.put(epochs=4)
        desk.wait_epoch(job_id, 1)
        limits = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)
        little = worker.log.stat().st_size + 2**14  # for the worker's log, which is a file as well
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (little, limits[1]))
        refused = ("waits for its database", "goes back to the queue when its database takes it")
        wait_until(lambda: any(words in worker.log.read_text() for words in refused), 60)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, limits)
        assert desk.end(job_id, 90)["status"] == "succeeded"
        assert desk.epochs(job_id) == [1, 2, 3, 4]
        assert desk.end(desk.put(), 60)["status"] == "succeeded"
        desk.close()
