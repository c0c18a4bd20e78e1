"""A service that tests kill piece by piece, a client that follows a job through it, and the diary of the trainings."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

import httpx
import psutil

from tests.server import ROOT, wait_until
from tests.workers import children

LAUNCH = """
import functools, sys
from service import trainer
from service.cli import main
trainer.EmbeddedWorker = functools.partial(trainer.EmbeddedWorker, command={command!r})
sys.exit(main(["serve"]))
"""
WORKER = "import sys; from training.worker import main; sys.exit(main(sys.argv[1:], (sys.executable, {child!r})))"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """`neuroserve serve` with its embedded worker, always on the same port, whose trainings run `child`."""

    def __init__(self, state: Path, child: Path, **settings: object) -> None:
        self.state, self.port = state, free_port()
        command = (sys.executable, "-c", WORKER.format(child=str(child)))
        self._command = [sys.executable, "-c", LAUNCH.format(command=command)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NEUROSERVE_")}
        self._environment = {
            **kept,
            "NEUROSERVE_STATE": str(state),
            "NEUROSERVE_PORT": str(self.port),
            "NEUROSERVE_WORKERS": "1",
            "NEUROSERVE_DRAIN_S": "0",
            "NEUROSERVE_DEVICE": "cpu",
            "NEUROSERVE_TRAINER": "embedded",
            "CHILD_PLAN": str(state / "plan.json"),
            **{f"NEUROSERVE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.log = state / "service.log"
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; it answers some time later."""
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stderr=stream, start_new_session=True
            )

    def __enter__(self) -> Self:
        self.start()
        self.client = httpx.Client(base_url=self.url, timeout=30)
        wait_until(self.answers, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def worker(self) -> psutil.Process | None:
        """The embedded worker, if it lives."""
        for process in psutil.Process(self.process.pid).children():
            try:
                if "--die-with" in process.cmdline():
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def kill(self, target: str, job_id: str) -> list[int]:
        """kill -9 of `child`, `worker`, `service` or `all` of them; the ids of the processes that were killed."""
        pids = []
        if target in {"child", "all"}:
            pids += children(job_id)
        if target in {"worker", "all"} and (worker := self.worker()) is not None:
            pids.append(worker.pid)
        if target in {"service", "all"}:
            pids.append(self.process.pid)
        if target == "all":
            pids += [process.pid for process in psutil.Process(self.process.pid).children()]
        pids = sorted(set(pids), key=lambda pid: pid != self.process.pid)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if target in {"service", "all"}:
            self.process.wait()
            wait_until(self._free, 20)
            self.start()
        return pids

    def _free(self) -> bool:
        """Whether the last HTTP worker of the killed service has let go of the port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0


class Entry(NamedTuple):
    """A line of the trainings' diary."""

    at: float
    job: str
    pid: int
    what: str
    epoch: int


def diary(state: Path, job_id: str) -> list[Entry]:
    """What the job's trainings did so far."""
    path = state / "diary"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [line.split() for line in lines]
    entries = [Entry(float(row[0]), row[1], int(row[2]), row[3], int(row[4]) if row[4:] else 0) for row in rows]
    return [entry for entry in entries if entry.job == job_id]


def repeated(entries: list[Entry]) -> int:
    """How many epochs were begun again; fails when one was that had been safe on disk."""
    safe: set[int] = set()
    begun: list[int] = []
    for entry in entries:
        if entry.what == "done":
            safe.add(entry.epoch)
        if entry.what == "epoch":
            assert entry.epoch not in safe, f"epoch {entry.epoch} was trained again though it was finished"
            assert entry.epoch == max(safe, default=0) + 1
            begun.append(entry.epoch)
    return len(begun) - len(set(begun))


class Follower(threading.Thread):
    """A client of one job's events that reconnects with `Last-Event-ID`, as a browser does, until `done`."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.events: list[tuple[int, str, dict]] = []
        self.lines = 0
        self.connections = 0
        self.start()

    def run(self) -> None:
        until = time.monotonic() + 500
        while time.monotonic() < until and not (self.events and self.events[-1][1] == "done"):
            last = {"Last-Event-ID": str(self.events[-1][0])} if self.events else {}
            try:
                with httpx.stream("GET", self.url, headers=last, timeout=30) as answer:
                    if answer.status_code != 200:
                        time.sleep(0.1)
                        continue
                    self.connections += 1
                    self._listen(answer)
            except httpx.TransportError:
                time.sleep(0.05)

    def _listen(self, answer: httpx.Response) -> None:
        name, data, place = "", "", 0
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data = value
            elif field == "id":
                place = int(value)
            elif not line and name:  # only a whole event counts: a cut one comes again
                self.events.append((place, name, json.loads(data)))
                name = ""
