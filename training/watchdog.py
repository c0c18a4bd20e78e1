"""Who works on the jobs, and who has died: each worker counts up in a row of its own; the others see it stop.

No clocks are compared: a worker is silent when its count has not changed for so long on the clock of the one who looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import sqlalchemy as sa

from models.database import IDLE_BEAT_S, is_sqlite, workers_table

SILENT_S = 20.0
LONGEST_BEAT_S = 2.0
_FORGET_AFTER = 5
"""A worker without jobs may be idle: its row goes after so many times the silence of a dead one, or three counts."""
_NEVER = -1  # the count of a worker that has no row

log = logging.getLogger("training.worker")


class Heartbeats:
    """The table of the workers' counts, in the job database at `url`. SQLAlchemyError while it cannot be reached."""

    def __init__(self, url: str) -> None:
        sqlite = is_sqlite(url)
        place = sa.make_url(url) if sqlite else sa.make_url(url).set(drivername="postgresql+psycopg")
        self._schema, name = workers_table(url)
        # A worker frozen in the middle of its count must not hold up those who look at it.
        bounds = {} if sqlite else {"options": "-c lock_timeout=3s -c idle_in_transaction_session_timeout=5s"}
        self._engine = sa.create_engine(place, pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=bounds)
        self._metadata = sa.MetaData(schema=self._schema)
        self._table = sa.Table(
            name, self._metadata, sa.Column("name", sa.Text, primary_key=True), sa.Column("beat", sa.BigInteger)
        )
        self._ready = False

    def beat(self, name: str) -> None:
        """Count the worker's row up; a new one begins."""
        table = self._table
        self._prepare()
        with self._engine.begin() as connection:
            counted = sa.update(table).where(table.c.name == name).values(beat=table.c.beat + 1)
            if connection.execute(counted).rowcount == 0:
                connection.execute(sa.insert(table).values(name=name, beat=0))

    def counts(self) -> dict[str, int]:
        """All workers' counts by name."""
        self._prepare()
        with self._engine.connect() as connection:
            return {row.name: row.beat for row in connection.execute(sa.select(self._table))}

    def forget(self, name: str, count: int | None = None) -> None:
        """Remove a worker's row, if it still stands at `count`."""
        gone = sa.delete(self._table).where(self._table.c.name == name)
        if count is not None:
            gone = gone.where(self._table.c.beat == count)
        with self._engine.begin() as connection:
            connection.execute(gone)

    def close(self) -> None:
        self._engine.dispose()

    def _prepare(self) -> None:
        if self._ready:
            return
        try:
            with self._engine.begin() as connection:
                if self._schema is not None:
                    connection.execute(sa.schema.CreateSchema(self._schema, if_not_exists=True))
                connection.execute(sa.schema.CreateTable(self._table, if_not_exists=True))
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
            # IF NOT EXISTS is no protection from another worker that does the same at the same time.
            if not sa.inspect(self._engine).has_table(self._table.name, self._schema):
                raise
        self._ready = True


class Silence:
    """Since when each worker's count stands still, on this process's own clock."""

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._seen: dict[str, tuple[int, float]] = {}
        self._last: float | None = None

    def look(self, counts: Mapping[str, int], at: float) -> set[str]:
        """The workers whose counts have not changed for `silent_s` seconds; `at` is a steady clock's time.

        After a pause of our own, frozen or without the database, nobody can be blamed: all begin anew.
        """
        if self._last is not None and at - self._last > self._silent_s / 2:
            self._seen.clear()
        self._last = at
        before, self._seen = self._seen, {}
        for name, count in counts.items():
            known = before.get(name)
            self._seen[name] = known if known is not None and known[0] == count else (count, at)
        return {name for name, (_, since) in self._seen.items() if at - since >= self._silent_s}

    def still_s(self, name: str, at: float) -> float:
        """Seconds for which the count of a worker has been seen to stand still."""
        return at - self._seen[name][1]


class Jobs(Protocol):
    """What the watchdog asks of the queue."""

    def holders(self) -> Iterable[str]:
        """Names of the workers that hold unfinished jobs."""

    def take_from(self, name: str) -> list[str]:
        """Put the jobs that this worker still holds back in the queue, each once whoever asks; their ids."""

    def drop_lost(self) -> None:
        """End what runs here of jobs that are no longer ours."""

    def give_back_idle(self) -> None:
        """Put back in the queue what is ours by its row and runs nowhere."""


class Watchdog:
    """A thread that counts for worker `name` and gives the jobs of silent ones back to the queue."""

    def __init__(self, heartbeats: Heartbeats, jobs: Jobs, name: str, silent_s: float = SILENT_S) -> None:
        self._heartbeats, self._jobs, self._name = heartbeats, jobs, name
        self._silence = Silence(silent_s)
        self._forget_after_s = max(_FORGET_AFTER * silent_s, 3 * IDLE_BEAT_S)
        self._beat_s = min(LONGEST_BEAT_S, silent_s / 10)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._trouble = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop counting; the row stays."""
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look(time.monotonic())
                self._trouble = False
            except Exception as exc:  # a watchdog that died would not be missed until it is needed
                if not self._trouble:
                    log.error("the job database does not answer the watchdog: %s", str(exc).partition("\n")[0])
                self._trouble = True
            self._stop.wait(self._beat_s)

    def look(self, at: float) -> None:
        """Count once, look at the others once; `at` is a steady clock's time."""
        self._heartbeats.beat(self._name)
        # An idle worker counts before it takes a job: who holds one here has counted by the time the counts are read.
        holders = set(self._jobs.holders())
        counts = self._heartbeats.counts()
        everyone = dict.fromkeys(holders, _NEVER) | counts
        everyone.pop(self._name, None)
        for name in self._silence.look(everyone, at):
            if name in holders:
                for job_id in self._jobs.take_from(name):
                    log.warning("worker %s is silent: job %s goes on elsewhere", name, job_id)
            elif self._silence.still_s(name, at) >= self._forget_after_s:
                self._heartbeats.forget(name, counts.get(name))
        self._jobs.drop_lost()
        self._jobs.give_back_idle()
