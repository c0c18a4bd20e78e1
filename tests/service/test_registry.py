"""The registry: what the store says is live answers, a bad version never does, and a swap fails nobody."""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from models.jobs import Recipes
from models.store import Store
from service.batch import Part
from service.device import CPU, Device, DeviceError
from service.errors import InvalidInput, NotFound, Unavailable
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests.artifacts import draft, publish

RANGE = {"default": 1, "min": 1, "max": 9}
NETWORK = {"model": "digit-cnn", "summary": "", "epochs": RANGE, "batch_size": RANGE, "learning_rate": RANGE}
RECIPES = Recipes.model_validate(
    {
        "tasks": {
            "digit": {
                "summary": "",
                "kind": "image",
                "default_network": "cnn",
                "metric": "accuracy",
                "metric_higher_is_better": True,
                "networks": {"cnn": NETWORK},
            }
        }
    }
)
ON_CPU = Device("cpu", try_cuda=False, reason="test")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "models")


@asynccontextmanager
async def running(store, device=ON_CPU):
    registry = Registry(store, RECIPES, Settings(state=store.root.parent), Metrics())
    try:
        await registry.start(device)
        yield registry
    finally:
        await registry.close()


async def ask(registry, version=None, name=None):
    """The digit and the version that answer one picture."""
    slot, loaded = await registry.model("image", name, version)
    part = Part({"pixels": np.zeros((1, 28, 28), np.uint8)})
    (future,) = slot.batcher.submit(loaded.engine, [part], timeout_s=5)
    answer = await future
    return int(answer.outputs[0][0].argmax()), answer.version


async def until(check, seconds=3.0):
    """Wait for the store's watcher."""
    for _ in range(int(seconds / 0.02)):
        if await check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_the_live_version_answers_and_others_when_asked_for(store):
    """No version named: the live one; a number: that one, live or not."""
    for favourite in (3, 4):
        store.promote("digit-cnn", publish(store, favourite=favourite))

    async def scenario():
        async with running(store) as registry:
            assert await ask(registry) == (4, 2)
            assert await ask(registry, version=1) == (3, 1)
            with pytest.raises(NotFound, match="no version 9"):
                await ask(registry, version=9)
            with pytest.raises(NotFound, match="there are: digit-cnn"):
                await ask(registry, name="digit-gan")

    asyncio.run(scenario())


def test_the_store_is_followed_without_being_told(store):
    """Promote and rollback by another process are live within two seconds."""
    store.promote("digit-cnn", publish(store, favourite=3))

    async def scenario():
        async with running(store) as registry:
            assert await ask(registry) == (3, 1)
            store.promote("digit-cnn", publish(store, favourite=5))

            async def answers(expected):
                return await ask(registry) == expected

            await until(lambda: answers((5, 2)), 2)
            store.rollback("digit-cnn")
            await until(lambda: answers((3, 1)), 2)
            assert registry.loaded("digit-cnn").swaps == 2

    asyncio.run(scenario())


def test_swaps_under_load_fail_nobody_and_never_go_back(store):
    """Ten versions go live while rows keep coming: every row is answered, versions only rise."""
    store.promote("digit-cnn", publish(store, favourite=0))

    async def scenario():
        seen = []
        done = False

        async def client(registry):
            mine = []
            while not done:
                digit, version = await ask(registry)
                assert digit == version - 1
                mine.append(version)
            assert mine == sorted(mine)
            seen.extend(mine)

        async with running(store) as registry:
            clients = [asyncio.create_task(client(registry)) for _ in range(8)]
            for favourite in range(1, 10):
                store.promote("digit-cnn", publish(store, favourite=favourite))
                await registry.follow("digit-cnn")
            await asyncio.sleep(0.05)
            done = True
            await asyncio.gather(*clients)
        assert set(seen) >= {1, 10}

    asyncio.run(scenario())


def tamper(store, version):
    (store.folder("digit-cnn", version) / "model.onnx").write_bytes(b"not a graph")


