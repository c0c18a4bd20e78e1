"""One training as a run of an MLflow server: settings, figures of each epoch, the ONNX with its signature, the version.

Everything may be told twice: the run's id lies in the work folder, and what the server has already is not sent again.
A server that is away costs the training some seconds now and then, and a sentence.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from models.jobs import EpochRow, JobResult, JobSpec
from models.manifest import Manifest
from training.mlmodel import MODEL, mlmodel
from training.publish import CandidateError, read_draft
from training.tracking import Say, address

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RECORD = "mlflow.json"
CANDIDATE = "candidate"
EXPERIMENT = "neuroserve"
_AGAIN_S = 60.0
_TEXT = 5000  # of a tag: what every server takes
_BOUNDS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def connect(uri: str) -> MlflowClient:
    """A client that gives a server little time, unless MLflow's own variables say otherwise."""
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client's own business with its dependencies
        from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


class MlflowRun:
    """The run of one work folder. Nothing raises: what goes wrong is said once, until the server answers again."""

    def __init__(
        self, spec: JobSpec, work: Path, say: Say, *, resume: bool, client: MlflowClient | None = None
    ) -> None:
        self._spec, self._work, self._say = spec, work, say
        self._uri = address() or ""
        self._given = client
        self._id: str | None = None
        self._rows: dict[int, tuple[EpochRow, int]] = {}
        self._sent: set[int] = set()
        self._silent, self._again_at = False, float("-inf")
        if not resume:
            (work / RECORD).unlink(missing_ok=True)

    def epoch(self, row: EpochRow) -> None:
        self._keep(row)
        if time.monotonic() >= self._again_at:
            self._try(self._send_rows)

    def candidate(self, folder: Path, draft: Manifest) -> None:
        self._try(lambda: self._send_candidate(folder, draft))

    def done(self, result: JobResult) -> None:
        self._try(lambda: self._end(result))

    def failed(self, message: str) -> None:
        self._try(lambda: self._fail("FAILED", message))

    def close(self) -> None:
        """Nothing is open between two calls."""

    def conclude(self, job_id: str, result: JobResult | None, error: str | None) -> None:
        """The end of a job, told by its worker."""

        def tell() -> None:
            self._client().set_tag(self._run(), "neuroserve.job_id", job_id)
            if result is not None:
                self._end(result)
            else:
                self._fail("KILLED" if error is None else "FAILED", error or "cancelled")

        if result is not None or self._record():
            self._try(tell)

    # ------------------------------------------------------------------ the server

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as exc:  # whatever a client or a server comes up with, the training goes on
            self._id, self._again_at = None, time.monotonic() + _AGAIN_S
            if not self._silent:
                words = (str(exc).strip().splitlines() or [type(exc).__name__])[0].replace(self._uri, self._shown)
                self._say(f"MLflow at {self._shown} takes nothing at the moment, the training goes on: {words[:300]}")
            self._silent = True
        else:
            if self._silent:
                self._say(f"MLflow at {self._shown} answers again and has been told what it missed")
            self._silent, self._again_at = False, float("-inf")

    @property
    def _shown(self) -> str:
        """The address without a name and a password."""
        parts = urlsplit(self._uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _client(self) -> MlflowClient:
        if self._given is None:
            self._given = connect(self._uri)
        return self._given

    def _run(self) -> str:
        """The id of the run, found again or begun."""
        if self._id is None:
            client, known = self._client(), self._record().get("run_id")
            if known is not None and _is_there(client, known):
                client.update_run(known, status="RUNNING")
                self._sent = {metric.step for metric in client.get_metric_history(known, "val_loss")}
                run = known
            else:
                run, self._sent = self._begin(client), set()
            if not self._record().get("described"):
                self._describe(client, run)
            self._id = run
        return self._id

    def _begin(self, client: MlflowClient) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        run: str = client.create_run(experiment, run_name=f"{self._spec.task}-{self._spec.network}").info.run_id
        self._write({"run_id": run})
        return run

    def _describe(self, client: MlflowClient, run: str) -> None:
        from mlflow.entities import Param

        asked = self._spec.model_dump(
            include={"task", "network", "epochs", "batch_size", "learning_rate", "seed", "promote"}
        )
        client.log_batch(run, params=[Param(key, str(value)) for key, value in asked.items()])
        self._write({"run_id": run, "described": True})

    def _keep(self, row: EpochRow) -> None:
        self._rows.setdefault(row.epoch, (row, int(time.time() * 1000)))

    def _send_rows(self) -> None:
        from mlflow.entities import Metric

        run = self._run()
        for epoch in sorted(self._rows.keys() - self._sent):
            row, at = self._rows[epoch]
            figures = row.model_dump(exclude={"epoch"})
            self._client().log_batch(run, metrics=[Metric(key, value, at, epoch) for key, value in figures.items()])
            self._sent.add(epoch)

    def _send_candidate(self, folder: Path, draft: Manifest) -> None:
        """Rows that the server has missed, the candidate's figures and settings, and its files as a model."""
        import mlflow
        from mlflow.entities import Metric, Param

        for kept in draft.provenance.history:
            self._keep(EpochRow.model_validate(kept))
        self._send_rows()
        client, run = self._client(), self._run()
        at = int(draft.created_at.timestamp() * 1000)  # told again, it is the same point
        figures = _flat(draft.metrics, "_")
        settings = _flat({key: draft.provenance.settings.get(key, {}) for key in ("optimisation", "rows")}, ".")
        client.log_batch(
            run,
            metrics=[Metric(key, value, at, draft.provenance.epochs_run) for key, value in figures.items()],
            params=[Param(key, str(value)) for key, value in settings.items()],
        )
        for key in ("best_epoch", "stopped_early", "batch_size_halved_after_epoch", "device"):
            if key in draft.provenance.settings:
                client.set_tag(run, f"neuroserve.{key}", str(draft.provenance.settings[key]))
        client.set_tag(run, "neuroserve.command", draft.provenance.command)
        client.log_artifacts(run, str(folder), MODEL)
        engine = draft.provenance.libraries.get("onnxruntime", "")
        needs = ["onnx", f"onnxruntime=={engine}" if engine else "onnxruntime"]
        client.log_text(run, "\n".join(["mlflow", *needs]) + "\n", f"{MODEL}/requirements.txt")
        client.log_text(run, json.dumps({"dependencies": ["-r requirements.txt"]}) + "\n", f"{MODEL}/python_env.yaml")
        client.log_text(run, mlmodel(draft, run, mlflow.__version__), f"{MODEL}/MLmodel")
        self._write({"run_id": run, "described": True, "logged": True})

    def _end(self, result: JobResult) -> None:
        """The verdict as tags, the version in the registry, and the end of the run."""
        client, run = self._client(), self._run()
        folder = self._work / CANDIDATE
        if not self._record().get("logged"):  # the server was away when the candidate was finished
            try:
                self._send_candidate(folder, read_draft(folder))
            except CandidateError as exc:
                self._say(f"MLflow gets no model: {exc}")
        gate = result.gate
        told = {"gate": "passed" if gate.passed else "refused", "gate.reasons": "\n".join(gate.reasons)}
        if gate.compared_with is not None:
            told["gate.compared_with"] = str(gate.compared_with)
        for key, value in told.items():
            client.set_tag(run, f"neuroserve.{key}", value[:_TEXT])
        if result.model is not None and self._record().get("logged"):
            self._register(client, run, result.model.name, result.model.version, result.model.live)
        client.set_terminated(run, "FINISHED")

    def _register(self, client: MlflowClient, run: str, name: str, version: int, live: bool) -> None:
        from mlflow.exceptions import MlflowException

        tags = {"neuroserve.version": str(version), "neuroserve.live": str(live).lower()}
        try:
            client.create_registered_model(name)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        client.set_tag(run, "neuroserve.model", name)
        client.set_tag(run, "neuroserve.version", str(version))
        if not client.search_model_versions(f"name='{name}' and run_id='{run}'"):
            source = f"{client.get_run(run).info.artifact_uri}/{MODEL}"
            client.create_model_version(name, source, run, tags=tags, await_creation_for=15)

    def _fail(self, status: str, message: str) -> None:
        self._client().set_tag(self._run(), "neuroserve.error", message[:_TEXT])
        self._client().set_terminated(self._run(), status)

    # ------------------------------------------------------------------ the work folder

    def _record(self) -> dict[str, Any]:
        """What an earlier process has left: the run's id, if it is of the same server, and whether it has the model."""
        try:
            found: dict[str, Any] = json.loads((self._work / RECORD).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if found.get("server") == self._shown else {}

    def _write(self, record: Mapping[str, Any]) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        draft = self._work / f"{RECORD}.tmp"
        draft.write_text(json.dumps({"server": self._shown, **record}), "utf-8")
        draft.replace(self._work / RECORD)


def _is_there(client: MlflowClient, run: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run).info.lifecycle_stage == "active")
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _flat(nested: Mapping[str, Mapping[str, Any]], joint: str) -> dict[str, Any]:
    return {f"{outer}{joint}{key}": value for outer, inner in nested.items() for key, value in inner.items()}
