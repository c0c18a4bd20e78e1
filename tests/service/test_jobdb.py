"""The service's side of the job database when no database is there."""

import time

import pytest

from service import jobdb
from tests.server import free_port


def test_a_server_that_is_not_there_is_asked_only_now_and_then(monkeypatch):
    """Every call fails with the same reason, but only one in a while tries to connect."""
    tried = []
    prepare = jobdb.prepare_database
    monkeypatch.setattr(jobdb, "prepare_database", lambda url: tried.append(url) or prepare(url))
    monkeypatch.setattr(jobdb, "AGAIN_S", 0.5)
    database = jobdb.JobDatabase(f"postgresql://neuro:secret@127.0.0.1:{free_port()}/jobs", 1)
    for _ in range(3):
        with pytest.raises(jobdb.DATABASE_ERRORS, match="Connection refused"):
            database.page(None, None, 1, None)
    assert len(tried) == 1
    time.sleep(0.5)
    with pytest.raises(jobdb.DATABASE_ERRORS):
        database.page(None, None, 1, None)
    assert len(tried) == 2
    database.close()
