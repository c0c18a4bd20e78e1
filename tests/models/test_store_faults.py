"""The store on a disk that dies, forgets, fills up or fails at any single step of any change."""

import functools
import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from models.disk import reason
from models.store import Store, StoreError, VersionGoneError
from tests.artifacts import draft
from tests.models import faults

NAME = "digit-cnn"
JOB = "job-7"


def put(store: Store, once: str | None = None) -> int:
    """Publish a version of two files, one in a folder."""
    staged = store.stage()
    try:
        fill(staged)
        return store.publish(staged, draft(NAME), once=once).version
    finally:
        store.discard(staged)


def fill(staged: Path) -> None:
    try:
        (staged / "model.onnx").write_bytes(b"graph " * 20)
        (staged / "report").mkdir()
        (staged / "report" / "index.html").write_text("<p>report</p>")
    except OSError as exc:  # not the store's own writing; a publisher's
        raise StoreError(reason(exc)) from exc


def put_job(store: Store) -> int:
    return put(store, JOB)


def source_of(store: Store) -> Store:
    """The store that is copied from, beside the one that is hurt."""
    return Store(store.root.parent / "shipped")


# What is done to which store: the changes before it, and the change itself.
BEFORE = {
    "first publish": lambda store: None,
    "publish": lambda store: [store.promote(NAME, put(store)) for _ in range(2)],
    "publish of a job": lambda store: store.promote(NAME, put(store)),
    "promote": lambda store: [store.promote(NAME, put(store)), put(store)],
    "promote anew": lambda store: [put(store), (store.root / NAME / "live").write_text("?")],
    "rollback": lambda store: [store.promote(NAME, put(store)) for _ in range(3)],
    "delete": lambda store: [store.promote(NAME, put(store)), put_job(store)],
    "prune": lambda store: [store.promote(NAME, put(store)), *[put(store, f"job-{n}") for n in range(4)]],
    "seed": lambda store: store.root.mkdir(),
    "seed what was begun": lambda store: [put(store), store.delete(NAME, 1)],
}
ACTS = {
    "first publish": put,
    "publish": put,
    "publish of a job": put_job,
    "promote": lambda store: store.promote(NAME, 2),
    "promote anew": lambda store: store.promote(NAME, 1),
    "rollback": lambda store: store.rollback(NAME),
    "delete": lambda store: store.delete(NAME, 2),
    "prune": lambda store: store.prune(NAME, keep=1),
    "seed": lambda store: store.seed(source_of(store)),
    "seed what was begun": lambda store: store.seed(source_of(store)),
}
# Versions and the live one before and after.
STATES = {
    "first publish": (([], None), ([1], None)),
    "publish": (([1, 2], 2), ([1, 2, 3], 2)),
    "publish of a job": (([1], 1), ([1, 2], 1)),
    "promote": (([1, 2], 1), ([1, 2], 2)),
    "promote anew": (([1], None), ([1], 1)),
    "rollback": (([1, 2, 3], 3), ([1, 2, 3], 2)),
    "delete": (([1, 2], 1), ([1], 1)),
    "prune": (([1, 2, 3, 4, 5], 1), ([1, 5], 1)),
    "seed": (([], None), ([1, 2], 2)),
    "seed what was begun": (([], None), ([2], 2)),
}
_between = {"prune": [[1, 2, 3, 4, 5], [1, 3, 4, 5], [1, 4, 5], [1, 5]], "seed what was begun": [[], [2]]}


