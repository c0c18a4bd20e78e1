"""The batcher: what one caller does never harms another, and nothing is admitted that cannot be kept."""

import asyncio
import logging

import numpy as np
import pytest

from service.batch import Part
from service.batcher import Batcher
from service.errors import Busy, DeadlinePassed, InternalError, Unavailable
from tests.service.fakes import FakeEngine


def part(value: float, rows: int = 1, length: int = 0) -> Part:
    return Part({"x": np.full((rows, 1), value)}, rows, length)


def drive(scenario, **limits):
    """Run an async scenario with a fresh batcher, and close it."""

    async def main():
        batcher = Batcher("m", **{"max_queue_rows": 64, "max_batch_rows": 8, **limits})
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            await asyncio.wait_for(batcher.close(), 10)

    return asyncio.run(main())


async def held(engine: FakeEngine, batcher: Batcher):
    """Keep the device busy with one row, so that what follows must wait; its future."""
    engine.gate.clear()
    engine.started.clear()
    (future,) = batcher.submit(engine, [part(0)], timeout_s=5)
    await asyncio.to_thread(engine.started.wait, 5)
    return future


def submit(batcher, engine, *parts, **options):
    return batcher.submit(engine, list(parts), **{"timeout_s": 5, **options})


def test_a_cancelled_caller_leaves_its_batch_mates_unharmed():
    """Cancelling some of the waiting items changes nothing for those beside them."""

    async def scenario(batcher):
        engine = FakeEngine()
        first = await held(engine, batcher)
        futures = [submit(batcher, engine, part(n))[0] for n in range(4)]
        futures[0].cancel()
        futures[2].cancel()
        engine.gate.set()
        answers = [await futures[1], await futures[3], await first]
        assert [answer.outputs[0].item() for answer in answers] == [2, 6, 0]
        assert engine.batches == [1, 2]

    drive(scenario)


def test_a_caller_cancelled_during_the_run_leaves_its_batch_mates_unharmed():
    """A future that is done before its batch lands is passed over."""

    async def scenario(batcher):
        engine = FakeEngine()
        engine.gate.clear()
        futures = submit(batcher, engine, part(1), part(2), part(3))
        await asyncio.to_thread(engine.started.wait, 5)
        futures[1].cancel()
        engine.gate.set()
        assert [(await futures[i]).outputs[0].item() for i in (0, 2)] == [2, 6]

    drive(scenario)


def test_a_failed_batch_fails_exactly_its_rows_and_the_next_works(caplog):
    """An engine that raises costs its own batch a 500 with fixed text; the loop lives on."""

    async def scenario(batcher):
        engine = FakeEngine()
        engine.fault = ValueError("secret detail")
        bad = submit(batcher, engine, part(1), part(2))
        for future in bad:
            with pytest.raises(InternalError) as caught:
                await future
            assert "secret" not in caught.value.detail
        engine.fault = None
        (good,) = submit(batcher, engine, part(4))
        assert (await good).outputs[0].item() == 8

    with caplog.at_level(logging.ERROR):
        drive(scenario)
    assert "secret detail" in caplog.text


def test_a_bad_row_never_spoils_its_batch(caplog):
    """The batch fails, its items run one by one, and only the bad one gets an error; the device counts as sound."""
    reports = []

    async def scenario(batcher):
        engine = FakeEngine()
        engine.bad_row = 2
        first = await held(engine, batcher)
        futures = submit(batcher, engine, *(part(n) for n in range(1, 5)))
        engine.gate.set()
        assert [(await futures[n]).outputs[0].item() for n in (0, 2, 3)] == [2, 6, 8]
        with pytest.raises(InternalError):
            await futures[1]
        await first
        assert engine.batches == [1, 4, 1, 1, 1, 1]

    with caplog.at_level(logging.WARNING):
        drive(scenario, observe=reports.append)
    assert [report.failed for report in reports] == [False, False, True, False, False]
    assert all(report.sound for report in reports)


