"""Counts of several workers on a disk that is full, or fills up: answers go on, totals stay right, and it is said."""

import os
import re
import subprocess
import sys

import httpx
import pytest

from tests.server import ROOT, Server, wait_until
from tests.service.test_supervisor_faults import all_answer, answers, workers
from tests.training.test_failures import little_room

GROW = """
import os, sys
{limit}
from service.metrics import Metrics
counts = Metrics()
for number in range(1500):
    counts.request("/predict/digit", 200 + number, 0.01)
    counts.request("/predict/digit", 200, 0.01)
text = counts.render().decode()
assert 'neuroserve_request_seconds_count{{route="/predict/digit",status="200"}} 1501.0' in text
assert 'neuroserve_request_seconds_count{{route="/predict/digit",status="1699"}} 1.0' in text
other = os.fork()
if other == 0:  # another worker sees them too
    text = Metrics().render().decode()
    os._exit(('status="200"}} 1501.0' in text) is not {others_see})
print(os.waitpid(other, 0)[1], [line for line in text.splitlines() if line.startswith("neuroserve_metrics_in_memory")])
"""
LIMIT = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


def grown(folder, limit="", *, others_see=True):
    """What a process says that counts more than the folder holds."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", GROW.format(limit=limit, others_see=others_see)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout, done.stderr


def test_counts_that_outgrow_the_disk_go_on_in_memory_and_other_workers_see_them(tmp_path):
    """Room for the first pages only: no SIGBUS, not a count lost, one sentence, and a figure that tells."""
    with little_room(tmp_path / "full", 512 * 1024) as limits:
        told, said = grown(tmp_path / "full", limits and LIMIT.format(size=128 * 1024), others_see=not limits)
    assert re.fullmatch(r"0 \['neuroserve_metrics_in_memory [1-9]\.0'\]\n", told), told
    assert said.count("are kept in memory") == 1, said


def test_counts_stay_in_the_process_where_memory_files_are_refused_too(tmp_path):
    """With a limit on every file nothing can be shared, and a process still shows its own counts."""
    told, said = grown(tmp_path, LIMIT.format(size=4096), others_see=False)
    assert "in_memory 0.0" not in told
    assert said.count("are kept in memory") == 1, said


def test_with_room_everything_is_in_files(tmp_path):
    """The figure is zero on a disk with room."""
    told, said = grown(tmp_path)
    assert told == "0 ['neuroserve_metrics_in_memory 0.0']\n"
    assert "memory" not in said


@pytest.mark.slow
@pytest.mark.parametrize("full_at_start", [True, False], ids=["full at the start", "filled while it runs"])
def test_a_full_temporary_folder_ends_no_service(tmp_path, monkeypatch, full_at_start):
    """Answers go on, a killed worker is replaced, and all processes tell the same totals."""
    folder = tmp_path / "temporary"
    with little_room(folder, 2**20) as limits:
        if limits:
            pytest.fail("this test needs to mount a file system; run it as root")

        def fill():
            with (folder / "filler").open("wb", buffering=0) as stream:
                try:
                    while stream.write(b"x" * 4096):
                        pass
                except OSError:
                    pass

        monkeypatch.setenv("TMPDIR", str(folder))
        if full_at_start:
            fill()
        with Server(tmp_path / "state") as server:
            assert all_answer(server, 4)
            fill()
            for path in ("/", "/nothing", "/models", "/docs", "/health/live", "/train", "/metrics"):
                httpx.get(server.url + path, timeout=10)
            first = min(workers(server))
            os.kill(first, 9)
            wait_until(lambda: len(workers(server)) == 2 and first not in workers(server), 15)
            wait_until(lambda: all_answer(server, 8), 15)
            before = {read(server) for _ in range(6)}
            assert len(before) == 1, before
            assert [answers(server) for _ in range(5)] == [200] * 5
            assert read(server) == before.pop() + 5
            if not full_at_start:
                assert "are kept in memory. Make room there" in server.log
                assert re.search(r"\nneuroserve_metrics_in_memory [1-9]", httpx.get(f"{server.url}/metrics").text)
        assert server.process.returncode == 0


def read(server):
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    return float(re.search(r'request_seconds_count\{route="/predict/digit",status="200"\} (\S+)', text)[1])
