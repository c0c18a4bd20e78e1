"""One model under load in its service: from inside the batcher, over HTTP, and while its versions are swapped."""

import asyncio
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.store import Store
from service.batch import Part
from service.batcher import Batcher
from service.engine import Engine, Tensors
from service.settings import ZOO
from tests.bench import bodies
from tests.bench.steady import Line, steady
from tests.server import Server

CLIENTS = max(1, min(8, (os.cpu_count() or 2) - 1))
WAITING = 256
"""Callers that wait at the batcher at any time: four full batches."""


def batched(engine: Engine, rows: list[tuple[Tensors, int]], at_once: int, seconds: float) -> float:
    """Rows a second through a batcher of one's own, from 256 callers of one row, or fewer of `at_once` rows each."""

    async def all_callers() -> float:
        batcher = Batcher(engine.name, max_queue_rows=8 * WAITING, max_batch_rows=max(64, at_once))
        done = 0
        until = time.perf_counter() + seconds

        async def caller(number: int) -> None:
            nonlocal done
            while time.perf_counter() < until:
                inputs, length = rows[number % len(rows)]
                part = Part(
                    {name: np.repeat(array, at_once, axis=0) for name, array in inputs.items()}, at_once, length
                )
                await asyncio.gather(*batcher.submit(engine, [part], timeout_s=60))
                done += at_once
                number += 1

        began = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(max(2, WAITING // at_once))))
        taken = time.perf_counter() - began
        await batcher.close()
        return done / taken

    return asyncio.run(all_callers())


def requests_for(model: str, at_once: int, data_dir: Path) -> list[bytes]:
    """Whole HTTP requests that carry `at_once` items each."""
    pictures = model.startswith("digit")
    path = "/predict/digit" if pictures else "/predict/sequence"
    read = bodies.digits if pictures else bodies.texts if model.startswith("topic") else bodies.weeks
    items = list(read(data_dir))
    if at_once > 1:
        path += "/batch"
        turned = [[*items[turn:], *items[:turn]][:at_once] for turn in range(0, bodies.COUNT, 8)]
        sent = [bodies.batch("pixels" if pictures else "inputs", each) for each in turned]
    elif pictures:
        sent = [bodies.encode("raw", item) for item in items]
    else:
        sent = [(json.dumps(item).encode(), "application/json") for item in items]
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {{}}\r\nContent-Length: {{}}\r\n\r\n"
    return [head.format(content_type, len(body)).encode() + body for body, content_type in sent]


class Driven(NamedTuple):
    """What one client process saw: latencies in ms, answers that were not 200, seconds it took."""

    latencies_ms: list[float]
    failures: int
    seconds: float


async def _closed_loop(port: int, requests: list[bytes], connections: int, seconds: float) -> Driven:
    """Each connection sends its next request when it has its answer."""
    taken: list[float] = []
    failures = 0
    start = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal failures
        line = Line(*await asyncio.open_connection("127.0.0.1", port))
        while (began := time.perf_counter()) < start + seconds:
            failures += await line.ask(requests[number % len(requests)]) != 200
            taken.append((time.perf_counter() - began) * 1000)
            number += 1
        line.writer.close()

    await asyncio.gather(*(one(number) for number in range(connections)))
    return Driven(taken, failures, time.perf_counter() - start)


def drive(port: int, requests: list[bytes], connections: int, seconds: float) -> Driven:
    return asyncio.run(_closed_loop(port, requests, connections, seconds))


@contextmanager
def client_processes(count: int) -> Iterator[Executor]:
    """Started processes for `over_http`, so that the client is not the limit."""
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        list(pool.map(drive, [0] * count, [[]] * count, [0] * count, [0] * count))
        yield pool


def over_http(pool: Executor, port: int, requests: list[bytes], *, rows: int, connections: int, seconds: float) -> dict:
    """Rows a second and latency, from as many client processes as can share the connections."""
    clients = max(1, min(CLIENTS, connections))
    shares = [connections // clients + (number < connections % clients) for number in range(clients)]
    runs = [pool.submit(drive, port, requests, share, seconds) for share in shares]
    results = [run.result() for run in runs]
    taken = [each for result in results for each in result.latencies_ms]
    p50, p99 = np.percentile(taken, [50, 99])
    failures = sum(result.failures for result in results)
    return {
        "connections": connections,
        "rows_per_s": (len(taken) - failures) * rows / max(result.seconds for result in results),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "failures": failures,
    }


class Swapped:
    """A running service whose store holds a second copy of one model's version, to swap to and fro."""

    def __init__(self, server: Server, model: str, versions: list[int]) -> None:
        self.server, self.model, self.versions = server, model, versions
        self._turn = 0

    @staticmethod
    def prepare(state: Path, model: str) -> list[int]:
        """Both versions' numbers, in a store that is filled before the service starts."""
        store = Store(state / "models")
        store.seed(Store(ZOO))
        version = store.live(model)
        if version is None:
            raise SystemExit(f"the zoo has no {model}")
        staged = store.stage()
        shutil.copytree(store.folder(model, version), staged, dirs_exist_ok=True)
        return [version, store.publish(staged, store.manifest(model, version)).version]

    def swap(self) -> float:
        """Seconds from the order until the other version answers."""
        self._turn += 1
        wanted = self.versions[self._turn % 2]
        began = time.perf_counter()
        self.server.client.post(f"/models/{self.model}/promote", json={"version": wanted}).raise_for_status()
        while self.server.client.get(f"/models/{self.model}").json()["serving"] != wanted:
            if time.perf_counter() - began > 60:
                raise SystemExit(f"{self.model} version {wanted} does not go live")
            time.sleep(0.01)
        return time.perf_counter() - began


async def under_swaps(swapped: Swapped, port: int, requests: list[bytes], *, rate: float, swaps: int) -> dict:
    """Latency at a steady rate, alone and while versions are swapped back to back; and how long a swap takes."""
    alone = await steady(port, requests, rate, 4 if swaps > 5 else 1)

    def all_swaps() -> list[float]:
        return [swapped.swap() for _ in range(swaps)]

    order = asyncio.create_task(asyncio.to_thread(all_swaps))
    phases = []
    while not order.done() or not phases:
        phases.append(await steady(port, requests, rate, 1))
    times = await order
    return {
        "p50_alone_ms": float(alone["p50_ms"]),
        "p99_alone_ms": float(alone["p99_ms"]),
        "p99_swapping_ms": float(max(phase["p99_ms"] for phase in phases)),
        "failures": int(alone["failures"] + sum(phase["failures"] for phase in phases)),
        "swap_median_s": statistics.median(times),
        "swap_worst_s": max(times),
    }
