"""The doorkeeper: who is let go, and who never is."""

from dataclasses import dataclass
from time import monotonic

from service.doorkeeper import RPC_SHARE, Doorkeeper, most_connections


@dataclass(eq=False)
class Visitor:
    waited_s: float
    is_receiving: bool = True
    is_idle: bool = False
    takes_nothing: bool = False
    told_s: float | None = None
    closed: str = ""

    @property
    def waiting_since(self):
        return monotonic() - self.waited_s

    def time_out(self, limit_s):
        self.told_s = limit_s

    def close_idle(self):
        self.closed = "idle"

    def is_stuck(self, now, limit_s):
        return self.takes_nothing

    def abort(self):
        self.closed = "aborted"


def test_who_does_not_send_a_request_in_time_is_let_go():
    """A client that waits for its answer may wait as long as that takes."""
    slow, quick, served = Visitor(31), Visitor(5), Visitor(100, is_receiving=False)
    Doorkeeper([slow, quick, served], 30).look()
    assert (slow.told_s, quick.told_s, served.told_s) == (30, None, None)


def test_when_it_is_full_the_oldest_that_only_wait_make_room():
    """As many as are too many, the longest waiting first; a request in hand is never cut off."""
    visitors = [Visitor(waited_s) for waited_s in range(10)]
    served = [Visitor(100, is_receiving=False) for _ in range(5)]
    Doorkeeper([*visitors, *served], 30, most=12).look()
    assert [visitor.told_s for visitor in visitors] == [None] * 7 + [30] * 3
    assert all(visitor.told_s is None for visitor in served)


def test_between_requests_the_keep_alive_time_counts():
    """Longer than the time for a request, as proxies keep their connections."""
    over, within = (Visitor(waited_s, is_receiving=False, is_idle=True) for waited_s in (76, 74))
    Doorkeeper([over, within], 30, keep_alive_s=75).look()
    assert (over.closed, within.closed, over.told_s) == ("idle", "", None)


def test_when_it_is_full_idle_connections_make_room_too():
    """Whoever waits longest, for a first request or for a further one."""
    idle = [Visitor(waited_s, is_receiving=False, is_idle=True) for waited_s in (20, 8)]
    fresh = [Visitor(waited_s) for waited_s in (10, 5)]
    Doorkeeper([*idle, *fresh], 30, most=2).look()
    assert [visitor.closed for visitor in idle] == ["idle", ""]
    assert [visitor.told_s for visitor in fresh] == [30, None]


def test_who_takes_nothing_of_an_answer_is_dropped():
    """Whether it has a request in hand or not."""
    stuck = Visitor(1, is_receiving=False, takes_nothing=True)
    Doorkeeper([stuck], 30).look()
    assert stuck.closed == "aborted"


def test_both_kinds_of_connections_share_what_there_is(monkeypatch):
    """A flood of one kind leaves files for the other, and for models."""
    monkeypatch.setattr("service.doorkeeper._open_files", lambda: 2256)
    assert (most_connections(RPC_SHARE), most_connections(1 - RPC_SHARE), most_connections()) == (500, 1500, 2000)
