"""A training child without torch: the same arguments, events, checkpoint habits and candidate as the real one.

What it should do besides is read from the JSON file that the environment variable CHILD_PLAN names:
`epoch_s` (length of an epoch), `crash_at` (epoch to die in), `crashes` (how often), `error_at` (epoch to give up in),
`stop_at` (epoch to stop early in), `accuracy` (of the candidate; the gate wants 0.5), `bytes` (of a file beside its
graph, which is the shipped one), `stage_s`
(length of the other stages), `diary` (a file that tells what each child of a job did), `kill_worker_at` (epoch to kill
the worker in), `memory_for` (the most rows of a batch that the memory suffices for).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.manifest import Manifest, Parity, Provenance, TensorSpec, file_entry
from models.store import Store
from training.lifeline import die_with_parent
from training.publish import DRAFT_FILE

STEPS = 10
SHIPPED, MODEL = Store(Path(__file__).resolve().parents[2] / "models" / "zoo"), "digit-mlp"


def say(**event: Any) -> None:
    print(json.dumps({"at": datetime.now(UTC).isoformat(), **event}), flush=True)


def row(epoch: int) -> dict[str, Any]:
    loss = round(1 / epoch, 3)
    return {"epoch": epoch, "train_loss": loss, "val_loss": loss, "val_metric": 1 - loss / 10, "seconds": 0.1}


def note(plan: dict[str, Any], work: Path, *what: object) -> None:
    """A line in the diary: the time, the job, the process and what it does."""
    if "diary" in plan:
        job = next(part for part in reversed(work.parts) if part.count("-") == 4)
        with Path(plan["diary"]).open("a", encoding="utf-8") as stream:
            stream.write(" ".join(map(str, (time.time(), job, os.getpid(), *what))) + "\n")


def linger(given: argparse.Namespace, plan: dict[str, Any], stage: str) -> None:
    note(plan, given.work, stage)
    time.sleep(plan.get("stage_s", 0.0))


def train(given: argparse.Namespace, plan: dict[str, Any]) -> None:
    checkpoint = given.work / "done.json"
    done = json.loads(checkpoint.read_text()) if checkpoint.is_file() else 0
    for epoch in range(1, done + 1):
        say(type="epoch", row=row(epoch))
    for epoch in range(done + 1, given.epochs + 1):
        note(plan, given.work, "epoch", epoch)
        run_epoch(epoch, given, plan)
        draft = checkpoint.with_suffix(".tmp")
        draft.write_text(json.dumps(epoch))
        draft.replace(checkpoint)
        note(plan, given.work, "done", epoch)
        stop = plan.get("stop_at") == epoch
        say(type="epoch", row=row(epoch), stopped_early=stop)
        if stop:
            break


def run_epoch(epoch: int, given: argparse.Namespace, plan: dict[str, Any]) -> None:
    for step in range(1, STEPS + 1):
        time.sleep(plan.get("epoch_s", 0.1) / STEPS)
        at = {"epoch": epoch, "epochs": given.epochs, "step": step, "steps": STEPS, "eta_s": None}
        say(type="progress", progress=at)
    if plan.get("kill_worker_at") == epoch:
        time.sleep(1)  # what was told before is recorded by now
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(5)
    if given.batch_size > plan.get("memory_for", given.batch_size):
        say(type="error", message="the training ran out of memory", code="out_of_memory")
        sys.exit(1)
    if plan.get("error_at") == epoch:
        say(type="error", message="the loss is no longer a number")
        sys.exit(1)
    if plan.get("crash_at") == epoch:
        scars = given.work / "crashes"
        count = len(scars.read_text()) if scars.is_file() else 0
        if count < plan.get("crashes", 1):
            scars.write_text("x" * (count + 1))
            sys.stderr.write("out of luck\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def write_candidate(given: argparse.Namespace, plan: dict[str, Any]) -> Path:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # a worker that may write small files only hands that on
    folder = given.work / "candidate"
    folder.mkdir(exist_ok=True)
    real = SHIPPED.manifest(MODEL, SHIPPED.live(MODEL) or 0)
    shutil.copy(SHIPPED.folder(MODEL, real.version) / "model.onnx", folder)
    with (folder / "ballast").open("wb") as stream:
        stream.truncate(plan.get("bytes", 64))
    rules = {"metric": "accuracy", "higher_is_better": True, "floor": 0.5, "max_bytes": 2**31}
    draft = Manifest(
        name=f"{given.task}-{given.network}",
        version=1,
        task=given.task,
        network=given.network,
        kind="image",
        created_at=datetime.now(UTC),
        files={name: file_entry(folder / name) for name in ("model.onnx", "ballast")},
        inputs=[TensorSpec(name="pixels", dtype="uint8", shape=["batch", 28, 28])],
        outputs=real.outputs,
        labels=[str(digit) for digit in range(10)],
        metrics={"validation": {"accuracy": plan.get("accuracy", 0.9)}},
        golden=real.golden,
        doubt=real.doubt,
        parity=Parity(max_abs_diff=0.0, cases=[[1, 0]]),
        provenance=Provenance(command="child", seed=0, data=real.provenance.data, settings={"gate": rules}),
    )
    (folder / DRAFT_FILE).write_text(draft.to_json(), "utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    for name in ("--network", "--learning-rate", "--seed"):
        parser.add_argument(name, required=True)
    for name in ("--epochs", "--batch-size"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    for name in ("--events", "--stage-only", "--resume"):
        parser.add_argument(name, action="store_true", required=True)
    given = parser.parse_args()
    plan = json.loads(Path(os.environ["CHILD_PLAN"]).read_text()) if "CHILD_PLAN" in os.environ else {}
    die_with_parent(os.getppid())
    say(type="log", message=f"process {os.getpid()}")
    linger(given, plan, "data")
    say(type="stage", stage="data")
    train(given, plan)
    say(type="stage", stage="fit")
    linger(given, plan, "export")
    for stage in ("export", "parity", "evaluate"):
        say(type="stage", stage=stage)
    folder = write_candidate(given, plan)
    note(plan, given.work, "candidate")
    say(type="stage", stage="candidate", path=str(folder))


if __name__ == "__main__":
    main()
