"""Whether a worker is there: told by counts that go up, on the clock of the one who looks."""

import time

import pytest

from models.database import IDLE_BEAT_S
from service import attendance
from service.attendance import Attendance
from service.settings import Settings


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def codes(found):
    return [each.code for each in found]


def test_without_any_worker_the_way_to_start_one_is_said(clock):
    """With the settings that both must share."""
    (said,) = Attendance(Settings(), "external").warnings({})
    assert "NEUROSERVE_STATE" in said.detail
    assert "NEUROSERVE_DATABASE_URL" not in said.detail
    (said,) = Attendance(Settings(database_url="postgresql://neuro@db/jobs"), "external").warnings({})
    assert "NEUROSERVE_DATABASE_URL" in said.detail


def test_a_worker_whose_count_stands_still_is_gone(clock):
    """One that was killed leaves its row; another that counts on is enough."""
    watch = Attendance(Settings(trainer_silent_s=150), "external")
    assert watch.warnings({"a": 5}) == [], "it may have counted a moment ago"
    clock[0] += 299
    assert watch.warnings({"a": 5}) == []
    clock[0] += 2
    assert codes(watch.warnings({"a": 5})) == ["no_worker"]
    assert watch.warnings({"a": 5, "b": 0}) == []
    clock[0] += 301
    assert codes(watch.warnings({"a": 5, "b": 0})) == ["no_worker"]
    assert watch.warnings({"a": 6}) == []


def test_an_idle_worker_that_counts_seldom_is_there(clock):
    """Its own times are not those after which a worker with a job counts as dead."""
    watch = Attendance(Settings(trainer_silent_s=2), "external")
    for count in range(5):
        assert watch.warnings({"a": count}) == []
        clock[0] += IDLE_BEAT_S + 5
        assert watch.warnings({"a": count}) == []


def test_the_services_own_worker_has_time_to_start(clock):
    """Then the log has the reason, and no other worker is asked for."""
    watch = Attendance(Settings(), "embedded")
    assert watch.warnings({}) == []
    clock[0] += attendance.STARTING_S
    (said,) = watch.warnings({})
    assert "log" in said.detail
