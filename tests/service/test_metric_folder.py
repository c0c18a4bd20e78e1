"""The folder of the workers' counts: one a service, and none left by services that were killed."""

import signal
import subprocess
import sys
import tempfile

import pytest

from service import metric_folder
from tests.server import ROOT

HOLD = """
import sys
from pathlib import Path
from service import metric_folder
print(metric_folder.make_folder(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A temporary folder of the test's own, for this process and those it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def folders(place):
    return sorted(place.glob("neuroserve-metrics-*"))


def test_the_folder_of_a_killed_service_is_removed_by_the_next_one(place):
    """A service that runs out of memory again and again would fill the temporary folder."""
    command = [sys.executable, "-c", HOLD, str(place)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        left = other.stdout.readline().strip()
        beside = metric_folder.make_folder(place)
        assert [str(folder) for folder in folders(place)] == sorted([left, str(beside)])
        other.send_signal(signal.SIGKILL)
        other.wait()
    own = metric_folder.make_folder(place)
    assert folders(place) == sorted([beside, own])
    metric_folder.remove_folder(beside)
    metric_folder.remove_folder(own)
    assert folders(place) == []


def test_folders_that_are_not_a_dead_services_stay(place):
    """One of an older release has no lock, and a link may lead anywhere."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "service.lock").touch()
    (place / "neuroserve-metrics-link").symlink_to(elsewhere)
    (place / "neuroserve-metrics-old").mkdir()
    metric_folder.remove_folder(metric_folder.make_folder(place))
    assert [folder.name for folder in folders(place)] == ["neuroserve-metrics-link", "neuroserve-metrics-old"]
    assert (elsewhere / "service.lock").exists()
