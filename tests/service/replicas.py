"""Registries on one store, as the processes of one service or of many have them, and requests to them."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

from service.caller import arrived, never_gone
from service.decoding import DecodeQueue
from service.metrics import Metrics
from service.passage import Passage
from service.registry import Registry
from service.routes.digit import Digit
from service.settings import Settings
from tests.canaries import LIVE_LABEL, NAME
from tests.service.test_registry import ON_CPU, RECIPES

GOOD = [LIVE_LABEL] * 256


@asynccontextmanager
async def replicas(store, number=1):
    """So many processes' registries on one store."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(number):
            registry = Registry(store, RECIPES, Settings(state=store.root.parent), Metrics())
            stack.push_async_callback(registry.close)
            await registry.start(ON_CPU)
            found.append(registry)
        yield found


def run(store, scenario, number=1):
    """Run a scenario with the registries."""

    async def main():
        async with replicas(store, number) as registries:
            return await asyncio.wait_for(scenario(*registries), 30)

    return asyncio.run(main())


async def order(registry, version=2, percent=100, mode="split", rule=None):
    """Start a canary."""
    return await registry.canaries.start(registry.loaded(NAME), version, percent=percent, mode=mode, rule=rule)


async def ask(registry, content, *, key="me", endpoint=Digit):
    """The answer to a request, and what it says of the canary."""
    scope = {
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
        "state": {"request_id": key},
    }
    passage = Passage(key.encode())
    door = endpoint(registry, registry._settings, DecodeQueue(registry._settings))

    def answer():
        return door.answer(scope, content, arrived(never_gone, 10))

    told, answers = await passage.run(answer)
    passage.afterwards(answer)
    return SimpleNamespace(
        version=told["model"]["version"], headers=dict(passage.headers), rows=sum(len(a.outputs[0]) for a in answers)
    )


async def figures(registry):
    """What all have counted of the running canary."""
    running = (await registry.canaries.state(NAME)).running
    return registry.canaries.figures(NAME, running)
