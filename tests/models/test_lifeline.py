"""A process that is tied to its parent ends with it, and only with it."""

import subprocess
import sys
import textwrap

from tests.server import ROOT, wait_until

CHILD = """
import os, signal, sys, time
from models.lifeline import signal_when_parent_dies
signal_when_parent_dies(int(sys.argv[1]) or os.getppid(), signal.SIGTERM)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_process_whose_parent_is_gone_already_ends_at_once():
    """Another parent than the one that started it means that one died before the tie was made."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "999999"], cwd=ROOT, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == -15
    assert done.stdout == b""


def test_a_process_lives_as_long_as_its_parent_and_no_longer():
    """The tie itself ends nothing; the parent's end does."""
    parent = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, "0"], stdout=subprocess.PIPE)
        print(child.stdout.readline().decode(), flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(parent)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.stdin.close()
        process.wait(10)
    wait_until(lambda: not alive(pid), 10)


def alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
