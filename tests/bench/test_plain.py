"""The benchmark's plain endpoint does the work that it is measured for: it answers as the service does."""

import asyncio

import httpx

from tests.bench.plain import Plain
from tests.server import EXAMPLES

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}


async def _ask(*bodies):
    """The answers to pictures, between start and end of an application."""
    app, messages = Plain(), asyncio.Queue()
    done = asyncio.Event()

    async def receive():
        return await messages.get()

    async def send(message):
        done.set()

    life = asyncio.create_task(app({"type": "lifespan"}, receive, send))
    messages.put_nowait({"type": "lifespan.startup"})
    await done.wait()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answers = await asyncio.gather(*(client.post("/predict/digit", content=body, headers=PNG) for body in bodies))
    messages.put_nowait({"type": "lifespan.shutdown"})
    await life
    return answers


def test_it_answers_as_the_service_does(service):
    """The same body and the same explaining headers; a broken picture is refused."""
    seven, broken = asyncio.run(_ask(SEVEN, b"no picture"))
    served = service.client.post("/predict/digit", content=SEVEN, headers=PNG)
    assert (seven.status_code, seven.content) == (200, served.content)
    assert {name for name in seven.headers if name.startswith("x-")} == {
        name for name in served.headers if name.startswith("x-")
    } - {"x-request-id"}
    assert broken.status_code == 422
