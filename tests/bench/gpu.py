"""What a GPU gives: rows a second of each flagship from `session.run` up to HTTP, latency, hot swaps, device memory.

`python -m tests.bench.gpu --json FILE` on a machine with CUDA and the test data in DATA_DIR; it refuses elsewhere.
With `--device cpu` the same code runs on a CPU, which proves the program and nothing about a GPU.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path

import onnxruntime
import psutil

from models.store import Store
from service import engine, providers
from service.device import CPU, CUDA, Device, DeviceError, choose
from service.engine import Tensors
from service.settings import ZOO
from service.tensors import pack
from tests.bench import rows as row_bench
from tests.bench import served
from tests.server import Server

FLAGSHIPS = ["digit-cnn", "topic-transformer", "forecast-lstm"]
BEYOND = [128, 256, 512, 1024]
"""Batches above the largest bucket: whether the device could do more with them."""


class Model:
    """A flagship, its 64 rows of test data, and those of its most common length as batches of any size."""

    def __init__(self, name: str, data_dir: Path) -> None:
        store = Store(ZOO)
        version = store.live(name)
        if version is None:
            raise SystemExit(f"the zoo has no {name}")
        self.name = name
        self.folder, self.manifest = store.folder(name, version), store.verify(name, version)
        self.file = self.folder / self.manifest.model_file
        self.rows = row_bench._rows(self.manifest, self.folder, data_dir)
        lengths = self.manifest.buckets.lengths
        bucket_of = [next((size for size in lengths if size >= length), length) for _, length in self.rows]
        self.length = Counter(bucket_of).most_common(1)[0][0]
        self.alike = [row for (row, _), bucket in zip(self.rows, bucket_of, strict=True) if bucket == self.length]

    def parts(self, count: int) -> list[Tensors]:
        return [self.alike[number % len(self.alike)] for number in range(count)]

    def feed(self, count: int) -> Tensors:
        parts = self.parts(count)
        specs = self.manifest.inputs
        return {spec.name: pack(spec, [part[spec.name] for part in parts], count, self.length) for spec in specs}


def rate(call: Callable[[], object], rows: int, seconds: float) -> float:
    """Rows a second of one caller."""
    call()
    began, done = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds or not done:
        call()
        done += rows
    return done / taken


def two_callers(call: Callable[[], object], rows: int, seconds: float) -> float:
    """Rows a second of two threads on one session: whether a second batch in flight would pay."""
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(rate(call, rows, seconds))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(found)


def placed(model: Model, device: Device) -> dict[str, int]:
    """Nodes of the graph by provider: what does not run on the GPU costs two copies."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    wanted = providers.provider_list(device, model.manifest)
    session = onnxruntime.InferenceSession(model.file, options, providers=wanted, enable_fallback=0)
    return {
        name: sum(
            len(part.get_nodes()) for part in session.get_provider_graph_assignment_info() if part.ep_name == name
        )
        for name in session.get_providers()
    }


Rates = dict[str, dict[int, list[float]]]


def in_process(model: Model, device: Device, options: argparse.Namespace) -> dict:
    """Rows a second of the session alone, of the engine without and with bound buffers, through a batcher."""
    session = providers.open_session(model.file, model.manifest, device)
    names = [spec.name for spec in model.manifest.outputs]
    plain, bound = (engine.load(model.folder, model.manifest, device, bind=bind) for bind in (False, True))
    counts = _counts(model, options)
    rates: Rates = {}

    def note(what: str, count: int, value: float) -> None:
        rates.setdefault(what, {}).setdefault(count, []).append(value)

    for _ in range(options.rounds):
        for count in [*counts, *([] if options.quick else BEYOND)]:
            feed = model.feed(count)
            note("session", count, rate(lambda feed=feed: session.run(names, feed), count, options.seconds))
            note("session_two", count, two_callers(lambda feed=feed: session.run(names, feed), count, options.seconds))
        for name, one in (("engine", plain), ("bound", bound)):
            for count in counts:
                note(name, count, _engine_rate(model, one, count, options.seconds))
        for count in (1, counts[-1]):
            note("batcher", count, served.batched(bound, model.rows, count, options.seconds))
    plain.close()
    bound.close()
    graphs, refused = _in_a_child(model, device, options)
    for count, value in graphs.items():
        note("graphs", int(count), value)
    medians = {what: {count: statistics.median(each) for count, each in by.items()} for what, by in rates.items()}
    best = {what: max(by, key=lambda count, by=by: by[count]) for what, by in medians.items()}
    return {
        "length": model.length,
        "rows_per_s": medians,
        "best_batch": best,
        "best_rows_per_s": {what: medians[what][count] for what, count in best.items()},
        "graphs_refused": refused,
        "nodes": placed(model, device),
    }


def _counts(model: Model, options: argparse.Namespace) -> list[int]:
    return [1, 8] if options.quick else model.manifest.buckets.rows


def _engine_rate(model: Model, one: engine.Engine, count: int, seconds: float) -> float:
    parts = model.parts(count)
    return rate(lambda: one.run(parts, count, model.length), count, seconds)


def _in_a_child(model: Model, device: Device, options: argparse.Namespace) -> tuple[dict[str, float], str | None]:
    """The rates with CUDA graphs, from a process of their own: a capture that fails may end it."""
    command = [sys.executable, "-m", "tests.bench.gpu", "--device", options.device, "--graphs", model.name]
    command += ["--seconds", str(options.seconds), *(["--quick"] if options.quick else [])]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        return {}, f"exit code {child.returncode}: {child.stderr.strip()[-500:]}"
    return json.loads(child.stdout.splitlines()[-1]), None if device.try_cuda else "a CPU has none: bound again"