def test_a_tampered_live_version_at_start_falls_back_to_the_previous_one_and_says_so(store):
    """The service starts on what was live before, and names the version it refused and why."""
    for favourite in (3, 4):
        store.promote("digit-cnn", publish(store, favourite=favourite))
    tamper(store, 2)

    async def scenario():
        async with running(store) as registry:
            assert await ask(registry) == (3, 1)
            assert registry.problems() == {}
            assert "was changed after it was published" in registry.loaded("digit-cnn").problem()
            with pytest.raises(Unavailable, match="was changed"):
                await ask(registry, version=2)

    asyncio.run(scenario())


def test_a_version_that_fails_its_self_test_is_refused_and_the_old_one_serves_on(store):
    """A graph that does not answer as its manifest promises never goes live."""
    store.promote("digit-cnn", publish(store, favourite=3))

    async def scenario():
        async with running(store) as registry:
            staged = store.stage()
            from tests.artifacts import digit_graph

            digit_graph(staged / "model.onnx", favourite=6)
            store.promote("digit-cnn", store.publish(staged, draft(favourite=5)).version)
            await registry.follow("digit-cnn")
            assert await ask(registry) == (3, 1)
            assert "fails its self-test" in registry.loaded("digit-cnn").problem()
            store.promote("digit-cnn", publish(store, favourite=8))
            await registry.follow("digit-cnn")
            assert await ask(registry) == (8, 3)
            assert registry.loaded("digit-cnn").problem() is None

    asyncio.run(scenario())


def test_with_no_good_version_the_model_is_unavailable_with_the_reason(store):
    """The service lives, is not ready, and says what is wrong."""
    store.promote("digit-cnn", publish(store))
    tamper(store, 1)

    async def scenario():
        async with running(store) as registry:
            assert "was changed" in registry.problems()["digit-cnn"]
            with pytest.raises(Unavailable, match="was changed"):
                await ask(registry)
            store.promote("digit-cnn", publish(store, favourite=2))

            async def ready():
                return not registry.problems()

            await until(ready)
            assert await ask(registry) == (2, 2)

    asyncio.run(scenario())


def test_cuda_means_cuda_or_no_start(store):
    """A session that got the CPU although CUDA was asked for stops the start."""
    store.promote("digit-cnn", publish(store))

    async def scenario():
        async with running(store, Device("cuda", try_cuda=True, reason="")):
            raise AssertionError("it started")

    with pytest.raises(DeviceError, match=CPU):
        asyncio.run(scenario())


def test_a_model_of_another_kind_is_refused(store):
    """A picture for a text model is the client's mistake, told as such."""
    store.promote("digit-cnn", publish(store))

    async def scenario():
        async with running(store) as registry:
            with pytest.raises(InvalidInput, match="takes image input, this request is text"):
                await registry.model("text", "digit-cnn", None)

    asyncio.run(scenario())


def test_a_session_that_changed_its_device_turns_readiness_off(store):
    """Health asks the session itself: what was loaded on a GPU and is on a CPU now is a fault, not a slow answer."""
    store.promote("digit-cnn", publish(store))

    async def scenario():
        async with running(store) as registry:
            assert "digit-cnn" not in registry.problems()
            registry.loaded("digit-cnn").live.engine.provider = "CUDAExecutionProvider"
            told = "was loaded on CUDAExecutionProvider and is on CPUExecutionProvider now"
            assert told in registry.problems()["digit-cnn"]
            with pytest.raises(Unavailable, match=told):
                await ask(registry)

    asyncio.run(scenario())


def test_a_device_that_dies_is_unavailable_not_slow(store):
    """After a failed run on a GPU the model answers 503 with the reason instead of quietly using the CPU."""
    store.promote("digit-cnn", publish(store))

    async def scenario():
        async with running(store) as registry:
            slot = registry.loaded("digit-cnn")
            report = SimpleNamespace(
                engine=SimpleNamespace(version=1, provider="CUDAExecutionProvider"),
                rows=1, queue_seconds=[0.0], run_seconds=0.0, padded_rows=1, steps=0, padded_steps=0, failed=True,
                sound=False, reason="idle",
            )  # fmt: skip
            slot._observe(report)
            assert "CUDAExecutionProvider failed" in json.dumps(registry.problems())
            with pytest.raises(Unavailable, match="CUDAExecutionProvider failed"):
                await ask(registry)

    asyncio.run(scenario())