def act(what: str, root: Path) -> None:
    ACTS[what](Store(root))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """The disk here is a simulated one: what was synced is known without waiting for it."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module", name="bench")
def _bench(tmp_path_factory):
    """Makes a store as it is before a change, and does the change in a process of its own on a bad disk."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.models.test_store_together"])
    base = tmp_path_factory.mktemp("faults")
    shipped = Store(base / "shipped")
    for _ in range(2):
        shipped.promote(NAME, put(shipped))
    for what, prepare in BEFORE.items():
        (base / what).mkdir()
        prepare(Store(base / what / "models"))
        (base / what / "models").mkdir(exist_ok=True)
    runs = iter(range(10**6))

    def hurt(what: str, mode: str, at: int):
        folder = base / f"run-{next(runs)}"
        folder.mkdir()
        (folder / "shipped").symlink_to(base / "shipped")
        root = faults.fresh(base / what / "models", folder / "models")
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=faults.run, args=(functools.partial(act, what), root, mode, at, theirs))
        child.start()
        theirs.close()
        try:
            kinds, refused = ours.recv()
        except EOFError:
            kinds, refused = None, None
        child.join(30)
        ours.close()
        assert child.exitcode in ({0} if mode in faults.ERRORS or not at else {0, faults.DEAD}), child.exitcode
        return Store(root), kinds, refused, child.exitcode

    return hurt


def state(store: Store):
    return store.versions(NAME), (store.live_history_or_empty(NAME) or [None])[0]


def check(what: str, store: Store) -> None:
    """Whole, old or new, nothing half; and from here on everything works, with a number nobody had before."""
    for name in store.names():
        for version in store.versions(name):
            assert store.verify(name, version).version == version
    (old, old_live), (new, new_live) = STATES[what]
    versions, live = state(store)
    assert versions in _between.get(what, [old, new])
    assert live in {old_live, new_live}
    assert live is None or live in versions
    store.sweep()
    assert not list((store.root / ".staging").glob("*"))
    assert not list((store.root / NAME).glob(".*"))
    if what == "publish of a job":
        assert put_job(store) == put_job(store)
        of_job = [each for each in store.versions(NAME) if store.manifest(NAME, each).provenance.job_id == JOB]
        assert len(of_job) == 1
    if what == "delete" and versions == new:
        with pytest.raises(VersionGoneError, match="job-7 published was deleted since"):
            put_job(store)
    number = put(store)
    assert number > max([0, *old, *(new if versions == new else [])])
    assert number not in versions
    store.promote(NAME, number)
    assert store.live(NAME) == number
    if live is not None:
        assert store.rollback(NAME) == live
    for version in store.versions(NAME):
        store.verify(NAME, version)


MODES = [mode if mode == "power" else pytest.param(mode, marks=pytest.mark.slow) for mode in faults.MODES]


@pytest.mark.parametrize("what", STATES)
@pytest.mark.parametrize("mode", MODES)
def test_whatever_happens_at_whatever_step_the_store_is_whole(bench, what, mode):
    """Death, a torn write, loss of power, a full, broken or read-only disk: at each step of each change."""
    _, kinds, refused, _ = bench(what, "kill", 0)
    assert refused is None
    met = Counter(kinds)
    assert met["fsync"] >= 2
    assert met["rename"] + met["replace"] >= 1
    places = [at for at in range(1, len(kinds) + 2) if mode != "torn" or kinds[at - 1 : at] in (["write"], ["copy"])]
    for at in places:
        store, taken, refused, code = bench(what, mode, at)
        try:
            if mode in faults.ERRORS:
                told(refused, taken, kinds, at)
            else:
                assert code == (faults.DEAD if at <= len(kinds) or mode.startswith("power") else 0)
            if (refused is None and taken is not None) or at > len(kinds):
                assert state(store) == STATES[what][1], "what was acknowledged is there"
            check(what, store)
        except Exception as exc:
            step = kinds[at - 1] if at <= len(kinds) else "the end"
            raise AssertionError(f"{what}: {mode} at step {at} of {len(kinds)}, {step}") from exc
    print(f"{what}: {len(places)} times {mode} at {len(kinds)} steps")


def told(refused: str | None, taken: list[str], kinds: list[str], at: int) -> None:
    """The sentence names what was not done and why; let pass are clearing away, making again, and a copy done anew."""
    if refused is None:
        assert at > len(kinds) or taken[at - 1] in {"unlink", "rmdir", "mkdir", "copy"}
    else:
        said = ("No space left on device; make room", "Input/output error", "Read-only file system; the service")
        assert any(word in refused for word in said), refused
