"""The job database's address: bounded waiting, no password in the log, a refusal with a sentence."""

import contextlib
import sqlite3
import subprocess
import sys
import time

import pytest

from models.database import add_missing_functions, address, is_sqlite, prepare_file, shown


def test_a_server_is_waited_for_only_so_long(tmp_path):
    """The options that bound waiting are added, but not over those that the URL has; the rest stays as it is."""
    plain = address("postgresql://neuro:p%40ss@db:5433/jobs")
    assert plain.startswith("postgresql://neuro:p%40ss@db:5433/jobs?")
    assert "connect_timeout=5&" in plain
    assert "tcp_user_timeout=" in plain
    own = address("postgres://neuro:p@db/jobs?connect_timeout=60&sslmode=require")
    assert own.startswith("postgresql://neuro:p@db/jobs?connect_timeout=60&sslmode=require&")
    assert own.count("connect_timeout") == 1
    assert address(plain) == plain
    assert address("sqlite:////var/jobs.sqlite") == "sqlite:////var/jobs.sqlite"


@pytest.mark.parametrize("url", ["mysql://neuro:secret@db/jobs", "postgresql://neuro:secret@db", "jobs.sqlite", ""])
def test_what_is_no_job_database_is_refused_without_its_password(url):
    """The sentence says what to give."""
    with pytest.raises(ValueError, match="give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME") as caught:
        address(url)
    assert "secret" not in str(caught.value)


def test_an_address_is_shown_without_password_and_options():
    """Whatever signs the password has."""
    assert shown("postgresql://neuro:p@ss:w@db:5433/jobs?sslmode=require") == "postgresql://neuro@db:5433/jobs"
    assert shown("postgresql://db/jobs") == "postgresql://db/jobs"
    assert shown("sqlite:////var/jobs.sqlite") == "sqlite:////var/jobs.sqlite"


def test_a_sqlite_file_is_made_with_its_folders(tmp_path):
    """In write-ahead mode, which stays with the file; a server's address makes nothing."""
    file = tmp_path / "state" / "jobs.sqlite"
    prepare_file(f"sqlite:///{file}")
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    prepare_file("postgresql://neuro@db/jobs")
    assert is_sqlite(f"sqlite:///{file}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_an_sqlite_before_3_42_learns_the_clock_that_the_job_engine_asks_for():
    """Debian 12's library answers `unixepoch('subsec')` with NULL; columns that default to it must not stay empty."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        add_missing_functions(connection)
        connection.execute("CREATE TABLE jobs (id TEXT, at INTEGER NOT NULL DEFAULT (unixepoch('subsec') * 1000))")
        connection.execute("INSERT INTO jobs (id) VALUES ('one')")
        (at,) = connection.execute("SELECT CAST(at AS BIGINT) FROM jobs").fetchone()
        assert abs(at - time.time() * 1000) < 5_000


def test_a_connection_to_another_database_is_left_alone():
    """PostgreSQL's driver has its own functions."""
    add_missing_functions(object())


AS_ON_PYTHON_3_13 = """
import dbos, sys
from models.jobs import JobSpec
from service import jobview
for name in [name for name in sys.modules if name.partition(".")[0] == "dbos"]:
    del sys.modules[name]  # all that it stands on stays loaded, and does not see the other version
sys.version_info = (3, 13, 0, "final", 0)
from dbos._migration import get_sqlite_timestamp_expr
assert "subsec" in get_sqlite_timestamp_expr()
from service.jobdb import JobDatabase
spec = JobSpec(task="digit", network="mlp", epochs=1, batch_size=128, learning_rate=0.001, seed=0)
database = JobDatabase(f"sqlite:///{sys.argv[1]}", 4)
job = database.submit(spec, None)
print(job.status, len(database.page(None, None, 5, None)[0]), job.created_at.year >= 2026)
database.close()
"""


def test_the_job_database_works_with_what_the_engine_asks_of_sqlite_from_python_3_12_on(tmp_path):
    """Its tables are made, filled and read, whatever version of SQLite is here."""
    command = [sys.executable, "-c", AS_ON_PYTHON_3_13, str(tmp_path / "jobs.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["queued", "1", "True"], done.stderr
