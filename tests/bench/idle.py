"""What an idle service with its trainer costs: CPU time and bytes written, over all of its processes.

    python -m tests.bench.idle [--seconds 90]

Bars: 0.5 % of a core, and 20 kB in 90 s.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import psutil

from tests.server import Server

SETTLE_S = 15.0
"""What start-up leaves behind: the trainer's first report, the collector's last rounds."""


def usage(parent: int) -> dict[int, tuple[float, int]]:
    """CPU seconds and bytes written so far, by process id."""
    found = {}
    for process in [psutil.Process(parent), *psutil.Process(parent).children(recursive=True)]:
        tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        seconds = sum(int(task.read_text("ascii").split()[0]) for task in tasks) / 1e9
        found[process.pid] = seconds, process.io_counters().write_chars
    return found


def measure(parent: int, seconds: float) -> tuple[float, int]:
    """The share of a core and the bytes written in so many seconds by a process and its children."""
    before = usage(parent)
    time.sleep(seconds)
    after = usage(parent)
    if before.keys() != after.keys():
        raise RuntimeError("a process has come or gone")
    cpu = sum(after[pid][0] - before[pid][0] for pid in after)
    return cpu / seconds, sum(after[pid][1] - before[pid][1] for pid in after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), trainer="embedded") as server:
        time.sleep(SETTLE_S)
        share, written = measure(server.process.pid, seconds)
    print(f"{100 * share:.2f} % of a core, {written / 1000:.1f} kB written in {seconds:g} s")


if __name__ == "__main__":
    main()
