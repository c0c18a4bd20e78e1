"""When the client sends a call again, and how long it waits, against a real server that answers by a script."""

import asyncio
import time

import pytest

from neuroserve.client import AsyncClient, Client, Retries, TimedOut, Unreachable, UsageError
from neuroserve.errors import Busy, Conflict, InternalError, InvalidInput, Unauthorized, Unavailable
from tests.client.scripted import MODEL, TOPIC, Reply, Scripted, job, problem
from tests.server import free_port

QUICK = Retries(first_s=0.01, longest_s=0.02)


@pytest.mark.parametrize(
    "first", [problem(429), problem(503), Reply(cut=True)], ids=["busy", "unavailable", "connection cut"]
)
def test_a_prediction_is_sent_again_after_a_passing_failure(first):
    """The second answer counts; both requests have the same body."""
    with Scripted(first, Reply(200, TOPIC)) as server, Client(server.url, retries=QUICK) as client:
        assert client.predict_text("peace").label == "World"
    assert len(server.asked) == 2
    assert server.asked[0][3] == server.asked[1][3]


def test_the_asynchronous_client_retries_alike():
    """429, a cut connection, then the answer."""

    async def ask(url):
        async with AsyncClient(url, retries=QUICK) as client:
            return await client.predict_text("peace")

    with Scripted(problem(429), Reply(cut=True), Reply(200, TOPIC)) as server:
        assert asyncio.run(ask(server.url)).label == "World"
    assert len(server.asked) == 3


def test_retry_after_is_waited_out():
    """The second try comes no sooner than the service said."""
    with (
        Scripted(problem(429, **{"Retry-After": "1"}), Reply(200, TOPIC)) as server,
        Client(server.url, retries=QUICK) as client,
    ):
        client.predict_text("peace")
    assert 1.0 <= server.times[1] - server.times[0] < 4.0


def test_a_retry_after_beyond_patience_is_told_and_not_waited_for():
    """The error says how long the service asked for."""
    with (
        Scripted(problem(429, "rate_limited", **{"Retry-After": "3600"})) as server,
        Client(server.url) as client,
        pytest.raises(Busy) as caught,
    ):
        client.predict_text("peace")
    assert caught.value.retry_after_s == 3600
    assert len(server.asked) == 1


def test_retries_end():
    """Five tries by default, then the last error with all it holds."""
    with (
        Scripted(problem(503, "not_ready")) as server,
        Client(server.url, retries=QUICK) as client,
        pytest.raises(Unavailable, match="Do it otherwise") as caught,
    ):
        client.predict_text("peace")
    assert len(server.asked) == 5
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (503, "not_ready", "abc")


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (409, Conflict), (422, InvalidInput), (500, InternalError)]
)
def test_what_would_fail_again_is_sent_once(status, kind):
    """Refusals that waiting does not change are raised at once, each by its class."""
    with Scripted(problem(status)) as server, Client(server.url, retries=QUICK) as client, pytest.raises(kind):
        client.predict_text("peace")
    assert len(server.asked) == 1


def test_a_rollback_whose_answer_was_lost_is_not_sent_again():
    """Two rollbacks are two steps back, so the client leaves it at one; a promotion may be repeated."""
    with Scripted(Reply(cut=True), Reply(200, MODEL)) as server, Client(server.url, retries=QUICK) as client:
        with pytest.raises(Unreachable):
            client.rollback("digit-cnn")
        assert len(server.asked) == 1
    with Scripted(Reply(cut=True), Reply(200, MODEL)) as server, Client(server.url, retries=QUICK) as client:
        assert client.promote("digit-cnn", 1).live == 1


def test_an_order_to_train_is_repeated_under_one_key():
    """Both sendings carry the same Idempotency-Key; another order has another key."""
    with Scripted(Reply(cut=True), Reply(202, job())) as server, Client(server.url, retries=QUICK) as client:
        assert client.train("digit", epochs=1).id == "j1"
        client.train("digit", epochs=1)
        client.train("digit", idempotency_key="mine")
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in server.asked]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == "mine"


def test_a_slow_answer_is_a_timeout_and_not_asked_for_again():
    """A second request would only add to the load."""
    with Scripted(Reply(200, TOPIC, hold_s=2.0)) as server, Client(server.url, timeout_s=0.1) as client:
        began = time.monotonic()
        with pytest.raises(TimedOut, match="in time"):
            client.predict_text("peace")
        assert time.monotonic() - began < 1.5
    assert len(server.asked) == 1


def test_nobody_there_is_told_with_the_address():
    """Connection refused: tried again, then Unreachable."""
    port = free_port()
    with Client(f"http://127.0.0.1:{port}", retries=QUICK) as client, pytest.raises(Unreachable, match=str(port)):
        client.models()


def test_back_off_has_full_jitter_and_a_ceiling():
    """Waits fill the range from 0 to the bound, which doubles up to the ceiling."""
    retries = Retries(first_s=0.5, longest_s=3.0)
    for failed, bound in ((1, 0.5), (2, 1.0), (3, 2.0), (4, 3.0), (5000, 3.0)):
        waits = [retries.jitter_s(failed) for _ in range(300)]
        assert 0 <= min(waits) < bound * 0.1
        assert bound * 0.9 < max(waits) <= bound


def test_address_and_key_come_from_the_environment(monkeypatch):
    """NEUROSERVE_URL and NEUROSERVE_API_KEY; an argument wins; what is no address is refused at once."""
    with Scripted(Reply(200, TOPIC)) as server:
        monkeypatch.setenv("NEUROSERVE_URL", server.url)
        monkeypatch.setenv("NEUROSERVE_API_KEY", "from-environment")
        with Client() as client:
            client.predict_text("peace")
        with Client(server.url, api_key="from-argument") as client:
            client.predict_text("peace")
    assert [headers["Authorization"] for _, _, headers, _ in server.asked] == [
        "Bearer from-environment",
        "Bearer from-argument",
    ]
    with pytest.raises(UsageError, match="http://"):
        Client("localhost:8000")
