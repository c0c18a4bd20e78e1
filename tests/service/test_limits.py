"""What one key may take: the rate with its burst, the requests in hand, shared by all workers."""

import time

import pytest

from service.errors import Busy
from service.keys import Key, new_key
from service.limits import Limits, Shared
from service.settings import Settings

WEB, OPS = new_key("web", ["predict"])[1], new_key("ops", ["predict"])[1]


def enter_and_leave(limits, key):
    limits.leave(limits.enter(key))


def test_nothing_is_limited_by_default():
    """A key alone is no limit."""
    assert not Limits(Settings()).any


def test_a_rate_lets_a_seconds_worth_through_and_then_says_when(monkeypatch):
    """The burst, the refusal with its time, and the share that grows back."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limits = Limits(Settings(key_requests_per_s=20))
    for _ in range(20):
        enter_and_leave(limits, WEB)
    with pytest.raises(Busy, match="'web' has used up its 20 requests a second") as refused:
        limits.enter(WEB)
    assert (refused.value.code, refused.value.retry_after_s) == ("key_rate", 1)
    enter_and_leave(limits, OPS)
    now[0] += 0.1
    for _ in range(2):
        enter_and_leave(limits, WEB)
    with pytest.raises(Busy):
        limits.enter(WEB)


def test_a_rate_below_one_a_second_is_one_at_a_time(monkeypatch):
    """One request at once, the next when its time has come, and `Retry-After` tells it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limits = Limits(Settings(key_requests_per_s=0.1))
    enter_and_leave(limits, WEB)
    with pytest.raises(Busy) as refused:
        limits.enter(WEB)
    assert refused.value.retry_after_s == 10
    now[0] += 10
    enter_and_leave(limits, WEB)


def test_requests_in_hand_are_counted_over_all_workers():
    """Two workers share the limit of a key; a dead one's requests are forgotten."""
    shared = Shared(2)
    first, second = (Limits(Settings(key_concurrency=3), shared, worker) for worker in range(2))
    places = [first.enter(WEB), second.enter(WEB), second.enter(WEB)]
    with pytest.raises(Busy, match="3 requests in hand, the limit is 3") as refused:
        first.enter(WEB)
    assert refused.value.code == "key_concurrency"
    first.enter(OPS)
    first.leave(places[0])
    first.enter(WEB)
    shared.forget(1)
    first.enter(WEB)
    first.enter(WEB)
    with pytest.raises(Busy):
        second.enter(WEB)


def colliding(count):
    """Keys whose hashes begin alike, and lead to the same slot."""
    digests = [bytes([1, 2, 3, 4, *divmod(index, 256), 0, 0]) + WEB.digest[8:] for index in range(count)]
    return [Key(f"key-{index}", WEB.scopes, digest) for index, digest in enumerate(digests)]


def test_two_keys_never_share_a_limit():
    """However alike their hashes begin, each has its own count, in every worker."""
    shared = Shared(2)
    workers = [Limits(Settings(key_concurrency=1, key_requests_per_s=1), shared, worker) for worker in range(2)]
    keys = colliding(100)
    places = [workers[index % 2].enter(key) for index, key in enumerate(keys)]
    assert len({place // 2 for place in places}) == len(keys)
    for index, key in enumerate(keys):
        with pytest.raises(Busy, match=f"'key-{index}'"):
            workers[(index + 1) % 2].enter(key)


def test_keys_that_are_gone_leave_their_slots_to_others(monkeypatch):
    """A key file may be changed for ever; too many keys at the same moment are a refusal, not a shared limit."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limits = Limits(Settings(key_concurrency=1))
    keys = colliding(1000)
    for key in keys:
        enter_and_leave(limits, key)
    with pytest.raises(Busy) as refused:
        list(map(limits.enter, keys))
    assert refused.value.code == "too_many_keys"
    limited = Limits(Settings(key_requests_per_s=1))
    with pytest.raises(Busy):
        list(map(limited.enter, keys))
    now[0] += 5
    for key in keys[:50]:
        enter_and_leave(limited, key)
        with pytest.raises(Busy, match="used up"):
            limited.enter(key)
