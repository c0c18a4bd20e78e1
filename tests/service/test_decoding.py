"""The queue in front of decoding: what is admitted, in which order it runs, and who is not worked for."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service import decoding
from service.bodies import FREE_BYTES, Bodies
from service.caller import Caller, never_gone
from service.decoding import SMALL_PIXELS, DecodeQueue
from service.errors import Busy, DeadlinePassed
from service.metrics import Metrics
from service.settings import Settings
from service.wire import ClientGone
from tests.server import Server

JSON = {"Content-Type": "application/json"}
LARGE = 4 * SMALL_PIXELS


class Clock:
    """Seconds that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Held:
    """Calls that run until the test lets them, and what has begun, in order."""

    def __init__(self):
        self.begun = []
        self.gate = threading.Event()

    def work(self, name):
        def call():
            self.begun.append(name)
            assert self.gate.wait(5)
            return name

        return call


def drive(scenario, **settings):
    """Run an async scenario with a queue on a fake clock, one large thread."""

    async def run():
        clock, held = Clock(), Held()
        chosen = Settings(workers=64, **settings)
        queue = DecodeQueue(chosen, Metrics(), clock=clock)
        try:
            await asyncio.wait_for(scenario(queue, clock, held), 10)
        finally:
            held.gate.set()

    asyncio.run(run())


async def settle(check):
    """Let the loop turn until the check holds."""
    for _ in range(2000):
        if check():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come about")


def begin(queue, held, name, pixels, caller=None):
    return asyncio.ensure_future(queue.run(pixels, caller or Caller(never_gone, 10.0), held.work(name)))


def test_a_small_picture_does_not_wait_behind_large_ones():
    """While large work holds its thread and more of it waits, small work is begun at once."""

    async def scenario(queue, clock, held):
        large = [begin(queue, held, f"large {n}", LARGE) for n in range(3)]
        small = begin(queue, held, "small", 1000)
        await settle(lambda: "small" in held.begun)
        assert [name for name in held.begun if name.startswith("large")] == ["large 0"]
        held.gate.set()
        assert await small == "small"
        assert await asyncio.gather(*large) == ["large 0", "large 1", "large 2"]

    drive(scenario)


def test_the_cheaper_goes_first_until_the_dearer_has_waited():
    """Of two that wait the one with fewer pixels runs first, but not before one that came long before it."""

    async def scenario(queue, clock, held):
        tasks = []
        for now, name, pixels in [(0, "first", LARGE), (0, "dear", 2e7), (1, "cheap", 3e6), (5, "late", 3e6)]:
            clock.now = now
            tasks.append(begin(queue, held, name, int(pixels)))
            await asyncio.sleep(0)
        await settle(lambda: held.begun == ["first"])
        held.gate.set()
        await asyncio.gather(*tasks)
        assert held.begun == ["first", "cheap", "dear", "late"]

    drive(scenario)


@pytest.mark.parametrize("limit", [{"max_decode_requests": 2}, {"max_decode_pixels": 2 * LARGE}])
def test_a_full_queue_refuses_and_the_other_lane_does_not(limit):
    """Requests and pixels are bounded: 429 with a time to come back, while small pictures are still taken."""

    async def scenario(queue, clock, held):
        tasks = [begin(queue, held, str(n), LARGE) for n in range(2)]
        await settle(lambda: held.begun)
        with pytest.raises(Busy) as caught:
            await begin(queue, held, "third", LARGE)
        assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("queue_full", 429, 1)
        tasks.append(begin(queue, held, "small", 10))
        held.gate.set()
        await asyncio.gather(*tasks)
        assert queue.large.requests == queue.large.pixels == queue.small.requests == queue.small.pixels == 0
        assert await begin(queue, held, "again", LARGE) == "again"

    drive(scenario, **limit)


def test_one_request_larger_than_the_bound_is_taken_when_nothing_else_waits():
    """The largest picture an operator allows is not refused for ever by a smaller bound of the queue."""

    async def scenario(queue, clock, held):
        held.gate.set()
        assert await begin(queue, held, "huge", 2 * LARGE) == "huge"

    drive(scenario, max_decode_pixels=LARGE)


