"""Throughput and latency of one digit per POST beside a plain baseline and the two ceilings, as ratios of one run.

What the fast path is worth stands in two rows: `neuroserve asgi` sends the same requests with a query, which only the
application takes; `plain asgi` is the same codec and batcher behind a plain endpoint under uvicorn.

Targets take turns within each round, so that a drift of the machine's speed hits all alike. Needs `wrk`, MNIST's test
files in DATA_DIR, and a quiet machine. Another server joins with `--peer NAME=URL,form=raw` (running already).
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import psutil

from models.store import Store
from service.settings import ZOO
from tests.bench import bodies

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PREDICT = "http://127.0.0.1:{port}/predict/digit"
UVICORN = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--no-access-log"]


@dataclass
class Target:
    """A server under load: how to start it (nothing: it runs), where it answers, what it is sent."""

    name: str
    form: str = "raw"
    command: list[str] | None = None
    url: str = PREDICT
    environment: dict[str, str] = field(default_factory=dict)
    only: tuple[int, ...] = ()


def model_file() -> Path:
    store = Store(ZOO)
    live = store.live("digit-cnn")
    if live is None:
        raise SystemExit("the zoo has no digit-cnn")
    return store.folder("digit-cnn", live) / "model.onnx"


def targets(workers: int) -> list[Target]:
    """Ours in its four forms, without its fast path, the baseline, and the bare HTTP server."""
    served = [sys.executable, "-m", "service"]
    settings = {"NEUROSERVE_PORT": "{port}", "NEUROSERVE_TRAINER": "off", "NEUROSERVE_WORKERS": str(workers)}
    some = ["--workers", str(workers), "--port", "{port}"]
    return [
        Target("neuroserve", "raw", served, environment=settings),
        *[Target(f"neuroserve {form}", form, served, environment=settings, only=(64,)) for form in bodies.FORMS[1:]],
        Target("neuroserve asgi", "raw", served, f"{PREDICT}?explain=false", settings),
        Target(
            "plain asgi",
            "raw",
            [*UVICORN, *some, "tests.bench.plain:app"],
            environment={"NEUROSERVE_WORKERS": str(workers)},
        ),
        Target(
            "naive", "multipart", [*UVICORN, *some, "tests.bench.naive:app"], environment={"MODEL": str(model_file())}
        ),
        Target("bare uvicorn", "raw", [*UVICORN, *some, "tests.bench.bare:app"]),
    ]


class Running:
    """A started target."""

    def __init__(self, target: Target, port: int, state: str, body: Path, content_type: str) -> None:
        self.url = target.url.format(port=port)
        self.process: subprocess.Popen[bytes] | None = None
        self.start_s: float | None = None
        if target.command is None:
            return
        command = [part.format(port=port) for part in target.command]
        environment = {key: value.format(port=port) for key, value in target.environment.items()}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "NEUROSERVE_STATE": state},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        request = urllib.request.Request(self.url, (body / "00").read_bytes(), {"Content-Type": content_type})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                if self.process.poll() is not None or time.perf_counter() - began > 60:
                    raise SystemExit(f"{target.name} does not answer") from None
                time.sleep(0.01)
        self.start_s = time.perf_counter() - began

    def family(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.family())

    def pss_mb(self) -> float:
        return sum(process.memory_full_info().pss for process in self.family()) / 1e6

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)


def load(running: Running, body: Path, content_type: str, connections: int, seconds: int, work: Path) -> dict:
    """One wrk run."""
    out = work / "wrk.json"
    cpu = running.cpu_s()
    environment = {**os.environ, "BODIES": str(body), "CONTENT_TYPE": content_type, "OUT": str(out)}
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(HERE / "load.lua")]
    subprocess.run([*command, running.url], env=environment, stdout=subprocess.DEVNULL, check=True)
    row = json.loads(out.read_text())
    row["per_s"] = row["requests"] / row["seconds"]
    row["cpu_us"] = (running.cpu_s() - cpu) * 1e6 / max(1, row["requests"]) if running.process else None
    return row


def session_rate(seconds: float = 1.0, batch: int = 8) -> float:
    """Pictures a second of `session.run` alone, one thread, in batches."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_file(), options, providers=["CPUExecutionProvider"])
    pixels = np.zeros((batch, 28, 28), np.uint8)
    done, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        session.run(None, {"pixels": pixels})
        done += batch
    return done / seconds


