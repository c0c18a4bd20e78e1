"""The store: a version is complete or absent, and the live pointer always names one that is whole."""

import json
import multiprocessing
import os
import shutil

import pytest

from models.manifest import MANIFEST_FILE
from models.store import (
    LiveChangedError,
    NothingToRollBackError,
    Store,
    StoreError,
    VersionDamagedError,
    VersionGoneError,
    VersionInUseError,
    VersionNotFoundError,
)
from tests.artifacts import draft, publish


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models")


def test_versions_are_numbered_from_one_and_nothing_is_live_by_itself(store):
    """Publishing makes a version; only promote makes it answer."""
    assert [publish(store), publish(store)] == [1, 2]
    assert store.versions("digit-cnn") == [1, 2]
    assert store.live("digit-cnn") is None
    assert store.names() == ["digit-cnn"]


def test_promote_and_rollback_walk_the_history(store):
    """Rollback goes to what was live before, step by step, and ends with a sentence."""
    for _ in range(3):
        store.promote("digit-cnn", publish(store))
    assert store.live_history("digit-cnn") == [3, 2, 1]
    assert store.rollback("digit-cnn") == 2
    assert store.rollback("digit-cnn") == 1
    with pytest.raises(NothingToRollBackError, match="no earlier live version"):
        store.rollback("digit-cnn")
    assert store.live("digit-cnn") == 1


def test_promoting_an_old_version_again_does_not_double_it_in_the_history(store):
    """A version stands in the history once, at its latest place."""
    for _ in range(2):
        store.promote("digit-cnn", publish(store))
    store.promote("digit-cnn", 1)
    assert store.live_history("digit-cnn") == [1, 2]


def test_rollback_skips_versions_that_are_gone(store):
    """What was deleted cannot be gone back to."""
    for _ in range(3):
        store.promote("digit-cnn", publish(store))
    store.delete("digit-cnn", 2)
    assert store.previous("digit-cnn") == 1
    assert store.rollback("digit-cnn") == 1


def test_a_half_written_version_is_invisible(store):
    """Whatever lies in staging is no version, not even with a manifest."""
    publish(store)
    staged = store.stage()
    (staged / "model.onnx").write_bytes(b"half")
    (staged / MANIFEST_FILE).write_text(draft().to_json())
    assert store.names() == ["digit-cnn"]
    assert store.versions("digit-cnn") == [1]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"other"), "model.onnx was changed"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx: No such file"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("{"), "not a version 1 manifest"),
        (lambda folder: (folder / MANIFEST_FILE).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST_FILE).write_text(draft("digit-mlp").to_json()), "says it is digit-mlp"),
    ],
    ids=["tampered", "file missing", "manifest broken", "manifest missing", "another model's manifest"],
)
def test_a_damaged_version_is_refused_with_the_reason(store, damage, says):
    """Verify and promote name what is wrong, and the live pointer stays."""
    store.promote("digit-cnn", publish(store))
    damage(store.folder("digit-cnn", publish(store)))
    with pytest.raises(VersionDamagedError, match=says):
        store.promote("digit-cnn", 2)
    assert store.live("digit-cnn") == 1


def test_a_manifest_cannot_point_outside_its_folder(store):
    """A path that climbs out is no manifest."""
    folder = store.folder("digit-cnn", publish(store))
    content = json.loads((folder / MANIFEST_FILE).read_text())
    content["files"]["../../live"] = content["files"]["model.onnx"]
    (folder / MANIFEST_FILE).write_text(json.dumps(content))
    with pytest.raises(VersionDamagedError, match="not a path inside"):
        store.verify("digit-cnn", 1)


def test_numbers_are_never_used_again(store):
    """A deleted version's number stays its own."""
    store.promote("digit-cnn", publish(store))
    publish(store)
    store.delete("digit-cnn", 2)
    assert publish(store) == 3


def test_the_live_version_cannot_be_deleted(store):
    """Deleting takes what does not answer, and says so otherwise."""
    store.promote("digit-cnn", publish(store))
    with pytest.raises(VersionInUseError, match="is live"):
        store.delete("digit-cnn", 1)
    with pytest.raises(VersionNotFoundError, match="no version 7; it has 1"):
        store.delete("digit-cnn", 7)


def test_prune_keeps_the_newest_the_live_and_the_way_back(store):
    """Pruning never removes what answers or what rollback needs."""
    for _ in range(2):
        store.promote("digit-cnn", publish(store))
    for _ in range(5):
        publish(store)
    assert store.prune("digit-cnn", keep=2) == [3, 4, 5]
    assert store.versions("digit-cnn") == [1, 2, 6, 7]


def test_an_unreadable_live_pointer_is_told_and_mended_by_promote(store):
    """Garbage in the pointer is an error, not a version, and promote writes it anew."""
    publish(store)
    (store.root / "digit-cnn" / "live").write_text("what?")
    with pytest.raises(StoreError, match="unreadable"):
        store.live("digit-cnn")
    store.promote("digit-cnn", 1)
    assert store.live("digit-cnn") == 1


def test_names_that_are_no_names_are_unknown(store):
    """A name from a URL never becomes a path."""
    for name in ("..", "a/b", "", ".staging", "Digit"):
        with pytest.raises(VersionNotFoundError):
            store.folder(name, 1)