def test_a_request_that_waited_past_its_deadline_is_not_decoded():
    """It is a 504 while the thread is still busy with another, and its call never begins."""

    async def scenario(queue, clock, held):
        first = begin(queue, held, "first", LARGE, Caller(never_gone, 100.0))
        late = begin(queue, held, "late", LARGE, Caller(never_gone, 10.0))
        await settle(lambda: held.begun == ["first"])
        clock.now = 10.0
        with pytest.raises(DeadlinePassed):
            await late
        held.gate.set()
        assert await first == "first"
        assert held.begun == ["first"]

    drive(scenario)


def test_who_waits_for_a_call_that_takes_too_long_is_told_in_time():
    """The thread goes on, its place stays taken until it has ended, but the caller gets its 504."""

    async def scenario(queue, clock, held):
        slow = begin(queue, held, "slow", LARGE)
        await settle(lambda: held.begun)
        clock.now = 11.0
        with pytest.raises(DeadlinePassed):
            await slow
        assert queue.large.requests == 1
        held.gate.set()
        await settle(lambda: queue.large.requests == 0)

    drive(scenario)


def test_a_caller_who_left_costs_nothing_more():
    """Of a request in three calls the second is not begun when its client has hung up, nor one that waits."""

    async def scenario(queue, clock, held):
        left = False
        caller = Caller(lambda: left, 10.0)

        async def three():
            with queue.admit(LARGE, caller) as admission:
                for n in range(3):
                    await admission.run(held.work(f"part {n}"))

        first = asyncio.ensure_future(three())
        waiting = begin(queue, held, "waiting", LARGE, caller)
        await settle(lambda: held.begun)
        left = True
        held.gate.set()
        for task in (first, waiting):
            with pytest.raises(ClientGone):
                await task
        assert held.begun == ["part 0"]
        await settle(lambda: queue.large.requests == 0)

    drive(scenario)


def test_what_a_call_raises_reaches_its_caller_alone():
    """An error of one call gives its place back and leaves the thread to the next."""

    async def scenario(queue, clock, held):
        held.gate.set()
        with pytest.raises(ZeroDivisionError):
            await queue.run(LARGE, Caller(never_gone, 10.0), lambda: 1 // 0)
        assert await begin(queue, held, "next", LARGE) == "next"
        assert queue.large.requests == 0

    drive(scenario)


def test_a_thread_rests_after_a_long_call(monkeypatch):
    """Behind a call of 0.2 CPU seconds the next one of its lane waits as long, and the event loop has that time."""
    monkeypatch.setattr(decoding, "_timed", lambda call: (call(), None, 0.2))

    async def scenario(queue, clock, held):
        held.gate.set()
        loop = asyncio.get_running_loop()
        await begin(queue, held, "first", LARGE)
        rested = loop.time()
        await begin(queue, held, "second", LARGE)
        assert loop.time() - rested > 0.15

    drive(scenario)


def test_bodies_are_counted_beyond_their_first_part_and_given_back():
    """Large bodies are refused over the bound, small ones never; the end of a request gives its bytes back."""
    bodies = Bodies(1_000_000)
    with bodies.hold() as first:
        first.grow_to(900_000)
        with bodies.hold() as second, pytest.raises(Busy):
            second.grow_to(400_000)
        with bodies.hold() as small:
            small.grow_to(FREE_BYTES)
        assert bodies.bytes == 900_000 - FREE_BYTES
    assert bodies.bytes == 0
    with bodies.hold() as alone:
        alone.grow_to(5_000_000)


@pytest.mark.slow
def test_long_texts_and_large_json_do_not_hold_the_event_loop(tmp_path):
    """256 texts of 20,000 characters, and 9 MB of numbers: a small request beside them waits for neither."""
    texts = {"inputs": [{"text": "\N{GRINNING FACE} word " * 2500}] * 180}
    numbers = {"pixels": [[[round(17.0, 1)] * 28] * 28] * 250, "more": [0] * 1_500_000}
    with Server(tmp_path, workers=1) as server, ThreadPoolExecutor(2) as senders:
        longest = []
        for path, content in (("/predict/sequence/batch", texts), ("/predict/digit/batch", numbers)):
            body = json.dumps(content).encode()
            assert len(body) < 10 * 2**20
            sent = senders.submit(httpx.post, server.url + path, content=body, headers=JSON, timeout=60)
            while not sent.done():
                started = time.perf_counter()
                assert server.client.get("/health/live").status_code == 200
                longest.append(time.perf_counter() - started)
                time.sleep(0.005)
            assert sent.result().status_code in {200, 422, 504}
        print(f"longest {max(longest) * 1000:.0f} ms of {len(longest)}")
        assert max(longest) < 0.4
