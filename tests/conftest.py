"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.server import Server

# Before torch is loaded: its waiting threads must not spin while tests share the cores with real services.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as the packages do, for tests that load ONNX Runtime first

LONGEST_FIRST = ("test_kills", "test_failures", "test_worker", "test_topic", "test_watchdog", "test_playground_jobs")
"""Files whose tests take minutes: begun last, one of them would run on while nothing else is left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first, all others as they come."""
    items.sort(key=lambda item: LONGEST_FIRST.index(name) if (name := item.path.stem) in LONGEST_FIRST else 99)


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
