"""The list of versions: each manifest is read once, and what changes on the disk is seen all the same."""

import asyncio
import errno
import json
import threading

import pytest

from models.store import Store
from service import catalogue
from service.catalogue import Catalogue
from service.loader import Loader
from service.schemas import ModelInfo
from tests.artifacts import publish
from tests.models.faults import Reads

INFO = ModelInfo(
    name="digit-cnn", task=None, kind=None, default=True, live=2, previous=1, serving=2, provider=None, swaps=0,
    problem=None, versions=[],
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "models")
    for favourite in (3, 4):
        store.promote("digit-cnn", publish(store, favourite=favourite))
    return store


@pytest.fixture
def reads(monkeypatch):
    """The folders whose manifests were read."""
    found = []
    real = catalogue.read_manifest
    monkeypatch.setattr(catalogue, "read_manifest", lambda folder: (found.append(folder.name), real(folder))[1])
    return found


def problems(known):
    return {entry.info.version: entry.info.problem for entry in known.entries("digit-cnn")}


def test_a_manifest_is_read_once_and_a_new_version_is_seen(store, reads):
    """Looking again costs no reading; what is published or deleted meanwhile comes and goes."""
    known = Catalogue(store)
    for _ in range(3):
        assert set(problems(known)) == {1, 2}
    assert reads == ["1", "2"]
    publish(store, favourite=5)
    assert set(problems(known)) == {1, 2, 3}
    store.delete("digit-cnn", 1)
    assert set(problems(known)) == {2, 3}
    assert reads == ["1", "2", "3"]


def test_a_manifest_that_was_changed_or_removed_is_told(store):
    """Damage is seen at the next look, and so is its mending."""
    known = Catalogue(store)
    assert problems(known) == {1: None, 2: None}
    path = store.folder("digit-cnn", 1) / "manifest.json"
    kept = path.read_bytes()
    path.write_text("{}")
    assert "not a version 1 manifest" in problems(known)[1]
    path.unlink()
    assert "is missing" in problems(known)[1]
    path.write_bytes(kept)
    assert problems(known)[1] is None


def test_a_manifest_that_cannot_be_read_for_once_is_read_again(store):
    """A failed look is not kept."""
    known = Catalogue(store)
    with Reads(store.root) as counted:
        Catalogue(store).entries("digit-cnn")
    with Reads(store.root, errno.EMFILE, counted.steps):
        assert "Too many open files" in problems(known)[2]
    assert problems(known) == {1: None, 2: None}


def test_the_text_is_the_same_as_the_schema_writes(store):
    """The live version and a refused one are marked; the others come from memory."""
    listing = Catalogue(store).listing("digit-cnn")
    told = json.loads(listing.text(INFO, {1: "it does not load"}))
    whole = ModelInfo.model_validate(told)
    assert [(each.version, each.live, each.problem) for each in whole.versions] == [
        (1, False, "it does not load"),
        (2, True, None),
    ]
    assert json.loads(whole.model_dump_json()) == told
    assert (listing.live, listing.previous, listing.newest.info.version) == (2, 1, 2)


def test_who_looks_does_not_wait_for_the_loader():
    """A load that takes its time, and a look at the store beside it."""

    async def scenario():
        loader, go_on = Loader(), threading.Event()
        try:
            loading = asyncio.create_task(loader.run(go_on.wait, 30))
            assert await asyncio.wait_for(loader.look(lambda: "seen"), 5) == "seen"
            assert not loading.done()
        finally:
            go_on.set()
            await loading
            loader.close()

    asyncio.run(scenario())