def measure(options: argparse.Namespace, work: Path) -> list[dict]:
    pictures = bodies.digits(Path(os.environ.get("DATA_DIR", "var/data")))
    forms = {form: bodies.write(work / "bodies", form, pictures) for form in bodies.FORMS}
    found = targets(options.workers) + [peer(text) for text in options.peer]
    chosen = [target for target in found if not options.only or target.name in options.only.split(",")]
    rows, port = [], options.port
    for number in range(options.rounds):
        rows.append({"target": "session.run x1", "round": number, "connections": 0, "per_s": session_rate()})
        for target in chosen:
            port += 1
            body, content_type = forms[target.form]
            running = Running(target, port, str(work / "state"), body, content_type)
            try:
                load(running, body, content_type, 16, 1, work)
                for connections in target.only or options.connections:
                    row = load(running, body, content_type, connections, options.seconds, work)
                    row |= {"target": target.name, "round": number, "connections": connections}
                    row |= {"start_s": running.start_s, "pss_mb": running.pss_mb() if running.process else None}
                    rows.append(row)
                    print(json.dumps(row), file=sys.stderr, flush=True)
            finally:
                running.stop()
    return rows


def peer(text: str) -> Target:
    name, _, rest = text.partition("=")
    url, *pairs = rest.split(",")
    return Target(name, dict(pair.split("=", 1) for pair in pairs).get("form", "raw"), None, url)


def table(rows: list[dict], reference: str) -> str:
    """Markdown: medians over the rounds, and the ratio to the reference in the same round."""
    base = {(row["round"], row["connections"]): row["per_s"] for row in rows if row["target"] == reference}
    times = "p50 ms | p99 ms | CPU us/request | PSS MB | start s | errors"
    lines = [f"| target | connections | requests/s | x {reference} | {times} |", "|" + "---|" * 10]
    for name, connections in dict.fromkeys((row["target"], row["connections"]) for row in rows):
        mine = [row for row in rows if (row["target"], row["connections"]) == (name, connections)]
        ratios = [row["per_s"] / base[key] for row in mine if (key := (row["round"], connections)) in base]

        def middle(key: str, form: str, mine: list[dict] = mine) -> str:
            values = [row[key] for row in mine if row.get(key) is not None]
            return form.format(statistics.median(values)) if values else ""

        cells = [
            name,
            str(connections or ""),
            middle("per_s", "{:.0f}"),
            f"{statistics.median(ratios):.2f}" if ratios else "",
            middle("p50_ms", "{:.2f}"),
            middle("p99_ms", "{:.2f}"),
            middle("cpu_us", "{:.0f}"),
            middle("pss_mb", "{:.0f}"),
            middle("start_s", "{:.2f}"),
            str(sum(row.get("errors", 0) for row in mine)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument(
        "--connections", type=lambda text: [int(c) for c in text.split(",")], default=[1, 16, 64, 256, 1024]
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=9300)
    parser.add_argument("--only", default="", help="names of targets, separated by commas")
    parser.add_argument("--peer", action="append", default=[], help="NAME=URL[,form=FORM]")
    parser.add_argument("--reference", default="naive")
    parser.add_argument("--json", type=Path, help="write every row here")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("the benchmark needs wrk; on Debian: apt-get install wrk")
    with tempfile.TemporaryDirectory() as work:
        rows = measure(options, Path(work))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows, options.reference))


if __name__ == "__main__":
    main()
