"""Many processes on one store at once, some of them killed: never a state that `verify` refuses."""

import contextlib
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest

from models import store as store_module
from models.disk import locked
from models.store import Store, StoreError, StoreWriteError, VersionNotFoundError
from tests.artifacts import draft
from tests.models.test_store_faults import NAME, fill, put

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.models.test_store_together"])


def publish_for_ever(root, log, seed):
    """Jobs that other publishers may do as well; what came out is noted."""
    store, rng = Store(root), random.Random(seed)
    while True:
        job = f"job-{rng.randrange(10**6) if rng.random() < 0.7 else rng.randrange(20)}"
        with contextlib.suppress(StoreError):
            version = put(store, job)
            with log.open("a") as stream:
                stream.write(f"{version} {job}\n")


def promote_for_ever(root, log, seed):
    store, rng = Store(root), random.Random(seed)
    while True:
        with contextlib.suppress(StoreError, IndexError):
            store.rollback(NAME) if rng.random() < 0.3 else store.promote(NAME, rng.choice(store.versions(NAME)))


def prune_for_ever(root, log, seed):
    store, rng = Store(root), random.Random(seed)
    while True:
        with contextlib.suppress(StoreError, IndexError):
            if rng.random() < 0.5:
                store.prune(NAME, keep=rng.randrange(3))
            else:
                store.delete(NAME, rng.choice(store.versions(NAME)))
            store.sweep()


def look(store: Store) -> int | None:
    """What any reader may rely on at any moment; the live version."""
    for version in store.versions(NAME):
        with contextlib.suppress(VersionNotFoundError):  # deleted since it was listed
            store.verify(NAME, version)
    live = store.live(NAME)
    if live is not None:
        try:
            store.verify(NAME, live)
        except VersionNotFoundError:
            assert store.live(NAME) != live, f"the live version {live} is gone"
    return live


def test_publishers_promoters_pruners_and_the_killer_leave_a_whole_store(tmp_path):
    """Eight processes change one model, one is killed every 100 ms; readers see only whole versions."""
    root, log = tmp_path / "models", tmp_path / "log"
    log.touch()
    store, rng, lives, looks, kills = Store(root), random.Random(5), set(), 0, 0
    store.promote(NAME, put(store))
    kinds = [publish_for_ever] * 3 + [promote_for_ever] * 2 + [prune_for_ever] * 3

    def start(kind, number):
        process = CONTEXT.Process(target=kind, args=(root, log, number), daemon=True)
        process.start()
        return process

    running = {number: start(kind, number) for number, kind in enumerate(kinds)}
    until, next_kill = time.monotonic() + 4, time.monotonic() + 0.5
    try:
        while time.monotonic() < until:
            lives.add(look(store))
            looks += 1
            if time.monotonic() > next_kill:
                victim = rng.choice(list(running))
                assert running[victim].is_alive(), f"{kinds[victim % 8].__name__} has ended"
                running.pop(victim).kill()
                running[victim + 8] = start(kinds[victim % 8], victim + 8)
                kills, next_kill = kills + 1, time.monotonic() + 0.1
    finally:
        for process in running.values():
            process.kill()
            process.join()
    look(store)
    store.sweep()
    assert not list((root / ".staging").iterdir())
    assert not list((root / NAME).glob(".*"))
    jobs_of, numbers_of = defaultdict(set), defaultdict(set)
    for number, job in (line.split() for line in log.read_text().splitlines()):
        jobs_of[number].add(job)
        numbers_of[job].add(number)
    assert all(len(jobs) == 1 for jobs in jobs_of.values()), "a number was used twice"
    assert all(len(numbers) == 1 for numbers in numbers_of.values()), "a job was published twice"
    assert max(map(int, jobs_of)) < put(store)
    assert looks > 20
    assert kills > 10
    assert len(lives) > 2
    print(f"{len(jobs_of)} versions, {len(lives)} of them seen live, {kills} processes killed, {looks} looks")


def hold(path, said):
    with locked(path, 0):
        said.send("held")
        time.sleep(60)


def test_a_stopped_process_that_holds_a_model_is_told_of_and_a_dead_one_is_no_hindrance(tmp_path, monkeypatch):
    """While the lock's owner is frozen changes are refused with a sentence; readers go on; its death frees all."""
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.1)
    store = Store(tmp_path / "models")
    store.promote(NAME, put(store))
    ours, theirs = CONTEXT.Pipe()
    holder = CONTEXT.Process(target=hold, args=(store.root / ".locks" / NAME, theirs), daemon=True)
    holder.start()
    try:
        assert ours.recv() == "held"
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(StoreWriteError, match=r"held by another process for 0\.1 seconds"):
            store.promote(NAME, 1)
        assert store.verify(NAME, 1).version == store.live(NAME)
    finally:
        holder.kill()
        holder.join()
    store.promote(NAME, 1)


def write_and_wait(root, said):
    staged = Store(root).stage()
    fill(staged)
    said.send(staged)
    time.sleep(60)


def test_what_a_living_process_writes_stays_and_what_a_dead_one_wrote_goes(tmp_path):
    """Sweeping asks the kernel whether the writer lives, frozen or not; no clock and no process number counts."""
    root = tmp_path / "models"
    store = Store(root)
    ours, theirs = CONTEXT.Pipe()
    writer = CONTEXT.Process(target=write_and_wait, args=(root, theirs), daemon=True)
    writer.start()
    try:
        staged = ours.recv()
        os.utime(staged, (0, 0))
        os.kill(writer.pid, signal.SIGSTOP)
        mine = store.stage()
        assert store.sweep() == []
        assert (staged / "model.onnx").exists()
    finally:
        writer.kill()
        writer.join()
    assert store.sweep() == [staged.name]
    assert not staged.exists()
    assert mine.exists()
    store.discard(mine)
    assert not list((root / ".staging").iterdir())


def publish_late(root, said):
    """Stages, stops itself, and publishes when it is woken."""
    store = Store(root)
    staged = store.stage()
    fill(staged)
    said.send("staged")
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        said.send(store.publish(staged, draft(NAME), once="job-1").version)
    except StoreError as exc:
        said.send(str(exc))


@pytest.mark.parametrize(
    ("since", "says"),
    [(lambda store: None, 1), (lambda store: store.delete(NAME, 1), "was deleted since; a job publishes only once")],
    ids=["published by another", "published and deleted"],
)
def test_a_frozen_publisher_that_wakes_finds_its_job_published(tmp_path, since, says):
    """The job was taken over and published meanwhile: the late one makes no second version."""
    root = tmp_path / "models"
    ours, theirs = CONTEXT.Pipe()
    late = CONTEXT.Process(target=publish_late, args=(root, theirs), daemon=True)
    late.start()
    assert ours.recv() == "staged"
    while Path(f"/proc/{late.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    store = Store(root)
    assert put(store, "job-1") == 1
    since(store)
    there = store.versions(NAME)
    os.kill(late.pid, signal.SIGCONT)
    told = ours.recv()
    late.join(10)
    assert told == says or says in str(told)
    assert store.versions(NAME) == there
    store.sweep()
    assert not list((root / ".staging").iterdir())
