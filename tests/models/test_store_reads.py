"""A store that cannot be read at present: a sentence each time, nothing taken for damaged, nothing lost."""

import errno

import pytest

from models.canary import CanaryBoard
from models.store import Store, StoreError, StoreReadError, VersionDamagedError
from tests.artifacts import publish
from tests.models.faults import Reads

NUMBERS = [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ELOOP]
LOOKS = {
    "names": lambda store: store.names(),
    "versions": lambda store: store.versions("digit-cnn"),
    "folder": lambda store: store.folder("digit-cnn", 1),
    "manifest": lambda store: store.manifest("digit-cnn", 2).version,
    "live": lambda store: store.live("digit-cnn"),
    "history": lambda store: store.live_history("digit-cnn"),
    "previous": lambda store: store.previous("digit-cnn"),
    "verify": lambda store: store.verify("digit-cnn", 2).version,
}


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "models")
    for favourite in (3, 4, 5):
        store.promote("digit-cnn", publish(store, favourite=favourite))
    return store


def answer_of(look, store):
    """What it says, or that the store could not be read, in a sentence."""
    try:
        return repr(look(store))
    except StoreReadError as exc:
        return type(exc).__name__ if "cannot be read" in str(exc) else str(exc)


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_every_failed_read_is_a_sentence_of_the_store(store, look, number):
    """Whatever step fails with whatever error: the same answer as before or StoreReadError, and no damage told."""
    with Reads(store.root) as counted:
        expected = look(store)
    assert counted.steps
    for at in range(1, counted.steps + 1):
        with Reads(store.root, number, at):
            assert answer_of(look, store) in {repr(expected), "StoreReadError"}
        assert look(store) == expected


CHANGES = {
    "promote": lambda store: store.promote("digit-cnn", 1),
    "rollback": lambda store: store.rollback("digit-cnn"),
    "delete": lambda store: store.delete("digit-cnn", 1),
    "prune": lambda store: store.prune("digit-cnn", 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_failed_read_in_a_change_loses_no_history_and_no_candidate(store, change, tmp_path):
    """What cannot be read is not written over, and what may be needed is not deleted."""
    board = CanaryBoard(store.root)
    board.start("digit-cnn", check=lambda: None, version=2, against=3, percent=10, mode="split", kind="image")
    at, steps = 0, 1
    while at < steps:
        at += 1
        with Reads(store.root, errno.EMFILE, at) as reads:
            try:
                change(store)
            except StoreError:
                assert store.live_history("digit-cnn") == [3, 2, 1]
                assert store.versions("digit-cnn") == [1, 2, 3]
            else:
                break
            steps = max(steps, reads.steps + 1)
    assert 2 in store.versions("digit-cnn")
    assert sorted(store.live_history("digit-cnn")) in ([1, 2, 3], [1, 2], [2, 3])


def test_a_missing_file_is_damage_and_a_folder_in_its_place_too(store):
    """What is gone does not come back by itself: the version is damaged."""
    graph = store.folder("digit-cnn", 2) / "model.onnx"
    graph.unlink()
    with pytest.raises(VersionDamagedError, match=r"model\.onnx"):
        store.verify("digit-cnn", 2)
    graph.mkdir()
    with pytest.raises(VersionDamagedError, match=r"model\.onnx"):
        store.verify("digit-cnn", 2)


def test_a_folder_in_place_of_the_live_pointer_is_a_sentence(store):
    """Neither reading nor promoting ends in a trace."""
    pointer = store.root / "digit-cnn" / "live"
    pointer.unlink()
    pointer.mkdir()
    with pytest.raises(StoreReadError, match="live cannot be read: Is a directory"):
        store.live("digit-cnn")
    with pytest.raises(StoreError, match="live cannot be read"):
        store.promote("digit-cnn", 1)
