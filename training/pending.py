"""Whether the job database holds unfinished jobs, asked so cheaply that an idle worker can ask twice a second."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from dbos import DBOSClient, DBOSPortableJSONSerializer

from models.database import is_sqlite
from models.jobs import APPLICATION, WORKFLOW

_SQLITE = "sqlite:///"
_UNFINISHED = ["ENQUEUED", "DELAYED", "PENDING"]


class Pending:
    """The jobs at `url` that have not ended, whoever holds them. SQLAlchemyError, sqlite3.Error or OSError from `any`.

    A SQLite file tells by a counter of its own (`PRAGMA data_version`) whether another connection has written to it
    since the last question; only then is it read. A server is asked each time.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: DBOSClient | None = None
        self._counter: sqlite3.Connection | None = None
        self._seen: tuple[int, bool] | None = None
        self.look_every_s = 0.5 if is_sqlite(url) else 1.0

    def any(self) -> bool:
        """Whether there is an unfinished job."""
        version = self._version()
        if version is not None and self._seen is not None and self._seen[0] == version:
            return self._seen[1]
        found = bool(
            self._connected().list_workflows(
                name=WORKFLOW, status=_UNFINISHED, limit=1, load_input=False, load_output=False
            )
        )
        self._seen = None if version is None else (version, found)
        return found

    def close(self) -> None:
        """Give up the connections; the next question opens new ones."""
        client, counter, self._client, self._counter, self._seen = self._client, self._counter, None, None, None
        with contextlib.suppress(sqlite3.Error):
            if counter is not None:
                counter.close()
        if client is not None:
            client.destroy()

    def _version(self) -> int | None:
        if not is_sqlite(self._url):
            return None
        if self._counter is None:
            path = Path(self._url.removeprefix(_SQLITE))
            self._counter = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        version: int = self._counter.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _connected(self) -> DBOSClient:
        if self._client is None:
            self._client = DBOSClient(
                system_database_url=self._url,
                serializer=DBOSPortableJSONSerializer(),
                application_name=APPLICATION,
                system_database_pool_size=1,
                system_database_polling_concurrency=0,
                retry_connection_errors=False,
            )
        return self._client
