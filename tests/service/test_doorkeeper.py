"""The doorkeeper: who is let go, and who never is."""

from dataclasses import dataclass
from time import monotonic

from service.doorkeeper import Doorkeeper


@dataclass(eq=False)
class Visitor:
    waited_s: float
    is_receiving: bool = True
    told_s: float | None = None

    @property
    def waiting_since(self):
        return monotonic() - self.waited_s

    def time_out(self, limit_s):
        self.told_s = limit_s


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
