"""Following a training through lost connections, against a real server that answers by a script."""

import asyncio
import io

import pytest

from neuroserve.client import AsyncClient, Client, ProgressBar, Retries, StrangeAnswer, Unreachable
from neuroserve.errors import NotFound
from tests.client.scripted import Reply, Scripted, job, problem, stream

QUICK = Retries(first_s=0.01, longest_s=0.02)
QUEUED = (1, "status", {"status": "queued"})
ROW = {"epoch": 1, "train_loss": 0.5, "val_loss": 0.4, "val_metric": 0.9, "seconds": 1.5}
EPOCH = (2, "epoch", {"row": ROW, "stopped_early": False})
LOG = (3, "log", {"message": "line\u2028separator"})
DONE = (4, "done", {"status": "succeeded", "result": None, "error": None})
HALF = Reply(200, b'event: epoch\ndata: {"row"', headers={"Content-Type": "text/event-stream", "Connection": "close"})
LOST = [Reply(202, job()), stream(QUEUED, EPOCH), Reply(cut=True), problem(503), HALF, stream(LOG, DONE)]


def asked_events(server):
    """The Last-Event-ID of each connection to the stream."""
    return [headers.get("Last-Event-ID") for _, path, headers, _ in server.asked if path.endswith("/events")]


def test_a_watch_outlives_lost_connections():
    """The stream ends early, is cut, is refused, breaks in an event: each event is seen once, then the final job."""
    said = io.StringIO()
    with Scripted(*LOST, Reply(200, job("succeeded"))) as server, Client(server.url, retries=QUICK) as client:
        found = client.train("digit").watch(progress=ProgressBar(said))
    assert found.succeeded
    assert asked_events(server) == [None, "2", "2", "2", "2"]
    lines = said.getvalue().split("\n")
    assert lines[0] == "queued"
    assert lines[1].startswith("epoch 1: train loss 0.5000, validation loss 0.4000, metric 0.9000")
    assert lines[2:] == ["line\u2028separator", "succeeded", ""]


def test_the_asynchronous_watch_does_too():
    """The same story through asyncio."""

    async def watch(url):
        async with AsyncClient(url, retries=QUICK) as client:
            training = await client.train("digit")
            return [(event.id, event.type) async for event in training.events()], await training.watch(progress=False)

    with Scripted(*LOST, Reply(204), Reply(200, job("succeeded"))) as server:
        events, found = asyncio.run(watch(server.url))
    assert events == [("1", "status"), ("2", "epoch"), ("3", "log"), ("4", "done")]
    assert found.succeeded


def test_a_service_that_stays_away_ends_the_watch():
    """As many tries as `Retries` allows without any event between them, then the error."""
    with (
        Scripted(Reply(202, job()), stream(QUEUED), Reply(cut=True)) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(Unreachable),
    ):
        client.train("digit").watch(progress=False)
    assert len(asked_events(server)) == 1 + QUICK.most


def test_an_unknown_job_is_not_asked_for_again():
    """404 is raised at once."""
    with (
        Scripted(Reply(202, job()), problem(404, "job_not_found")) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(NotFound),
    ):
        client.train("digit").watch(progress=False)
    assert len(asked_events(server)) == 1


def test_a_stream_that_is_not_the_services_is_told():
    """No endless loop over nonsense."""
    nonsense = Reply(200, b"data: hello\n\n", headers={"Connection": "close"})
    with (
        Scripted(Reply(202, job()), nonsense) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(StrangeAnswer),
    ):
        client.train("digit").watch(progress=False)


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar():
    """Steps of all epochs fill one bar, and lines stand above it."""
    said = Terminal()
    progress = (2, "progress", {"progress": {"epoch": 2, "epochs": 4, "step": 5, "steps": 10, "eta_s": 1.0}})
    with (
        Scripted(Reply(202, job()), stream(QUEUED, progress, EPOCH, DONE), Reply(200, job("succeeded"))) as server,
        Client(server.url) as client,
    ):
        client.train("digit").watch(progress=ProgressBar(said))
    assert "epoch 2 of 4" in said.getvalue()
    assert "15/40" in said.getvalue()
    assert "epoch 1: train loss" in said.getvalue()
