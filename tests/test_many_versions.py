"""A store with hundreds of versions: readers of the list neither wait for a change nor hold it up."""

import os
import shutil
import statistics
import threading
import time

import httpx
import pytest

from models.store import Store
from tests.server import SHIPPED, Server, shipped, wait_until

VERSIONS, READERS = 400, 16


def with_many_versions(state):
    """A state folder with 400 versions of one model: links to the files of one, manifests of their own."""
    store = Store(state / "models")
    store.seed(SHIPPED)
    first = shipped("digit-cnn")
    manifest = store.manifest("digit-cnn", first)
    model = store.root / "digit-cnn"
    for version in range(first + 1, first + VERSIONS):
        shutil.copytree(model / str(first), model / str(version), copy_function=os.link)
        text = manifest.model_copy(update={"version": version}).to_json()
        (model / str(version) / "manifest.json").unlink()
        (model / str(version) / "manifest.json").write_text(text)
    (model / "last").write_text(f"{first + VERSIONS - 1}\n")
    return first + VERSIONS - 1


@pytest.mark.slow
def test_a_promotion_is_quick_beside_many_readers_of_many_versions(tmp_path):
    """400 versions, 16 clients that read `GET /models` without a pause: a promotion is live in under two seconds."""
    newest = with_many_versions(tmp_path)
    with Server(tmp_path) as server:
        taken, over = [], threading.Event()

        def read():
            with httpx.Client(base_url=server.url, timeout=60) as client:
                while not over.is_set():
                    began = time.monotonic()
                    assert client.get("/models").status_code == 200
                    taken.append(time.monotonic() - began)

        readers = [threading.Thread(target=read) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        try:
            wait_until(lambda: len(taken) > 2 * READERS, 60)
            promoted = []
            for version in (newest, newest - 1, newest - 2):
                began = time.monotonic()
                answer = server.client.post("/models/digit-cnn/promote", json={"version": version})
                assert answer.status_code == 200
                assert answer.json()["serving"] == version
                promoted.append(time.monotonic() - began)
        finally:
            over.set()
            for reader in readers:
                reader.join()
        listed = {each["name"]: each for each in server.client.get("/models").json()["models"]}
    print(f"promotions {promoted}, GET /models median {statistics.median(taken):.3f} s, worst {max(taken):.3f} s")
    assert min(promoted) < 2
    assert statistics.median(promoted) < 2
    assert statistics.median(taken) < 2
    assert len(listed["digit-cnn"]["versions"]) == VERSIONS
    assert [each["version"] for each in listed["digit-cnn"]["versions"] if each["live"]] == [newest - 2]