def test_seeding_copies_whole_models_once(store, tmp_path):
    """An empty store takes the shipped models with their live pointers; a filled one keeps its own."""
    shipped = Store(tmp_path / "zoo")
    shipped.promote("digit-cnn", publish(shipped))
    shipped.promote("digit-mlp", publish(shipped, "digit-mlp"))
    assert store.seed(shipped) == ["digit-cnn", "digit-mlp"]
    assert store.live("digit-mlp") == 1
    store.verify("digit-cnn", 1)
    store.promote("digit-cnn", publish(store))
    shutil.rmtree(store.root / "digit-mlp")
    assert store.seed(shipped) == ["digit-mlp"]
    assert store.live("digit-cnn") == 2


def test_a_job_has_one_version_however_often_it_publishes(store):
    """The same job id finds its version, another one makes the next; a deleted one is not made again."""
    ids = ["one", "two", "one", "two", "one"]
    staged = [store.stage() for _ in ids]
    for folder in staged:
        (folder / "model.onnx").write_bytes(b"graph")
    made = [store.publish(folder, draft(), once=job) for folder, job in zip(staged, ids, strict=True)]
    assert [each.version for each in made] == [1, 2, 1, 2, 1]
    assert made[0].provenance.job_id == "one"
    assert not list((store.root / ".staging").iterdir())
    store.delete("digit-cnn", 1)
    folder = store.stage()
    (folder / "model.onnx").write_bytes(b"graph")
    with pytest.raises(VersionGoneError, match="job one published was deleted since"):
        store.publish(folder, draft(), once="one")
    assert store.published_by("digit-cnn", "two").version == 2
    assert store.published_by("digit-cnn", "three") is None


def test_what_was_rolled_back_from_comes_back_only_by_an_order_of_its_own(store):
    """A job that is repeated after somebody rolled its version back does not put it live again."""
    for _ in range(2):
        store.promote_first("digit-cnn", publish(store), store.live("digit-cnn"))
    store.rollback("digit-cnn")
    store.promote_first("digit-cnn", 2, over=1)
    assert store.live("digit-cnn") == 1
    store.promote("digit-cnn", 2)
    assert store.live_history("digit-cnn") == [2, 1]


def test_who_was_judged_beside_another_version_is_told_that_it_changed(store):
    """Between the judgement and the order another version has gone live: nothing happens, with a sentence."""
    for _ in range(3):
        publish(store)
    store.promote_first("digit-cnn", 1, over=None)
    with pytest.raises(LiveChangedError, match=r"version \[1\] is live now, not None"):
        store.promote_first("digit-cnn", 2, over=None)
    store.promote_first("digit-cnn", 3, over=1)
    assert store.live_history("digit-cnn") == [3, 1]


def test_nothing_depends_on_the_clock(store, monkeypatch):
    """Files from the future and from 1970 and a clock that must not be asked: every change works, in order."""

    def asked(*_):
        raise AssertionError("the clock was asked")

    drafts = [draft() for _ in range(3)]
    monkeypatch.setattr("time.time", asked)
    monkeypatch.setattr("time.time_ns", asked)
    for number, each in enumerate(drafts):
        staged = store.stage()
        (staged / "model.onnx").write_bytes(b"graph")
        store.promote("digit-cnn", store.publish(staged, each).version)
        for path in store.root.rglob("*"):
            os.utime(path, (4e9 if number % 2 else 0, 4e9 if number % 2 else 0))
    assert store.live_history("digit-cnn") == [3, 2, 1]
    assert store.rollback("digit-cnn") == 2
    assert store.prune("digit-cnn", keep=0) == [3]
    assert store.sweep() == []
    assert store.versions("digit-cnn") == [1, 2]


def test_keeping_none_leaves_the_live_one_and_the_way_back(store):
    """`keep=0` is a number like others, and an unknown model an error."""
    for _ in range(4):
        store.promote("digit-cnn", publish(store))
    assert store.prune("digit-cnn", keep=0) == [1, 2]
    with pytest.raises(VersionNotFoundError, match="no model chess"):
        store.prune("chess")


def test_a_version_deleted_while_it_is_read_is_not_called_damaged(store, monkeypatch):
    """Between two files of a version the whole of it went: not found, as for every reader after."""
    publish(store)
    monkeypatch.setattr("models.reading.file_entry", lambda path: store.delete("digit-cnn", 1) or path.stat())
    with pytest.raises(VersionNotFoundError, match="no version 1"):
        store.verify("digit-cnn", 1)


def test_a_store_that_lacks_nothing_is_seeded_without_a_write(store, tmp_path, monkeypatch):
    """A replica on a read-only volume starts: there is nothing to copy and nothing is written."""
    shipped = Store(tmp_path / "zoo")
    shipped.promote("digit-cnn", publish(shipped))
    store.seed(shipped)
    before = {path: path.stat().st_mtime_ns for path in store.root.rglob("*")}
    assert store.seed(shipped) == []
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*")} == before


def _publish_some(root, count):
    for _ in range(count):
        publish(Store(root))


def test_concurrent_publishers_never_share_a_number(store):
    """Processes that publish at once each get numbers of their own, and every version is whole."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_publish_some, args=(store.root, 5)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    versions = store.versions("digit-cnn")
    assert len(versions) == 15
    for version in versions:
        assert store.verify("digit-cnn", version).version == version