def test_a_batch_on_a_dead_device_fails_as_a_whole(caplog):
    """No second try, and the report says that the device is no longer sound."""
    reports = []

    async def scenario(batcher):
        engine = FakeEngine()
        engine.fault, engine.sound = RuntimeError("the device is lost"), False
        for future in submit(batcher, engine, part(1), part(2)):
            with pytest.raises(InternalError):
                await future
        assert engine.batches == [2]

    with caplog.at_level(logging.ERROR):
        drive(scenario, observe=reports.append)
    assert [(report.failed, report.sound) for report in reports] == [(True, False)]


def test_over_the_row_limit_is_busy_without_touching_the_engine():
    """Rows, not requests, are counted, and a refused request leaves no trace."""

    async def scenario(batcher):
        engine = FakeEngine()
        await held(engine, batcher)
        kept = submit(batcher, engine, part(1, rows=3))
        with pytest.raises(Busy) as caught:
            submit(batcher, engine, part(2), part(3))
        assert caught.value.status == 429
        assert caught.value.retry_after_s
        assert batcher.queued_rows == 3
        engine.gate.set()
        await kept[0]
        assert engine.batches == [1, 3]

    drive(scenario, max_queue_rows=4)


def test_a_request_larger_than_the_queue_is_taken_when_the_queue_is_empty():
    """The limit bounds waiting; it does not forbid a large request to an idle model."""

    async def scenario(batcher):
        engine = FakeEngine()
        (future,) = submit(batcher, engine, part(1, rows=20))
        assert (await future).batch_rows == 20

    drive(scenario, max_queue_rows=4)


def test_what_waits_while_the_device_is_busy_is_the_next_batch():
    """No timer: the queue is the batch, cut at the row limit."""

    async def scenario(batcher):
        engine = FakeEngine()
        await held(engine, batcher)
        futures = [submit(batcher, engine, part(n))[0] for n in range(11)]
        engine.gate.set()
        answers = await asyncio.gather(*futures)
        assert engine.batches == [1, 8, 3]
        assert [answer.batch_rows for answer in answers] == [8] * 8 + [3] * 3
        assert all(answer.queue_ms > 0 for answer in answers)

    drive(scenario)


def test_batches_hold_one_length_bucket():
    """Short and long rows do not pad each other; the oldest waiting row decides which bucket is next."""

    async def scenario(batcher):
        engine = FakeEngine(lengths=(16, 64))
        await held(engine, batcher)
        lengths = [10, 60, 16, 50, 1]
        futures = [submit(batcher, engine, part(n, length=n))[0] for n in lengths]
        engine.gate.set()
        answers = await asyncio.gather(*futures)
        assert [answer.outputs[0].item() for answer in answers] == [2 * n for n in lengths]
        assert engine.batches == [1, 3, 2]

    drive(scenario)


def test_a_row_whose_caller_has_gone_never_reaches_the_device():
    """A hung-up client gives its place back and costs no run."""

    async def scenario(batcher):
        engine = FakeEngine()
        first = await held(engine, batcher)
        gone = [submit(batcher, engine, part(n), gone=lambda: True)[0] for n in range(8)]
        await asyncio.sleep(0.15)  # the sweep frees places while the device is still busy
        assert batcher.queued_rows == 0
        engine.gate.set()
        await first
        assert all(future.cancelled() for future in gone)
        assert engine.batches == [1]

    drive(scenario)


def test_a_passed_deadline_is_dropped_before_the_device():
    """Waiting rows fail with 504 at their deadline, even while a run is stuck."""

    async def scenario(batcher):
        engine = FakeEngine()
        first = await held(engine, batcher)
        (late,) = submit(batcher, engine, part(1), timeout_s=0.01)
        with pytest.raises(DeadlinePassed):
            await asyncio.wait_for(late, 1)
        engine.gate.set()
        await first
        assert engine.batches == [1]

    drive(scenario)


def test_the_deadline_also_ends_the_wait_for_a_stuck_run():
    """A run that does not return answers its caller with 504 in time."""

    async def scenario(batcher):
        engine = FakeEngine()
        engine.gate.clear()
        (future,) = submit(batcher, engine, part(1), timeout_s=0.05)
        with pytest.raises(DeadlinePassed):
            await asyncio.wait_for(future, 1)
        engine.gate.set()

    drive(scenario)