def graphs_alone(model: Model, device: Device, options: argparse.Namespace) -> dict[int, float]:
    """Rows a second of the engine with CUDA graphs, by batch."""
    graphed = replace(device, cuda_graphs="on" if device.try_cuda else "off")
    one = engine.load(model.folder, model.manifest, graphed, bind=True)
    found = {count: _engine_rate(model, one, count, options.seconds) for count in _counts(model, options)}
    one.close()
    return found


def over_http(device: Device, data_dir: Path, options: argparse.Namespace) -> dict:
    """Rows a second, latency at one connection, hot swaps and memory of the whole service."""
    found: dict = {"models": {}}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        versions = served.Swapped.prepare(state, FLAGSHIPS[0])
        chosen = {"device": "cuda" if device.try_cuda else "cpu", "workers": 1, "cuda_graphs": options.cuda_graphs}
        with served.client_processes(served.CLIENTS) as pool, Server(state, start_s=300, **chosen) as server:
            port = server.client.base_url.port
            for name in FLAGSHIPS:
                many, single = (served.requests_for(name, at_once, data_dir) for at_once in (64, 1))
                send = partial(served.over_http, pool, port, seconds=options.seconds * 4)
                found["models"][name] = {
                    "single": send(single, rows=1, connections=options.connections),
                    "batch": send(many, rows=64, connections=8),
                    "one_connection": send(single, rows=1, connections=1),
                }
            found["health"] = server.client.get("/health/ready").json()
            swapped = served.Swapped(server, FLAGSHIPS[0], versions)
            requests = served.requests_for(FLAGSHIPS[0], 1, data_dir)
            work = served.under_swaps(swapped, port, requests, rate=options.rate, swaps=options.swaps // 3 or 1)
            found["swaps"] = asyncio.run(work)
            before = memory(server)
            for _ in range(options.swaps):
                swapped.swap()
            found["memory"] = {"swaps": options.swaps, "before": before, "after": memory(server)}
    return found


def memory(server: Server) -> dict[str, float]:
    """MB: resident in the HTTP process, and taken on the device (of all processes: containers hide their ids)."""
    children = psutil.Process(server.process.pid).children()
    found = {"rss_mb": sum(child.memory_info().rss for child in children) / 1e6}
    used = nvidia("memory.used")
    return {**found, "device_mb": float(used[0])} if used else found


def nvidia(fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU; empty where there is none."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [part.strip() for part in said.strip().split(",")]


def machine() -> dict[str, object]:
    names = ["onnxruntime-gpu", "onnxruntime", "numpy", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-cuda-runtime"]
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    keys = ["name", "driver_version", "memory.total", "compute_cap"]
    return {
        "gpu": dict(zip(keys, nvidia(",".join(keys)), strict=False)),
        "versions": {name: installed[name] for name in names if name in installed},
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def table(report: dict) -> str:
    """Markdown: each step's best rows a second, and its share of the session's own best."""
    lines = ["| model | step | batch | rows/s | share | p50 ms | p99 ms |", "|" + "---|" * 7]
    for name, found in report["models"].items():
        most = found["best_rows_per_s"]["session"]
        for step, best in found["best_rows_per_s"].items():
            lines.append(f"| {name} | {step} | {found['best_batch'][step]} | {best:.0f} | {best / most:.0%} | | |")
        for step, each in report["http"]["models"][name].items():
            per_s, times = each["rows_per_s"], f"{each['p50_ms']:.2f} | {each['p99_ms']:.2f}"
            lines.append(f"| {name} | HTTP, {step} | | {per_s:.0f} | {per_s / most:.0%} | {times} |")
        if found["graphs_refused"]:
            lines.append(f"| {name} | graphs: {found['graphs_refused'][:120]} | | | | | |")
    for title in ("swaps", "memory"):
        lines += ["", f"{title}: {json.dumps(report['http'][title])}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cuda-graphs", choices=["off", "auto", "on"], default="off", help="for the HTTP part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement; HTTP takes four times that")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a few short measurements: does the program work?")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--graphs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.connections = 1, 0.05, 4
        options.rate, options.swaps = 50, 3
    try:
        device = choose(options.device, 1)
    except DeviceError as exc:
        raise SystemExit(f"{exc}\nThis benchmark is for a GPU; --device cpu only tries the program out.") from None
    data_dir = Path(os.environ.get("DATA_DIR", "var/data"))
    try:
        chosen = [Model(name, data_dir) for name in ([options.graphs] if options.graphs else FLAGSHIPS)]
    except FileNotFoundError as exc:
        raise SystemExit(f"{exc.filename} is missing; set DATA_DIR to the folder of the data sets") from None
    if options.graphs:
        print(json.dumps(graphs_alone(chosen[0], device, options)))
        return
    report: dict = {"device": device.mode, "machine": machine(), "quick": options.quick, "models": {}}
    for model in chosen:
        report["models"][model.name] = in_process(model, device, options)
        print(json.dumps({model.name: report["models"][model.name]["best_rows_per_s"]}), file=sys.stderr, flush=True)
    report["http"] = over_http(device, data_dir, options)
    wanted = CUDA if device.try_cuda else CPU
    report["on"] = {name: each["provider"] for name, each in report["http"]["health"]["models"].items()}
    if set(report["on"].values()) != {wanted}:
        raise SystemExit(f"not all models ran on {wanted}: {report['on']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
