"""Real worker processes on a job database of their own, with a small child in the trainer's place."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from dbos import DBOSClient, DBOSPortableJSONSerializer
from dbos import error as dbos_error

from models.jobs import APPLICATION, APPLICATION_VERSION, EVENTS, QUEUE, WORKFLOW, JobSpec
from tests.server import ROOT, wait_until

CHILD = ROOT / "tests" / "training" / "child.py"
START = f"import sys; from training.worker import main; sys.exit(main(sys.argv[1:], (sys.executable, {str(CHILD)!r})))"
COMMAND = (sys.executable, "-c", START)
SPEC = JobSpec(task="digit", network="mlp", epochs=3, batch_size=64, learning_rate=0.01)
OPEN = {"ENQUEUED", "PENDING"}


def plan(state: Path, **what: object) -> None:
    """Tell the children to come how to behave."""
    (state / "plan.json").write_text(json.dumps({"epoch_s": 0.1, **what}))


def environment(state: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEUROSERVE_")}
    return {**kept, "CHILD_PLAN": str(state / "plan.json")}


def children(job_id: str) -> list[int]:
    """Process ids of the job's living children, read from /proc."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if job_id.encode() in line and b"--stage-only" in line:
                found.append(int(folder.name))
    return found


class WorkerProcess:
    """`python -m training worker` with the small child; a context manager that ends it with SIGTERM."""

    def __init__(
        self, state: Path, *arguments: str, command: tuple[str, ...] = COMMAND, url: str | None = None
    ) -> None:
        self.state = state
        if not (state / "plan.json").exists():
            plan(state)
        self.log = state / "worker.log"
        env = environment(state) | ({} if url is None else {"NEUROSERVE_DATABASE_URL": url})
        with self.log.open("a") as stream:
            self._begin = stream.tell()
            self.process = subprocess.Popen(
                [*command, "--state", str(state), *arguments], cwd=ROOT, env=env, stderr=stream
            )

    def __enter__(self) -> Self:
        wait_until(lambda: "takes jobs" in self.log.read_text() or self.process.poll() is not None, 30)
        return self

    def ready(self) -> Self:
        """Wait until this one takes jobs, whatever other workers of the folder say."""
        arguments = list(map(str, self.process.args))
        name = arguments[arguments.index("--executor-id") + 1] if "--executor-id" in arguments else ""
        wait_until(lambda: f"{name} takes jobs" in self.said or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.said
        return self

    @property
    def said(self) -> str:
        """What the log has since this process began, what others of the folder say too."""
        return self.log.read_text()[self._begin :]

    def __exit__(self, *_: object) -> None:
        self.stop()

    def freeze(self) -> None:
        """SIGSTOP: it neither works nor dies."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.process.poll() is None:
            self.thaw()
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(20)


class Desk:
    """The job database as a test sees it: rows and streams as they are."""

    def __init__(self, state: Path, url: str | None = None) -> None:
        self.client = DBOSClient(
            system_database_url=url or f"sqlite:///{state / 'jobs.sqlite'}",
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
        )

    def put(self, **changes: object) -> str:
        """Queue a job; its id."""
        options = {"workflow_name": WORKFLOW, "queue_name": QUEUE, "app_version": APPLICATION_VERSION}
        spec = SPEC.model_copy(update=changes).model_dump(mode="json")
        return self.client.enqueue(options, spec).get_workflow_id()

    def row(self, job_id: str):
        return self.client.list_workflows(workflow_ids=[job_id])[0]

    def end(self, job_id: str, seconds: float = 20) -> dict:
        """Wait for the end; the last snapshot."""
        row = wait_until(lambda: (row := self.row(job_id)).status not in OPEN and row, seconds)
        assert row.status == "SUCCESS", (row.status, row.error)
        return row.output

    def events(self, job_id: str, kind: str | None = None) -> list[dict]:
        """The stream so far."""
        values = []
        try:
            for value in self.client.read_stream(job_id, EVENTS, timeout_seconds=0):
                if kind in {None, value["type"]}:
                    values.append(value)
        except dbos_error.DBOSStreamTimeoutError:
            pass
        return values

    def epochs(self, job_id: str) -> list[int]:
        return [event["row"]["epoch"] for event in self.events(job_id, "epoch")]

    def wait_epoch(self, job_id: str, epoch: int) -> None:
        wait_until(lambda: epoch in self.epochs(job_id), 20)

    def close(self) -> None:
        self.client.destroy()
