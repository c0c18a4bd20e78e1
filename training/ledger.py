"""What is recorded of a job that runs: its steps, its event stream, its snapshot and how often it was tried.

In a step a record is written as often as it takes; the engine refuses it once the job is another worker's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from models.jobs import EVENTS, SNAPSHOT, TRIES, JobEvent, Snapshot

AGAIN_S = 2.0

log = logging.getLogger("training.worker")
T = TypeVar("T")


class DbosLedger:
    """A job's record in DBOS: steps, the event stream and the snapshot of the workflow that runs."""

    def __init__(self, job_id: str) -> None:
        self._id, self._tries, self._stepping = job_id, 0, False

    async def step(self, name: str, work: Callable[[], Awaitable[Any]], *, preemptible: bool = True) -> Any:
        async def call() -> Any:
            self._stepping = True
            try:
                return await work()
            finally:
                self._stepping = False

        return await DBOS.run_step_async({"name": name, "preemptible": preemptible}, call)

    async def tell(self, event: JobEvent) -> None:
        await self._write(lambda: DBOS.write_stream_async(EVENTS, event.model_dump(mode="json")))

    async def save(self, snapshot: Snapshot) -> None:
        await self._write(lambda: DBOS.set_event_async(SNAPSHOT, snapshot.model_dump(mode="json")))

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write; in a step as often as it takes, or a full disk would be recorded as the step's own failure.

        Outside a step each call counts in the replay, so there the error goes up and the workflow begins again.
        """
        told = False
        while True:
            try:
                return await write()
            except SQLAlchemyError as exc:
                if not self._stepping:
                    raise
                if not told:
                    log.error("job %s waits for its database: %s", self._id, first_line(exc))
                told = True
                await asyncio.sleep(AGAIN_S)

    async def count_try(self) -> int:
        return await aside(lambda: self._note_try(1 + self._tries_so_far()))

    async def count_progress(self) -> None:
        if self._tries != 1:
            await aside(lambda: self._note_try(1))

    def _tries_so_far(self) -> int:
        row = DBOS.get_workflow_status(self._id)
        return int((row.attributes or {}).get(TRIES, 0)) if row is not None else 0

    def _note_try(self, tries: int) -> int:
        self._tries = tries
        DBOS.update_workflow_attributes(self._id, {TRIES: tries}, merge=True)
        return tries


async def aside(call: Callable[[], T]) -> T:
    """What `call` gives on a bare thread, outside the workflow: not recorded, so not replayed."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


def first_line(exc: BaseException) -> str:
    """The error without the statement and the values that follow it."""
    return str(exc).partition("\n")[0]
