"""The Open Inference Protocol's door beside `/predict/digit` and `session.run` alone, in wall time and in CPU time.

One service answers all; the ways in take turns within each round, and so does one process that does nothing but run
the session. CPU time is the figure to trust where other work shares the cores. Needs `wrk` and MNIST in DATA_DIR.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from tests.bench import bodies
from tests.bench.run import Running, Target, load, model_file

INFER = "/v2/models/digit-cnn/infer"


def tensors(pictures: np.ndarray, *, binary: bool = True) -> bytes:
    """An infer request of pictures [rows, 28, 28]."""
    tensor = {"name": "pixels", "shape": list(pictures.shape), "datatype": "UINT8"}
    if not binary:
        return json.dumps({"inputs": [{**tensor, "data": pictures.ravel().tolist()}]}).encode()
    tensor["parameters"] = {"binary_data_size": pictures.size}
    content = {"parameters": {"binary_data_output": True}, "inputs": [tensor]}
    return json.dumps(content).encode() + pictures.tobytes()


def ways(pictures: np.ndarray) -> dict[str, tuple[str, int, list[bytes], str]]:
    """Each way in: its path, the rows of a request, 64 bodies, their Content-Type."""
    json_type, octets = "application/json", "application/octet-stream"
    many = [np.roll(pictures, turn, axis=0) for turn in range(bodies.COUNT)]
    return {
        "/predict/digit PNG": ("/predict/digit", 1, [bodies.png(each) for each in pictures], "image/png"),
        "/predict/digit pixels": (
            "/predict/digit",
            1,
            [bodies.encode("pixels", each)[0] for each in pictures],
            json_type,
        ),
        "/v2 binary": (INFER, 1, [tensors(each[np.newaxis]) for each in pictures], octets),
        "/v2 JSON": (INFER, 1, [tensors(each[np.newaxis], binary=False) for each in pictures], json_type),
        "/v2 binary, 64 rows": (INFER, 64, [tensors(each) for each in many], octets),
    }


def alone(pictures: np.ndarray, seconds: float) -> dict:
    """`session.run` on one thread, in the batch size that is fastest: pictures a second, and CPU time of one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model_file(), options, providers=["CPUExecutionProvider"])
    best: dict = {}
    for rows in (8, 16, 64):
        batches = [pictures[at : at + rows] for at in range(0, len(pictures), rows)]
        done, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds / 3:
            for batch in batches:
                session.run(None, {"pixels": batch})
                done += rows
        row = {"rows_per_s": done / (time.perf_counter() - began), "cpu_us": (time.process_time() - cpu) * 1e6 / done}
        best = min(best or row, row, key=lambda each: each["cpu_us"])
    return {"way": "session.run alone", "connections": 1, **best, "p99_ms": 0.0, "errors": 0}


def together(processes: int, seconds: float) -> dict:
    """The same in so many processes at once: they share the cores' caches as the workers do."""
    command = [sys.executable, "-m", "tests.bench.oip", "--alone", "--seconds", str(seconds)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    rows = [json.loads(process.communicate()[0]) for process in running]
    rate, cpu = sum(row["rows_per_s"] for row in rows), statistics.mean(row["cpu_us"] for row in rows)
    return {**rows[0], "rows_per_s": rate, "cpu_us": cpu}


def measure(options: argparse.Namespace, pictures: np.ndarray, work: Path) -> list[dict]:
    settings = {"NEUROSERVE_PORT": "{port}", "NEUROSERVE_TRAINER": "off", "NEUROSERVE_WORKERS": str(options.workers)}
    target = Target("ours", command=[sys.executable, "-m", "service"], environment=settings)
    found, saved = [], {}
    for name, (path, rows, content, kind) in ways(pictures).items():
        saved[name] = (path, rows, *bodies.save(work / name.replace("/", "_"), [(each, kind) for each in content]))
        length = content[0].find(b"}]}") + 3
        if "binary" in name:
            (saved[name][2] / "json_length").write_text(str(length))
    first = saved["/predict/digit PNG"]
    running = Running(target, options.port, str(work / "state"), first[2], first[3])
    root = running.url.removesuffix("/predict/digit")
    try:
        for number in range(options.rounds + 1):  # the first warms up
            round_rows = [together(options.workers, options.seconds)]
            for name, (path, rows, folder, kind) in saved.items():
                running.url = root + path
                for connections in options.connections if rows == 1 else [4 * options.workers]:
                    row = load(running, folder, kind, connections, round(options.seconds) if number else 1, work)
                    row |= {"way": name, "connections": connections, "rows_per_s": row["per_s"] * rows}
                    row["cpu_us"] /= rows
                    round_rows.append(row)
            found += [{**row, "round": number} for row in round_rows if number]
    finally:
        running.stop()
    return found


def table(rows: list[dict]) -> str:
    """Markdown: medians over the rounds, but of CPU time the least, which other work has disturbed least."""
    lines = ["| way in | connections | rows/s | CPU us/row | p99 ms | errors |", "|" + "---|" * 6]
    for way, connections in dict.fromkeys((row["way"], row["connections"]) for row in rows):
        mine = [row for row in rows if (row["way"], row["connections"]) == (way, connections)]
        rate, slow = (statistics.median(row[key] for row in mine) for key in ("rows_per_s", "p99_ms"))
        cpu = min(row["cpu_us"] for row in mine)
        errors = sum(row["errors"] for row in mine)
        lines.append(f"| {way} | {connections} | {rate:.0f} | {cpu:.0f} | {slow:.1f} | {errors} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--port", type=int, default=9500)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write every row here")
    options = parser.parse_args()
    pictures = bodies.digits(Path(os.environ.get("DATA_DIR", "var/data")))
    if options.alone:
        print(json.dumps(alone(pictures, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as work:
        rows = measure(options, pictures, Path(work))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
