"""Where the job database is: one SQLite file, or PostgreSQL. Both wings read the same address in the same way."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgresql+psycopg://", "postgres://")
_PATIENCE = {
    "connect_timeout": 5,  # seconds
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,  # milliseconds
}
"""So that a server that vanished without a word is missed soon, and not after the system's quarter of an hour."""


def is_sqlite(url: str) -> bool:
    """Whether the address is a file of this machine."""
    return url.startswith(_SQLITE)


def address(url: str) -> str:
    """The address to connect to: for PostgreSQL with bounded waiting, unless the URL says otherwise.

    ValueError with a sentence for an address that no database of ours has.
    """
    if is_sqlite(url):
        return url
    rest = url.partition("://")[2]
    if not url.startswith(_POSTGRES) or not urlsplit(url).path.strip("/"):
        raise ValueError(
            f"{shown(url)} is no job database: give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        )
    known = parse_qs(urlsplit(url).query)
    added = [f"{name}={value}" for name, value in _PATIENCE.items() if name not in known]
    return f"postgresql://{rest}" + ("&" if known else "?") * bool(added) + "&".join(added)


def shown(url: str) -> str:
    """The address without its password and its options."""
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place.partition('?')[0]}"


IDLE_BEAT_S = 90.0
"""A worker that waits for jobs holds none that could be lost. Each count writes a page of 4 kB to a SQLite file."""


def workers_table(url: str) -> tuple[str | None, str]:
    """Schema and name of the table in which each training worker has a row while it runs."""
    return (None, "neuroserve_workers") if is_sqlite(url) else ("neuroserve", "workers")


def has_rows(url: str, table: str) -> bool:
    """Whether a SQLite file is there and has such a table with something in it; makes and changes nothing."""
    path = Path(url.removeprefix(_SQLITE))
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None  # noqa: S608
    except sqlite3.Error:
        return False


def prepare_file(url: str) -> None:
    """Make a SQLite file, in the mode in which readers and the writer do not block each other; nothing for a server."""
    if is_sqlite(url):
        path = Path(url.removeprefix(_SQLITE))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # kept in the file


def add_missing_functions(connection: Any, _record: object = None) -> None:
    """Give a new connection to an SQLite older than 3.42 the clock in milliseconds that the job engine asks it for.

    On Python 3.12 and newer the engine calls `unixepoch('subsec')`, which older versions (Debian 12 has 3.40) answer
    with NULL. Connections to other databases and to newer versions are left alone.
    """
    if isinstance(connection, sqlite3.Connection) and sqlite3.sqlite_version_info < (3, 42):
        connection.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(modifier: object) -> float | None:
    """The seconds since 1970 for `subsec`; NULL for any other argument, as the engine uses none."""
    return time.time() if modifier == "subsec" else None
