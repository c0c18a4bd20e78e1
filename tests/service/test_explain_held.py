"""What an explanation holds: engines stay open for it, and everything is given back, however it ends."""

import asyncio
import json
import shutil
import socket
import time
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest

from models.jobs import Recipes
from models.store import Store
from service.batcher import Batcher
from service.caller import arrived, never_gone
from service.decoding import DecodeQueue
from service.device import Device
from service.engine import Engine
from service.explain.prober import Prober
from service.metrics import Metrics
from service.registry import Registry
from service.routes.sequence import SequenceBatch
from service.settings import Settings
from service.slot import Loaded
from tests.server import SHIPPED, shipped, wait_until
from tests.service.fakes import FakeEngine

MODEL = "topic-transformer"
RECIPES = Recipes.model_validate_json((SHIPPED.root / "recipes.json").read_bytes())
TOPIC_ALONE = Recipes(tasks={"topic": RECIPES.tasks["topic"]})
HEADLINE = "Oil prices rise as supply fears grow in the Gulf, traders say"
LONG = " ".join(f"word{number} oil" for number in range(300))


@pytest.fixture
def closed(monkeypatch):
    """The versions whose engines were closed, in order."""
    versions, close = [], Engine.close

    def noted(engine):
        versions.append(engine.version)
        close(engine)

    monkeypatch.setattr(Engine, "close", noted)
    return versions


@asynccontextmanager
async def serving(folder, versions):
    """The batch route over a store that holds the shipped topic network so many times; the last one is live."""
    store = Store(folder / "models")
    manifest = SHIPPED.manifest(MODEL, shipped(MODEL))
    for _ in range(versions):
        staged = store.stage()
        shutil.copytree(SHIPPED.folder(MODEL, manifest.version), staged, dirs_exist_ok=True)
        (staged / "manifest.json").unlink()
        store.promote(MODEL, store.publish(staged, manifest).version)
    settings = Settings(state=folder)
    registry = Registry(store, TOPIC_ALONE, settings, Metrics())
    await registry.start(Device("cpu", try_cuda=False, reason="a test"))
    yield SequenceBatch(registry, settings, DecodeQueue(settings))
    await registry.close()


def predict(route, items):
    """The predictions, as the route would send them."""
    places = [("body", "inputs", index) for index in range(len(items))]
    return route.predict(items, places, arrived(never_gone, 10))


async def until(check, seconds=10.0):
    """Wait for the engines' thread."""
    for _ in range(int(seconds / 0.01)):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize("explain", [False, True])
def test_a_batch_may_name_more_versions_than_are_kept_open(tmp_path, closed, explain):
    """A version that gives way to a later item's is closed behind the answers of its own."""
    items = [{"text": HEADLINE, "version": version, "explain": explain} for version in (1, 2, 3)]

    async def run():
        async with serving(tmp_path, versions=4) as route:
            predictions, _ = await predict(route, items)
            await until(lambda: closed == [1])
        return predictions

    predictions = asyncio.run(run())
    assert [each["model"]["version"] for each in predictions] == [1, 2, 3]
    assert ["explanation" in each for each in predictions] == [explain] * 3


def test_a_swap_during_an_explanation_waits_for_its_end(tmp_path, closed):
    """The version that answered explains itself to the end, and is closed after that."""

    async def run():
        async with serving(tmp_path, versions=2) as route:
            slot = await route.registry.slot(MODEL)
            await slot.get(1)  # loaded, so that the swap is quick
            asked = asyncio.create_task(predict(route, [{"text": LONG, "explain": True}]))
            await asyncio.sleep(0)
            route.registry.store.rollback(MODEL)
            await route.registry.follow(MODEL)
            assert slot.live.version == 1
            assert not asked.done()
            assert not closed
            (prediction,), _ = await asked
            await until(lambda: closed == [2])
        return prediction

    prediction = asyncio.run(run())
    assert prediction["model"]["version"] == 2
    assert len(prediction["explanation"]["words"]) == len(LONG.split())


def test_the_rows_of_an_explanation_go_no_further_than_its_client_stays():
    """One run after the client has left nothing waits, and the engine is free to be closed."""

    async def run():
        engine = FakeEngine()
        engine.manifest = None
        batcher = Batcher("digit", max_queue_rows=100, max_batch_rows=8)
        deadline = asyncio.get_running_loop().time() + 5
        prober = Prober(batcher, Loaded(engine, None), deadline=deadline, gone=lambda: len(engine.batches) >= 2)
        with pytest.raises(asyncio.CancelledError), batcher.hold(engine):
            await prober.run({"x": np.ones((80, 1))})
        batcher.retire(engine)
        assert batcher.queued_rows == 0
        await batcher.close()
        return engine

    engine = asyncio.run(run())
    assert len(engine.batches) == 2
    assert sum(engine.batches) <= 16
    assert engine.closed


def rows_done(service):
    """Rows of the topic network that the service has run."""
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("neuroserve_rows_total{") and MODEL in line)


def test_a_client_that_hangs_up_ends_its_explanations(service):
    """Over real HTTP: sixteen explanations are asked for, few are made."""
    body = json.dumps({"inputs": [{"text": LONG, "explain": True}] * 16}).encode()
    url = urlsplit(service.url)
    before = rows_done(service)
    with socket.create_connection((url.hostname, url.port)) as client:
        head = "POST /predict/sequence/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: rows_done(service) > before + 16, 20)
    wait_until(lambda: _still(service), 10)
    assert rows_done(service) - before < 8 * 96


def _still(service):
    before = rows_done(service)
    time.sleep(0.3)
    return rows_done(service) == before
