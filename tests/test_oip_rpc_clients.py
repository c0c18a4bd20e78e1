"""Clients that are not ours against a running service, over gRPC: Triton's, new and old, and perf_analyzer."""

import os
import re
import sys

import pytest

from tests.server import ROOT, Server
from tests.service.rpc import address
from tests.test_oip_clients import answered, found_by, run, triton  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow

NAMES = ["health", "metadata", "defaults", "version_id_and_parameters", "every_datatype", "wrong_requests",
         "compression", "classification", "many_at_once", "stream", "statistics", "what_is_not_offered",
         "asyncio"]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("rpc"), grpc_port=0) as server:
        yield server


@pytest.fixture(scope="module", params=["today's", "2.48.0"])
def told(request, server, triton):  # noqa: F811
    """What the checks of `tests/triton_rpc_checks.py` found with one version of the client, and its own protobuf."""
    folders = [triton / "protobuf", *([triton / "client"] if request.param == "2.48.0" else [])]
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    done = run([sys.executable, "-m", "tests.triton_rpc_checks", address(server)], cwd=ROOT, env=environment)
    return found_by(done, NAMES, request.param)


@pytest.mark.parametrize("name", NAMES)
def test_tritons_python_client_works_over_grpc(told, name):
    """Each check of `tests/triton_rpc_checks.py`."""
    assert told[name] is None, told[name]


@pytest.mark.parametrize("how", ["1", "8", "32", "8 --async --streaming"])
def test_perf_analyzer_measures_over_grpc_without_an_error(server, triton, how):  # noqa: F811
    """With its defaults, but that windows are short and that noise of the machine is no failure."""
    command = [triton / "perf_analyzer", "-m", "digit-cnn", "-i", "grpc", "-u", address(server)]
    command += ["--concurrency-range", *how.split(), "-p", "2000", "-s", "999"]
    before = answered(server)
    done = run(command, cwd=triton)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not re.search(r"error|fail", done.stdout + done.stderr, re.IGNORECASE), done.stdout + done.stderr
    counted = int(re.search(r"Client:\s+Request count: (\d+)", done.stdout).group(1))
    assert float(re.search(r"Throughput: ([\d.]+) infer/sec", done.stdout).group(1)) > 0
    assert int(re.search(r"Server:\s+Inference count: (\d+)", done.stdout).group(1)) >= counted * 0.9
    assert answered(server) >= before + counted > before
