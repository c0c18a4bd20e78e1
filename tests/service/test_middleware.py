"""The outermost layer under a real uvicorn: what goes wrong inside is told once, and the client hears of it."""

import asyncio
import logging
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from service.access import AccessLog
from service.limits import Limits
from service.metrics import Metrics
from service.middleware import Envelope
from service.security import Guard
from service.settings import Settings
from tests.server import wait_until


async def broken(_request):
    raise ValueError("the reason")


async def broken_off(_request):
    async def words():
        yield b"some"
        await asyncio.sleep(0)
        raise ValueError("the reason")

    return StreamingResponse(words())


async def reading(request):
    return PlainTextResponse(await request.body())


async def rendered(_request, _exc):
    return PlainTextResponse("fixed words", 500)


@contextmanager
def served():
    """An application of broken routes behind the envelope, on a free port."""
    inner = Starlette(
        routes=[
            Route("/broken", broken),
            Route("/broken-off", broken_off),
            Route("/reading", reading, methods=["POST"]),
        ],
        exception_handlers={Exception: rendered},
    )
    settings = Settings()
    access = AccessLog()
    app = Envelope(inner, Metrics(), {}, Guard(settings), Limits(settings), access)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def test_an_unforeseen_error_is_told_once(caplog):
    """One trace, with the request's id, also where FastAPI has answered already."""
    with served() as url:
        answer = httpx.get(f"{url}/broken", headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.text, answer.headers["x-request-id"]) == (500, "fixed words", "mine")
    assert caplog.text.count("ValueError: the reason") == 1
    assert "request mine failed" in caplog.messages


def test_an_answer_that_breaks_off_is_told_once_and_ends_the_connection(caplog):
    """A client must not take half an answer for the whole."""
    with served() as url, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/broken-off")
    assert caplog.text.count("ValueError: the reason") == 1


def test_a_client_that_leaves_while_it_sends_is_no_error(caplog):
    """Anyone could fill the log with traces, and the count of errors, by hanging up."""
    caplog.set_level(logging.INFO)
    with served() as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port)) as line:
            line.sendall(b"POST /reading HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
        wait_until(lambda: "POST /reading" in caplog.text, 10)
    assert "failed" not in caplog.text
    assert "POST /reading 499" in caplog.text
