"""Pauses between the starts of a process that keeps ending: none before the first new start, then longer and longer."""

from __future__ import annotations

LONGEST_S = 30.0
STEADY_S = 60.0


class Pauses:
    """Of one process. One that ran for `STEADY_S` seconds before it ended begins with no pause again."""

    def __init__(self) -> None:
        self.ends = 0

    def next(self, ran_s: float) -> float:
        """Seconds to wait before the next start, for a process that has just ended after `ran_s` seconds."""
        self.ends = 1 if ran_s > STEADY_S else self.ends + 1
        return 0.0 if self.ends == 1 else min(LONGEST_S, 2.0 ** (self.ends - 2))
