"""Many trainings in a row with swaps under load: the memory of each process and the disk must level off.

A real service with its embedded worker and two HTTP processes; the training process is the small one of the tests, as
its own memory goes with it. Run `python -m tests.bench.soak --trainings 100`; it prints a table and fails on growth.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from models.store import Store
from tests.killing import Service
from tests.server import EXAMPLES, ROOT, wait_until
from tests.workers import plan

CHILD = ROOT / "tests" / "training" / "child.py"
MODEL, KEPT = "digit-mlp", 5
SEVEN, PNG = (EXAMPLES / "seven.png").read_bytes(), {"Content-Type": "image/png"}
_MIB = 2**20
_NEW_VERSION_S = 10


@dataclass
class Record:
    """Resident memory of each process in MiB and the size of the state folder's parts in KiB, after each training."""

    memory: dict[str, list[float]] = field(default_factory=dict)
    disk: dict[str, list[float]] = field(default_factory=dict)
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    kept: int = 0

    def growth(self, name: str) -> float:
        """MiB by which a process grew from the second quarter of the trainings to the last one."""
        values = self.memory[name]
        quarter = max(1, len(values) // 4)
        return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


class Load(threading.Thread):
    """A client that asks the trained model without a pause."""

    def __init__(self, service: Service, record: Record, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._service, self._record, self._pause_s = service, record, pause_s
        self.over = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._service.url, timeout=30) as client:
            while not self.over.wait(self._pause_s):
                answer = client.post(f"/predict/digit?model={MODEL}", content=SEVEN, headers=PNG)
                if answer.status_code == 200:
                    self._record.answered += 1
                    self._record.versions.add(answer.headers["x-model-version"])
                else:
                    self._record.failed.append(answer.text[:200])


def processes(service: Service) -> dict[str, psutil.Process]:
    """The processes of a service by what they do."""
    parent = psutil.Process(service.process.pid)
    trainer = service.worker()
    others = sorted(child.pid for child in parent.children() if trainer is None or child.pid != trainer.pid)
    found = {"parent": parent, **{f"http-{place}": psutil.Process(pid) for place, pid in enumerate(others)}}
    return found if trainer is None else {**found, "trainer": trainer}


def size(path: Path) -> float:
    """KiB of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file()) / 1024


def train(service: Service) -> None:
    """One training to its end, and its version live in the process that answers."""
    body = {"task": "digit", "network": "mlp", "epochs": 1, "promote": "always"}
    job = service.client.post("/train", json=body).json()["id"]

    def ended() -> dict[str, object] | None:
        found = service.client.get(f"/train/{job}").json()
        return found if found["status"] not in {"queued", "running"} else None

    end = wait_until(ended, 60, 0.05)
    assert end["status"] == "succeeded", end
    live = end["result"]["model"]["version"]

    def serves() -> bool:
        answer = service.client.post(f"/predict/digit?model={MODEL}", content=SEVEN, headers=PNG)
        return answer.headers.get("x-model-version") == str(live)

    wait_until(serves, _NEW_VERSION_S)


def soak(state: Path, trainings: int, pause_s: float = 0.01) -> Record:
    """Train so often, one after the other, beside a client; what was measured."""
    plan(state, epoch_s=0.02)
    record = Record()
    with Service(state, CHILD, workers=2, keep_versions=KEPT) as service:
        load = Load(service, record, pause_s)
        load.start()
        try:
            for _ in range(trainings):
                train(service)
                for name, process in processes(service).items():
                    record.memory.setdefault(name, []).append(process.memory_info().rss / _MIB)
                for part in ("models", "jobs", "jobs.sqlite", "tensorrt"):
                    record.disk.setdefault(part, []).append(size(state / part) if (state / part).exists() else 0.0)
        finally:
            load.over.set()
            load.join()
    record.kept = len(Store(state / "models").versions(MODEL))
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=100)
    parser.add_argument("--most-growth", type=float, default=4.0, help="MiB that a process may grow")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        record = soak(Path(folder), given.trainings)
    print(f"{given.trainings} trainings in {time.monotonic() - began:.0f} s, {record.answered} answers, "
          f"{len(record.failed)} failed, {len(record.versions)} versions answered, {record.kept} kept")  # fmt: skip
    for name, values in {**record.memory, **record.disk}.items():
        shown = " ".join(f"{value:.0f}" for value in values[:: max(1, len(values) // 20)])
        print(f"{name:12} {shown}")
    grown = {name: round(record.growth(name), 1) for name in record.memory}
    print(f"growth from the second quarter to the last, MiB: {grown}")
    return int(bool(record.failed) or max(grown.values()) > given.most_growth)


if __name__ == "__main__":
    sys.exit(main())
