"""The job database's address: bounded waiting, no password in the log, a refusal with a sentence."""

import sqlite3

import pytest

from models.database import address, is_sqlite, prepare_file, shown


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
