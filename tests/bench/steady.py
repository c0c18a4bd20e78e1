"""Latency at a steady rate of requests: alone, beside a training job, and during hot swaps; and memory after swaps.

An open loop: a request is sent when its time has come, whether or not the ones before were answered, and its latency
counts from then. The three phases take turns in each round. Needs MNIST in DATA_DIR and a quiet machine.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from models.store import Store
from service.settings import ZOO
from tests.bench import bodies

MODEL = "digit-cnn"
LINES = 32


class Line:
    """One keep-alive connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> int:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        await self.reader.readexactly(length)
        return int(head[9:12])


async def steady(port: int, requests: list[bytes], rate: float, seconds: float) -> dict[str, float]:
    """Latency in ms at `rate` requests a second, and how many were not answered with 200."""
    free: asyncio.Queue[Line] = asyncio.Queue()
    for _ in range(LINES):
        free.put_nowait(Line(*await asyncio.open_connection("127.0.0.1", port)))
    taken, failures, tasks = [], 0, set()
    begin = time.perf_counter()

    async def one(due: float, request: bytes) -> None:
        nonlocal failures
        line = await free.get()
        failures += await line.ask(request) != 200
        taken.append((time.perf_counter() - due) * 1000)
        free.put_nowait(line)

    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(due, requests[number % len(requests)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait().writer.close()
    p50, p99, p999 = np.percentile(taken, [50, 99, 99.9])
    return {"p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "failures": failures, "answered": len(taken)}


class Service:
    """Ours, with its trainer, on a fresh state folder that holds a second copy of the model's version."""

    def __init__(self, port: int, state: Path, workers: int) -> None:
        self.port, self.store = port, Store(state / "models")
        self.store.seed(Store(ZOO))
        version = self.store.live(MODEL)
        if version is None:
            raise SystemExit(f"the zoo has no {MODEL}")
        staged = self.store.stage()
        shutil.copytree(self.store.folder(MODEL, version), staged, dirs_exist_ok=True)
        self.versions = [version, self.store.publish(staged, self.store.manifest(MODEL, version)).version]
        environment = {
            "NEUROSERVE_PORT": str(port),
            "NEUROSERVE_STATE": str(state),
            "NEUROSERVE_WORKERS": str(workers),
            "NEUROSERVE_TRAINER": "embedded",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while True:
            try:
                self.ask("/health/ready")
            except OSError:
                time.sleep(0.05)
            else:
                break

    def ask(self, path: str, body: dict | None = None, method: str | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def wait(self, job: str, test: Callable[[dict], object]) -> None:
        """Until the state of a job passes the test."""
        while not test(self.ask(f"/train/{job}")):
            time.sleep(0.2)

    def servers(self) -> list[psutil.Process]:
        """The HTTP processes, without the trainer."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "training" not in " ".join(child.cmdline())]

    def rss_mb(self) -> float:
        return sum(child.memory_info().rss for child in self.servers()) / 1e6

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(60)


async def swapping(service: Service, times: int, seconds: float) -> None:
    """So many hot swaps, evenly over the time."""
    for number in range(times):
        wanted = service.versions[(number + 1) % 2]
        await asyncio.to_thread(service.ask, f"/models/{MODEL}/promote", {"version": wanted})
        await asyncio.sleep(seconds / times)


async def phases(service: Service, requests: list[bytes], options: argparse.Namespace) -> list[dict]:
    rows = []
    await steady(service.port, requests, options.rate, 2)
    for number in range(options.rounds):
        for phase in ("alone", "training", "swapping"):
            job, swaps = None, None
            if phase == "training":
                order = {"task": "digit", "epochs": 50, "promote": "manual"}
                job = (await asyncio.to_thread(service.ask, "/train", order))["id"]
                await asyncio.to_thread(service.wait, job, lambda state: state["progress"])
                await asyncio.sleep(3)
            if phase == "swapping":
                swaps = asyncio.create_task(swapping(service, options.swaps, options.seconds))
            row = {"round": number, "phase": phase}
            row |= await steady(service.port, requests, options.rate, options.seconds)
            if swaps is not None:
                await swaps
            if job is not None:
                await asyncio.to_thread(service.ask, f"/train/{job}", None, "DELETE")
                await asyncio.to_thread(service.wait, job, lambda state: state["status"] == "cancelled")
                await asyncio.sleep(1)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


async def memory(service: Service, requests: list[bytes], options: argparse.Namespace) -> dict:
    """Resident memory of the HTTP processes before and after 50 swaps under load; the first swaps warm up."""
    await asyncio.gather(steady(service.port, requests, options.rate, 5), swapping(service, 5, 4))
    before = service.rss_mb()
    await asyncio.gather(steady(service.port, requests, options.rate, 25), swapping(service, 50, 20))
    return {"rss_before_mb": before, "rss_after_mb": service.rss_mb()}


def table(rows: list[dict], grown: dict) -> str:
    """Markdown: medians over the rounds, and the ratio to the phase alone in the same round."""
    alone = {row["round"]: row["p99_ms"] for row in rows if row["phase"] == "alone"}
    lines = ["| phase | p50 ms | p99 ms | p99 x alone | p99.9 ms | failures |", "|" + "---|" * 6]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        mine = [row for row in rows if row["phase"] == phase]
        p50, p99, p999 = (statistics.median(row[key] for row in mine) for key in ("p50_ms", "p99_ms", "p999_ms"))
        ratio = statistics.median(row["p99_ms"] / alone[row["round"]] for row in mine)
        failures = sum(row["failures"] for row in mine)
        lines.append(f"| {phase} | {p50:.2f} | {p99:.2f} | {ratio:.2f} | {p999:.2f} | {failures} |")
    before, after = grown["rss_before_mb"], grown["rss_after_mb"]
    return "\n".join([*lines, "", f"RSS before and after 50 hot swaps: {before:.0f}, {after:.0f} MB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=9500)
    parser.add_argument("--json", type=Path, help="write every row here")
    options = parser.parse_args()
    pictures = [bodies.png(pixels) for pixels in bodies.digits(Path(os.environ.get("DATA_DIR", "var/data")))]
    head = "POST /predict/digit HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
    requests = [head.format(len(picture)).encode() + picture for picture in pictures]
    with tempfile.TemporaryDirectory() as state:
        service = Service(options.port, Path(state), options.workers)
        try:
            rows = asyncio.run(phases(service, requests, options))
            grown = asyncio.run(memory(service, requests, options))
        finally:
            service.stop()
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, **grown}, indent=1) + "\n")
    print(table(rows, grown))


if __name__ == "__main__":
    main()
