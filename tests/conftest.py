"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.server import Server

# Before torch is loaded: its waiting threads must not spin while tests share the cores with real services.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the data sets; a test that needs it fails without it."""
    value = os.environ.get("DATA_DIR", "var/data")
    path = Path(value)
    assert path.is_dir(), f"DATA_DIR={value} is no folder; run `make data`, or set DATA_DIR"
    return path


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """One service on the shipped models, without a trainer, for all tests that leave its state alone."""
    with Server(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for all tests that ask for one; each takes a database of its own."""
    with Postgres() as server:
        yield server
