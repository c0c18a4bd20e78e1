"""Rows a second through HTTP against `session.run` alone, on the same rows and buckets and as many cores.

Single texts and weeks from 64 connections, and requests of 64 pictures; the ceiling is that many processes which do
nothing but run the session. Both take turns in each round. Needs `wrk`, the test data in DATA_DIR, a quiet machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.store import Store
from service import engine
from service.device import Device
from service.inputs import series
from service.inputs.text import TextEncoder
from service.settings import ZOO
from tests.bench import bodies
from tests.bench.run import Running, Target, load


@dataclass
class Case:
    """One way to send rows: which route, how many rows a request, which model answers."""

    name: str
    path: str
    model: str
    rows: int
    connections: int


CASES = [
    Case("text", "/predict/sequence", "topic-transformer", 1, 64),
    Case("values", "/predict/sequence", "forecast-lstm", 1, 64),
    Case("64 texts", "/predict/sequence/batch", "topic-transformer", 64, 8),
    Case("64 pixel lists", "/predict/digit/batch", "digit-cnn", 64, 8),
    Case("64 PNG files", "/predict/digit/batch", "digit-cnn", 64, 8),
]


def requests(case: Case, data_dir: Path) -> list[tuple[bytes, str]]:
    """64 different bodies of a case."""
    if case.name in {"text", "values"}:
        items = bodies.texts(data_dir) if case.name == "text" else bodies.weeks(data_dir)
        return [(json.dumps(item).encode(), "application/json") for item in items]
    texts = case.name == "64 texts"
    items = bodies.texts(data_dir) if texts else list(bodies.digits(data_dir))
    form = "inputs" if texts else "pixels" if "pixel" in case.name else "files"
    return [bodies.batch(form, items[turn:] + items[:turn]) for turn in range(bodies.COUNT)]


def alone(case: Case, data_dir: Path, seconds: float) -> float:
    """Rows a second of this process and the engine alone: what the batcher would give it, one thread."""
    store = Store(ZOO)
    version = store.live(case.model)
    if version is None:
        raise SystemExit(f"the zoo has no {case.model}")
    folder, manifest = store.folder(case.model, version), store.verify(case.model, version)
    runner = engine.load(folder, manifest, Device("cpu", try_cuda=False, reason="a benchmark"))
    batches: dict[int, list[engine.Tensors]] = {}
    for row, length in _rows(manifest, folder, data_dir):
        batches.setdefault(runner.bucket_length(length), []).append(row)
    done, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for length, rows in batches.items():
            runner.run(rows, len(rows), length)
            done += len(rows)
    return done / seconds


def _rows(manifest, folder: Path, data_dir: Path) -> list[tuple[engine.Tensors, int]]:
    """The 64 rows as the graph takes them, and their lengths."""
    if manifest.kind == "image":
        return [({"pixels": pixels[np.newaxis]}, 0) for pixels in bodies.digits(data_dir)]
    if manifest.kind == "text":
        encoder = TextEncoder(folder / manifest.text.tokenizer, manifest.text)
        ids = [encoder.encode(item["text"]) for item in bodies.texts(data_dir)]
        return [({"token_ids": each[np.newaxis]}, len(each)) for each in ids]
    parsed = [series.parse(item["values"], item["start"], manifest.series) for item in bodies.weeks(data_dir)]
    return [
        (
            {
                "values": each.values[np.newaxis],
                "lengths": np.array([each.length]),
                "hour_of_week": np.array([each.hour_of_week]),
            },
            each.length,
        )
        for each in parsed
    ]


def ceiling(case: Case, processes: int, seconds: float) -> float:
    """Rows a second of so many processes at the same time."""
    command = [sys.executable, "-m", "tests.bench.rows", "--alone", case.name, "--seconds", str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running)


def measure(options: argparse.Namespace, data_dir: Path, work: Path) -> list[dict]:
    chosen = [case for case in CASES if not options.only or case.name in options.only.split(",")]
    sent = {case.name: bodies.save(work / case.name, requests(case, data_dir)) for case in chosen}
    found = []
    settings = {"NEUROSERVE_PORT": "{port}", "NEUROSERVE_TRAINER": "off", "NEUROSERVE_WORKERS": str(options.workers)}
    for number in range(options.rounds):
        for case in chosen:
            folder, content_type = sent[case.name]
            target = Target(case.name, command=[sys.executable, "-m", "service"], environment=settings)
            target.url = "http://127.0.0.1:{port}" + case.path
            running = Running(target, options.port + len(found), str(work / "state"), folder, content_type)
            try:
                load(running, folder, content_type, case.connections, 1, work)
                row = load(running, folder, content_type, case.connections, options.seconds, work)
            finally:
                running.stop()
            row |= {"case": case.name, "round": number, "rows_per_s": row["per_s"] * case.rows}
            row["alone_per_s"] = ceiling(case, options.workers, options.seconds)
            row["share"] = row["rows_per_s"] / row["alone_per_s"]
            found.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return found


def table(rows: list[dict]) -> str:
    """Markdown: medians over the rounds."""
    lines = ["| sent | rows/s | `session.run` alone | share | p99 ms | errors |", "|" + "---|" * 6]
    for name in dict.fromkeys(row["case"] for row in rows):
        mine = [row for row in rows if row["case"] == name]
        rate, most, share, slow = (
            statistics.median(row[key] for row in mine) for key in ("rows_per_s", "alone_per_s", "share", "p99_ms")
        )
        errors = sum(row["errors"] for row in mine)
        lines.append(f"| {name} | {rate:.0f} | {most:.0f} | {share:.0%} | {slow:.1f} | {errors} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--port", type=int, default=9400)
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    data_dir = Path(os.environ.get("DATA_DIR", "var/data"))
    if options.alone:
        case = next(case for case in CASES if case.name == options.alone)
        print(alone(case, data_dir, options.seconds))
        return
    with tempfile.TemporaryDirectory() as work:
        rows = measure(options, data_dir, Path(work))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
