"""Batches that are split, sent side by side and put together again in order."""

import asyncio
import json
import time

import pytest

from neuroserve.client import AsyncClient, Client, Retries, StrangeAnswer
from neuroserve.errors import InvalidInput
from tests.client.scripted import TOPIC, Reply, Scripted, problem


def echo(hold_s=0.0):
    """Replies to a text batch with each text as its label; requests are held until `hold_s` after the first."""
    first = []

    def reply(body):
        texts = [each["text"] for each in json.loads(body)["inputs"]]
        first.append(time.monotonic())
        wait_s = max(0.0, hold_s - (first[-1] - first[0]))
        return Reply(200, {"predictions": [{**TOPIC, "label": text} for text in texts]}, hold_s=wait_s)

    return reply


def counted(server):
    return sorted(len(json.loads(body)["inputs"]) for _, _, _, body in server.asked)


TEXTS = [f"text {number}" for number in range(700)]


def test_a_long_batch_is_split_at_the_services_limit_and_keeps_its_order():
    """700 texts: three requests of at most 256, at once, in order."""
    with Scripted(echo(0.6)) as server, Client(server.url) as client:
        assert [each.label for each in client.predict_texts(TEXTS)] == TEXTS
    assert counted(server) == [188, 256, 256]
    assert server.most_together == 3


def test_no_more_requests_run_at_once_than_asked_for():
    """`concurrency=2` with seven parts."""
    with Scripted(echo(0.4)) as server, Client(server.url, concurrency=2, batch_items=100) as client:
        assert [each.label for each in client.predict_texts(TEXTS)] == TEXTS
    assert len(server.asked) == 7
    assert server.most_together == 2


def test_the_asynchronous_client_splits_alike():
    """Same parts, same bound, same order."""

    async def ask(url):
        async with AsyncClient(url, concurrency=2, batch_items=100) as client:
            return await client.predict_texts(TEXTS)

    with Scripted(echo(0.4)) as server:
        assert [each.label for each in asyncio.run(ask(server.url))] == TEXTS
    assert len(server.asked) == 7
    assert server.most_together == 2


def test_a_batch_is_split_by_the_bytes_of_its_body_too():
    """Ten texts of 1,000 two-byte characters with room for 15,000 bytes: no body is larger."""
    texts = [f"{number}" + "é" * 999 for number in range(10)]
    with Scripted(echo()) as server, Client(server.url, batch_bytes=15_000) as client:
        assert [each.label for each in client.predict_texts(texts)] == texts
    assert len(server.asked) == 5
    assert max(len(body) for _, _, _, body in server.asked) <= 15_000


def test_an_empty_batch_asks_nothing():
    """No request, no answers."""
    with Scripted(echo()) as server, Client(server.url) as client:
        assert client.predict_texts([]) == []
    assert server.asked == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_bad_item_is_named_by_its_place_in_the_whole_list(kind):
    """The service names the third of its part; the error names the 13th of the list, and other parts are given up."""

    def refuse(body):
        texts = [each["text"] for each in json.loads(body)["inputs"]]
        if "12" not in texts:
            return Reply(200, {"predictions": [{**TOPIC, "label": text} for text in texts]})
        return problem(422, "text_empty", errors=[{"loc": ["body", "inputs", texts.index("12"), "text"], "msg": "no"}])

    async def ask_async(url):
        async with AsyncClient(url, batch_items=5, concurrency=1) as client:
            await client.predict_texts(map(str, range(100)))

    def ask(url):
        with Client(url, batch_items=5, concurrency=1) as client:
            client.predict_texts(map(str, range(100)))

    with Scripted(refuse) as server, pytest.raises(InvalidInput, match="item 12: ") as caught:
        asyncio.run(ask_async(server.url)) if kind == "async" else ask(server.url)
    assert caught.value.item == 12
    assert caught.value.errors[0].loc == ("body", "inputs", 12, "text")
    assert len(server.asked) < 10


def test_one_part_that_is_refused_for_a_while_is_sent_again_alone():
    """A 429 for one of three parts costs one more request."""
    with Scripted(problem(429), echo()) as server, Client(server.url, retries=Retries(first_s=0.01)) as client:
        assert [each.label for each in client.predict_texts(TEXTS)] == TEXTS
    assert len(server.asked) == 4


def test_too_few_answers_are_not_taken():
    """An answer that lost a row is an error, never a shifted list."""
    with (
        Scripted(Reply(200, {"predictions": [TOPIC]})) as server,
        Client(server.url) as client,
        pytest.raises(StrangeAnswer, match="2 predictions"),
    ):
        client.predict_texts(["a", "b"])
