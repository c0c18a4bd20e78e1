"""Clients that are not ours against a running service: Triton's Python client, new and old, and its perf_analyzer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT

pytestmark = pytest.mark.slow

NAMES = ["health", "metadata", "defaults", "both_binary_flags", "version_id_and_parameters", "every_datatype",
         "wrong_requests", "compression", "classification", "many_at_once", "statistics", "what_is_not_offered",
         "asyncio"]  # fmt: skip


@pytest.fixture(scope="module")
def triton() -> Path:
    """The folder of Triton's client 2.48.0 and its perf_analyzer; only outside CI a test may do without."""
    folder = ROOT / "var" / "triton"
    fetched = run(["sh", "tests/fetch_triton_client.sh", folder, sys.executable], cwd=ROOT)
    if fetched.returncode and not os.environ.get("CI"):
        pytest.skip(f"tests/fetch_triton_client.sh cannot fetch Triton's client: {fetched.stderr.strip()[-300:]}")
    assert fetched.returncode == 0, fetched.stderr
    return folder


def found_by(done, names, version):
    """What a program of checks told, once it is certain that it ran them all with that version of the client."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == {"client", *names}
    assert ("var/triton" in found["client"]) == (version == "2.48.0")
    return found


@pytest.fixture(scope="module", params=["today's", "2.48.0"])
def told(request, service):
    """What the checks of `tests/triton_checks.py` found with one version of the client."""
    environment = dict(os.environ)
    if request.param == "2.48.0":
        environment["PYTHONPATH"] = str(request.getfixturevalue("triton") / "client")
    command = [sys.executable, "-m", "tests.triton_checks", service.url.removeprefix("http://")]
    done = run(command, cwd=ROOT, env=environment)
    return found_by(done, NAMES, request.param)


@pytest.mark.parametrize("name", NAMES)
def test_tritons_python_client_works(told, name):
    """Each check of `tests/triton_checks.py`."""
    assert told[name] is None, told[name]


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_perf_analyzer_measures_without_an_error(service, triton, concurrency):
    """With its defaults, but that windows are short and that noise of the machine is no failure."""
    command = [triton / "perf_analyzer", "-m", "digit-cnn", "-u", service.url.removeprefix("http://")]
    command += ["--concurrency-range", str(concurrency), "-p", "2000", "-s", "999"]
    before = answered(service)
    done = run(command, cwd=triton)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"error|fail", done.stdout + done.stderr, re.IGNORECASE), done.stdout + done.stderr
    counted = int(re.search(r"Client:\s+Request count: (\d+)", done.stdout).group(1))
    assert float(re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout).group(1)) > 0
    assert int(re.search(r"Server:\s+Inference count: (\d+)", done.stdout).group(1)) >= counted * 0.9
    assert answered(service) >= before + counted > before


def run(command, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def answered(service) -> int:
    (told,) = service.client.get("/v2/models/digit-cnn/stats").json()["model_stats"]
    return told["inference_count"]
