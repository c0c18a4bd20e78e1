"""Requests while a canary runs: each on its side by its key, with a stand-in where the candidate fails."""

import asyncio
import json

import numpy as np
import pytest

from models.store import Store
from service.batch import Part
from service.decoding import DecodeQueue
from service.errors import InvalidInput
from service.exchange import Ready, Request
from service.fork import Fork
from service.passage import Passage
from service.routes.digit import Digit, DigitBatch
from service.wire import ClientGone
from tests.canaries import NAME, body, picked, pixels, publish_live, publish_table, rows_of
from tests.service.replicas import GOOD, ask, figures, order, run
from tests.service.test_registry import until


@pytest.fixture
def store(tmp_path):
    """A store with version 1 live and an equally good version 2."""
    store = Store(tmp_path / "models")
    publish_live(store)
    publish_table(store, GOOD)
    return store


def test_a_candidates_larger_share_holds_its_smaller_one(store):
    """Who saw the candidate at 10 % sees it at 50 %, in every process, as the documents tell."""

    async def scenario(registry):
        shares = {}
        for percent in (10, 50):
            await order(registry, percent=percent)
            trial = registry.trials[NAME]
            shares[percent] = {n for n in range(4000) if trial.picks(f"key-{n}".encode())}
            assert shares[percent] == {n for n in range(4000) if picked(f"key-{n}", 2, percent)}
            await registry.canaries.end(NAME, trial.order, "ended", "")
            await registry.follow(NAME)
        assert shares[10] < shares[50]
        assert abs(len(shares[10]) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5

    run(store, scenario)


def test_a_failing_candidate_is_stood_in_for_by_live(store):
    """Also where it answers with no numbers; a request that is wrong in itself is nobody's failure."""
    rows = rows_of(GOOD[:240])
    rows[239] = np.nan
    publish_table(store, [], rows=rows)

    async def scenario(registry):
        await order(registry, 3)
        assert (await ask(registry, body(1))).headers == {b"x-canary": b"candidate"}
        for first in (250, 239):
            answer = await ask(registry, body(first))
            assert (answer.version, answer.headers) == (1, {b"x-canary": b"fallback"})
        batch = json.dumps({"pixels": [pixels(1), pixels(250), pixels(2)]}).encode()
        answer = await ask(registry, batch, endpoint=DigitBatch)
        assert (answer.version, answer.rows, answer.headers) == (1, 3, {b"x-canary": b"fallback"})
        with pytest.raises(InvalidInput, match="must be 28 rows"):
            await ask(registry, b'{"pixels": [[1]]}')
        told = await figures(registry)
        assert (told.fallbacks, told.candidate.failed_requests, told.candidate.failed_rows) == (3, 3, 5)
        assert (told.candidate.requests, told.candidate.rows, told.live.requests) == (4, 6, 0)
        assert told.candidate.error_rate == pytest.approx(5 / 6)

    run(store, scenario)


def test_a_swap_while_a_request_is_decoded_is_followed(store):
    """The version that was live when the request came may be closed by then: the rows go to the one that is."""
    store.promote(NAME, publish_table(store, GOOD))

    async def scenario(registry):
        await order(registry, percent=1)
        key = next(f"{n}" for n in range(99) if not picked(f"{n}", 2, 1))

        async def answer():
            await registry.model("image", None, None)
            store.rollback(NAME)
            await registry.loaded(NAME).refresh()
            await asyncio.sleep(0.05)
            place, loaded = await registry.model("image", None, None)
            part = Part({"pixels": np.zeros((1, 28, 28), np.uint8)})
            (future,) = place.batcher.submit(loaded.engine, [part], timeout_s=5)
            return {"model": {"version": loaded.version}}, [await future]

        told, answers = await Passage(key.encode()).run(answer)
        assert (told["model"]["version"], answers[0].version) == (1, 1)

    run(store, scenario)


def test_a_client_that_left_is_no_failure(store):
    """Nobody is stood in for, nothing is counted."""

    async def scenario(registry):
        await order(registry)

        async def leaves():
            raise ClientGone

        with pytest.raises(ClientGone):
            await Passage(b"me").run(leaves)
        told = await figures(registry)
        assert (told.candidate.requests, told.fallbacks) == (0, 0)

    run(store, scenario)


def test_a_shadow_over_its_bound_is_dropped_and_counted(store):
    """The queue of a candidate that does not keep up has an end; the live answers are not touched."""
    publish_table(store, GOOD, slow=3)

    async def scenario(registry):
        registry._settings.max_batch_rows = 2
        await order(registry, 3, mode="shadow")
        answers = await asyncio.gather(*(ask(registry, body(1), key=f"{n}") for n in range(60)))
        assert {answer.version for answer in answers} == {1}

        async def settled():
            told = await figures(registry)
            return told.compared_rows + told.dropped_rows == 60

        await until(settled, 20)
        told = await figures(registry)
        assert told.dropped_rows >= 60 - 8 - 2 - told.compared_rows
        assert told.dropped_rows > 0
        assert told.candidate.failed_rows == 0

    run(store, scenario)


def test_a_shadow_that_fails_is_counted_on_its_side_alone(store):
    """The live rows are counted with it, so that both sides have the same ones."""
    publish_table(store, GOOD[:240])

    async def scenario(registry):
        await order(registry, 3, mode="shadow")
        for first in (1, 250, 2):
            assert (await ask(registry, body(first))).headers == {}

        async def compared():
            return (await figures(registry)).candidate.requests == 3

        await until(compared, 5)
        told = await figures(registry)
        assert (told.candidate.failed_rows, told.compared_rows, told.live.failed_rows, told.live.rows) == (1, 2, 0, 3)

    run(store, scenario)


def test_the_short_way_keeps_what_is_live_and_gives_up_what_the_canary_picks(store):
    """Without a canary it is not touched; with one each key goes where it would go on the long way, and is counted."""

    async def scenario(registry):
        fork = Fork(Digit(registry, registry._settings, DecodeQueue(registry._settings)), registry, ("image",))
        requests = [
            Request(b"application/json", body(1 + n), [(b"x-canary-key", f"k{n}".encode())], b"id") for n in range(40)
        ]
        assert all(isinstance(each, Ready) for each in fork.at_once(requests))
        await order(registry, percent=30)
        decoded = fork.at_once(requests)
        assert [each is None for each in decoded] == [picked(f"k{n}", 2, 30) for n in range(40)]
        ready = [each for each in decoded if isinstance(each, Ready)]
        replies = [asyncio.get_running_loop().create_future() for _ in ready]
        for each, reply in zip(ready, replies, strict=True):
            each.batcher.admit(each.engine, each.part, reply, timeout_s=5, gone=lambda: False)
        await asyncio.gather(*replies)
        told = await figures(registry)
        assert (told.live.requests, told.live.rows, told.candidate.requests) == (len(ready), len(ready), 0)
        assert told.live.mean_confidence == pytest.approx(0.91)

    run(store, scenario)


def test_the_short_way_shadows_what_the_canary_picks(store):
    """A request that both versions read alike stays there: answered by live, then run on the candidate."""

    async def scenario(registry):
        fork = Fork(Digit(registry, registry._settings, DecodeQueue(registry._settings)), registry, ("image",))
        requests = [Request(b"application/json", body(1), [], f"k{n}".encode()) for n in range(40)]
        await order(registry, percent=30, mode="shadow")
        decoded = fork.at_once(requests)
        replies = [asyncio.get_running_loop().create_future() for _ in decoded]
        for each, reply in zip(decoded, replies, strict=True):
            each.batcher.admit(each.engine, each.part, reply, timeout_s=5, gone=lambda: False)
        assert {answer.version for answer in await asyncio.gather(*replies)} == {1}
        share = sum(picked(f"k{n}", 2, 30) for n in range(40))

        async def compared():
            return (await figures(registry)).compared_rows == share

        await until(compared, 5)

    run(store, scenario)
