"""Whether any training worker is there to take a job, and what a client is told when none is."""

from __future__ import annotations

import time
from collections.abc import Mapping

from models.database import IDLE_BEAT_S, is_sqlite
from models.jobs import JobWarning
from service.settings import Settings

NO_WORKER = "no_worker"
STARTING_S = 60.0
"""So long the worker that the service itself starts may take until it is heard of."""


class Attendance:
    """Looks at the counts that workers keep up in the job database, on its own clock. For one thread at a time."""

    def __init__(self, settings: Settings, trainer: str) -> None:
        self._embedded = trainer == "embedded"
        self._shares_database = not is_sqlite(settings.jobs_url)
        # An idle worker counts seldom; this is a hint, and must not be a wrong one.
        self._silent_s = max(2 * settings.trainer_silent_s, 3 * IDLE_BEAT_S)
        self._began = time.monotonic()
        self._seen: dict[str, tuple[int, float]] = {}

    def warnings(self, counts: Mapping[str, int]) -> list[JobWarning]:
        """What to say of a waiting job when these are the workers' counts now."""
        now = time.monotonic()
        before, self._seen = self._seen, {}
        for name, count in counts.items():
            known = before.get(name)
            self._seen[name] = known if known is not None and known[0] == count else (count, now)
        if any(now - since < self._silent_s for _, since in self._seen.values()):
            return []
        if self._embedded:
            starting = now - self._began < STARTING_S
            return [] if starting else [JobWarning(code=NO_WORKER, detail=_EMBEDDED)]
        where = "NEUROSERVE_DATABASE_URL and NEUROSERVE_STATE" if self._shares_database else "NEUROSERVE_STATE"
        detail = (
            "No training worker is running, so the job waits until one is. Start one with the command "
            f"`python -m training worker` and the same {where}."
        )
        return [JobWarning(code=NO_WORKER, detail=detail)]


_EMBEDDED = "The training worker of this service does not run, so the job waits. The service's log has the reason."
