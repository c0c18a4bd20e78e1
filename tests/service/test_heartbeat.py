"""Heartbeats: who is silent, and who must not be blamed for it."""

import asyncio
import time

from service import heartbeat
from service.heartbeat import Beats, Patience, Pulse


def test_silence_is_counted_from_the_last_beat():
    """Who looks on time sees how long another has said nothing."""
    patience = Patience(1.0)
    for at in (100.0, 101.0, 102.0, 103.0):
        patience.look(at)
    assert patience.silent_s(last=101.5) == 1.5
    assert patience.silent_s(last=0.0) == 3.0


def test_who_was_stopped_himself_blames_nobody():
    """After a pause of the whole machine, or of the parent alone, everybody's silence begins anew."""
    patience = Patience(1.0)
    for at in (100.0, 101.0, 500.0):
        patience.look(at)
    assert patience.silent_s(last=101.0) == 0.0
    patience.look(501.0)
    assert patience.silent_s(last=101.0) == 1.0


def test_nobody_is_silent_before_the_first_look():
    """A start that takes long is no silence."""
    assert Patience(1.0).silent_s(last=0.0) == 0.0


def test_a_pulse_beats_while_work_runs_elsewhere_and_stops_while_the_loop_is_blocked(monkeypatch):
    """A long call on another thread leaves the loop free; a blocking call on the loop does not."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    beats = Beats(2)

    async def scenario():
        pulse = Pulse(asyncio.get_running_loop(), lambda: beats.beat(1))
        await asyncio.to_thread(time.sleep, 0.3)
        beside = time.monotonic() - beats.last(1)
        time.sleep(0.3)  # noqa: ASYNC251 (it is what must be noticed)
        blocked = time.monotonic() - beats.last(1)
        pulse.close()
        return beside, blocked

    beside, blocked = asyncio.run(scenario())
    assert beside < 0.2
    assert blocked >= 0.3
    assert beats.last(0) == 0.0
    beats.forget(1)
    assert beats.last(1) == 0.0
