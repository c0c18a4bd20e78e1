"""A store that cannot be read for a while: what is served stays, the watcher goes on, all processes come to agree."""

import asyncio
import errno
import shutil

import httpx
import pytest

from models.store import Store
from service.errors import Unavailable
from tests.artifacts import publish
from tests.models.faults import Reads
from tests.server import Server, shipped, wait_until
from tests.service.test_registry import ask, running, until
from tests.service.test_supervisor_faults import answers, call, workers

END_WATCHER = """
import sys
from starlette.routing import Route
from starlette.responses import PlainTextResponse
from service import worker
from service.cli import main

make = worker.create_app

def create_app(settings):
    async def end(request):
        app.state.background._tasks[request.query_params["name"]].cancel()
        return PlainTextResponse("ended")

    app = make(settings)
    app.router.routes.append(Route("/test/end", end))
    return app

worker.create_app = create_app
sys.exit(main(["serve"]))
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "models")
    store.promote("digit-cnn", publish(store, favourite=3))
    return store


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_one_failed_read_at_any_step_of_a_swap_delays_it_and_no_more(store, number):
    """The new version goes live though one look at the store failed, whichever it was."""

    async def scenario():
        async with running(store) as registry:
            at, steps, favourite = 0, 1, 3
            while at < steps:
                at += 1
                favourite = (favourite + 1) % 10
                version = publish(store, favourite=favourite)
                with Reads(store.root) as reads:
                    store.promote("digit-cnn", version)
                    reads.steps, reads.number, reads.at = 0, number, at

                    async def follows(expected=(favourite, version)):
                        return await ask(registry) == expected

                    await until(follows, 5)
                    steps = max(steps, min(reads.steps, 12))
            assert registry.problems() == {}
            assert registry.loaded("digit-cnn").problem() is None

    asyncio.run(scenario())


def test_while_nothing_can_be_read_the_version_in_memory_answers_and_afterwards_both_processes_agree(store):
    """Out of file descriptors for a while, as two workers see it: ready all the time, one version at the end."""

    async def scenario():
        async with running(store) as one, running(store) as two:
            version = publish(store, favourite=5)
            store.promote("digit-cnn", version)
            with Reads(store.root, errno.EMFILE, 1, lasts=True):
                await asyncio.sleep(0.8)
                assert await ask(one) == await ask(two) == (3, 1)
                assert one.problems() == two.problems() == {}
                assert "Too many open files" in one.loaded("digit-cnn").problem()
                with pytest.raises(Unavailable, match="Too many open files"):
                    await one.names()
                with pytest.raises(Unavailable, match="Too many open files"):
                    await ask(one, version=version)

            async def agree():
                return await ask(one) == await ask(two) == (5, version)

            await until(agree, 5)
            assert one.loaded("digit-cnn").problem() is None

    asyncio.run(scenario())


def test_a_process_that_starts_while_the_pointer_cannot_be_read_guesses_nothing(store):
    """It is not ready and says why; with the pointer back it serves what is live, not what is newest."""
    publish(store, favourite=9)

    async def scenario():
        pointer = store.root / "digit-cnn" / "live"
        pointer.rename(pointer.with_name("kept"))
        pointer.mkdir()
        async with running(store) as registry:
            assert "Is a directory" in registry.problems()["digit-cnn"]
            pointer.rmdir()
            pointer.with_name("kept").rename(pointer)

            async def ready():
                return not registry.problems()

            await until(ready, 5)
            assert await ask(registry) == (3, 1)

    asyncio.run(scenario())


@pytest.mark.slow
def test_a_folder_in_place_of_the_live_pointer_leaves_a_real_service_ready(tmp_path):
    """Two processes: both answer from memory and are ready, and follow the next promotion both."""
    with Server(tmp_path) as server:
        store = Store(tmp_path / "models")
        pointer = store.root / "digit-cnn" / "live"
        pointer.rename(pointer.with_name("kept"))
        pointer.mkdir()
        version = shutil.copytree(store.root / "digit-cnn" / str(shipped("digit-cnn")), tmp_path / "copy")
        manifest = store.manifest("digit-cnn", shipped("digit-cnn"))
        wait_until(lambda: "live cannot be read" in server.log, 5)
        for _ in range(6):
            assert answers(server) == 200
            assert httpx.get(f"{server.url}/health/ready", timeout=10).status_code == 200
        listed = httpx.get(f"{server.url}/models", timeout=10)
        assert (listed.status_code, listed.json()["code"]) == (503, "store_unavailable")
        assert listed.json()["detail"] == "digit-cnn/live cannot be read: Is a directory."
        pointer.rmdir()
        pointer.with_name("kept").rename(pointer)
        newer = store.publish(version, manifest).version
        store.promote("digit-cnn", newer)

        def versions():
            found = set()
            for _ in range(8):
                with httpx.Client(base_url=server.url, timeout=10) as client:
                    found.add(client.get("/models/digit-cnn").json()["serving"])
            return found

        wait_until(lambda: versions() == {newer}, 10)
        assert httpx.get(f"{server.url}/metrics", timeout=10).status_code == 200


@pytest.mark.slow
def test_a_worker_whose_watcher_has_ended_is_not_ready_and_is_replaced(tmp_path):
    """Only a task that is gone costs the process; the others answer on."""
    with Server(tmp_path, program=("-c", END_WATCHER)) as server:
        before = workers(server)
        call(server, "/test/end?name=store watcher")
        wait_until(lambda: len(before - workers(server)) == 1 and len(workers(server)) == 2, 15)
        assert "the store watcher has ended; this process is being replaced" in server.log
        wait_until(lambda: all(answers(server) == 200 for _ in range(6)), 15)