def test_swap_under_load_keeps_versions_in_order_and_closes_the_old_behind_its_last_batch():
    """Items admitted with the old engine are answered by it; then, and only then, it is closed."""

    async def scenario(batcher):
        old, new = FakeEngine(1), FakeEngine(2)
        await held(old, batcher)
        before = [submit(batcher, old, part(n))[0] for n in range(20)]
        batcher.retire(old)
        after = [submit(batcher, new, part(n))[0] for n in range(20)]
        assert not old.closed
        old.gate.set()
        versions = [(await future).version for future in before + after]
        assert versions == [1] * 20 + [2] * 20
        await asyncio.to_thread(lambda: None)
        (last,) = submit(batcher, new, part(1))
        await last
        assert old.closed
        assert not new.closed

    drive(scenario)


def test_a_request_of_many_parts_is_answered_by_one_version():
    """All parts of one admission carry one engine, however many batches they need."""

    async def scenario(batcher):
        old, new = FakeEngine(1), FakeEngine(2)
        futures = submit(batcher, old, *[part(n) for n in range(30)])
        batcher.retire(old)
        submit(batcher, new, part(0))
        assert {(await future).version for future in futures} == {1}

    drive(scenario)


def test_an_idle_engine_is_closed_as_soon_as_it_retires():
    """Nothing in flight, nothing to wait for."""

    async def scenario(batcher):
        engine = FakeEngine()
        batcher.retire(engine)
        for _ in range(100):
            if engine.closed:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("never closed")

    drive(scenario)


def test_closing_finishes_what_was_admitted_and_admits_nothing_more():
    """Shutdown loses no accepted request."""

    async def main():
        batcher = Batcher("m", max_queue_rows=64, max_batch_rows=2)
        engine = FakeEngine()
        futures = submit(batcher, engine, *[part(n) for n in range(7)])
        await asyncio.wait_for(batcher.close(), 5)
        assert [(await future).outputs[0].item() for future in futures] == [0, 2, 4, 6, 8, 10, 12]
        with pytest.raises(Unavailable):
            submit(batcher, engine, part(1))

    asyncio.run(main())


def test_every_batch_is_reported():
    """The observer sees rows, items, padding and failure of each batch."""
    reports = []

    async def scenario(batcher):
        engine = FakeEngine(lengths=(16,))
        await asyncio.gather(*submit(batcher, engine, part(1, length=10), part(2, length=6)))

    drive(scenario, observe=reports.append)
    (report,) = reports
    assert (report.rows, report.items, report.steps, report.padded_steps, report.failed) == (2, 2, 16, 32, False)


def quick_engine():
    engine = FakeEngine()
    engine.is_quick = True
    return engine


def test_a_quick_batch_holds_what_came_in_the_same_turn():
    """Running on the event loop keeps batching, order and limits."""

    async def scenario(batcher):
        engine = quick_engine()
        futures = [submit(batcher, engine, part(n))[0] for n in range(11)]
        answers = await asyncio.gather(*futures)
        assert [answer.outputs[0].item() for answer in answers] == [2 * n for n in range(11)]
        assert engine.batches == [8, 3]

    drive(scenario)


def test_a_quick_batch_that_fails_fails_exactly_its_rows(caplog):
    """The same promise without the thread: its own rows get a 500, a cancelled one stays cancelled, the next works."""

    async def scenario(batcher):
        engine = quick_engine()
        engine.fault = ValueError("secret detail")
        bad = submit(batcher, engine, part(1), part(2))
        bad[0].cancel()
        with pytest.raises(InternalError):
            await bad[1]
        engine.fault = None
        (good,) = submit(batcher, engine, part(4))
        assert (await good).outputs[0].item() == 8

    with caplog.at_level(logging.ERROR):
        drive(scenario)


def test_a_quick_engine_is_closed_behind_its_last_batch_too():
    """Swapping works the same whichever thread runs the batches."""

    async def scenario(batcher):
        old, new = quick_engine(), quick_engine()
        futures = submit(batcher, old, *[part(n) for n in range(20)])
        batcher.retire(old)
        assert not old.closed
        await asyncio.gather(*futures, *submit(batcher, new, part(1)))
        for _ in range(100):
            if old.closed:
                break
            await asyncio.sleep(0.01)
        assert old.closed
        assert not new.closed

    drive(scenario)
