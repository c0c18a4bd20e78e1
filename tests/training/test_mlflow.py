"""Trainings and jobs written to a real MLflow server, and read with its own client."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from models.jobs import JOB_EVENT
from models.store import Store
from tests.server import ROOT, free_port, wait_until
from tests.training.eventfiles import figures
from tests.workers import Desk, WorkerProcess, plan
from training.mlflow_run import RECORD, connect

MLFLOW = ROOT / "var" / "mlflow" / "bin" / "python"
LOOK = """
import json, sys
from mlflow.models import get_model_info
told = get_model_info(sys.argv[1]).signature
print(json.dumps([[one.name, str(one.type), list(one.shape)] for one in (*told.inputs, *told.outputs)]))
"""


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory):
    assert MLFLOW.is_file(), "no MLflow; run: sh tests/fetch_mlflow.sh var/mlflow"
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    store = ("--backend-store-uri", f"sqlite:///{folder}/runs.sqlite", "--artifacts-destination", str(folder / "files"))
    listen = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    with (folder / "log").open("w") as stream:
        process = subprocess.Popen(
            [str(MLFLOW), "-m", "mlflow", "server", *store, *listen],
            cwd=folder,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _healthy(uri) or process.poll() is not None, 120)
        assert process.poll() is None, (folder / "log").read_text()
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _healthy(uri):
    try:
        return httpx.get(f"{uri}/health").status_code == 200
    except httpx.HTTPError:
        return False


def _fit(work, env, *more):
    arguments = ("digit", "--network", "mlp", "--epochs", "2", "--batch-size", "512", "--work", str(work), "--resume")
    return [sys.executable, "-m", "training", "fit", *arguments, *more], {"cwd": ROOT, "env": env, "text": True}


def _killed_in_its_second_epoch(work, env):
    command, options = _fit(work, env, "--events", "--stage-only")
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as child:
        for line in child.stdout:
            event = JOB_EVENT.validate_json(line)
            if event.type == "progress" and event.progress.epoch == 2:
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_and_resumed_training_is_one_run_with_a_registered_model(server, data_dir, tmp_path):
    """Settings, each epoch once, figures, verdict; other clients read the signature of the version in the registry."""
    env = os.environ | {"MLFLOW_TRACKING_URI": server, "DATA_DIR": str(data_dir.resolve())}
    work, store = tmp_path / "work", Store(tmp_path / "store")
    _killed_in_its_second_epoch(work, env)
    command, options = _fit(work, env, "--store", str(store.root), "--tensorboard", str(tmp_path / "tb"))
    ended = subprocess.run(command, capture_output=True, check=False, timeout=300, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "MLflow" not in ended.stdout, ended.stdout

    client = connect(server)
    [run] = client.search_runs([client.get_experiment_by_name("neuroserve").experiment_id])
    manifest = store.manifest("digit-mlp", 1)
    assert run.info.run_id == json.loads((work / RECORD).read_text())["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.params.items() >= {"network": "mlp", "epochs": "2", "batch_size": "512", "seed": "0"}.items()
    for name in ("train_loss", "val_loss", "val_metric", "seconds"):
        told = {one.step: one.value for one in client.get_metric_history(run.info.run_id, name)}
        assert told == {kept["epoch"]: pytest.approx(kept[name]) for kept in manifest.provenance.history}
        assert len(client.get_metric_history(run.info.run_id, name)) == 2
    assert run.data.metrics["test_accuracy"] == pytest.approx(manifest.metrics["test"]["accuracy"])
    assert run.data.tags["neuroserve.gate"] == "passed"

    [version] = client.search_model_versions("name='digit-mlp'")
    assert version.tags == {"neuroserve.version": "1", "neuroserve.live": "true"}
    assert version.run_id == run.info.run_id
    told = subprocess.run(
        [str(MLFLOW), "-c", LOOK, f"models:/digit-mlp/{version.version}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    shapes = [[-1 if isinstance(size, str) else size for size in one.shape] for one in manifest.inputs]
    assert json.loads(told.stdout)[0] == ["pixels", "uint8", shapes[0]]
    assert ["probabilities", "float32", [-1, 10]] in json.loads(told.stdout)
    [folder] = (tmp_path / "tb").iterdir()
    assert [step for step, _ in figures(folder)["loss/train"]] == [1, 2]


@pytest.mark.slow
def test_a_refused_job_ends_its_run_with_the_verdict(server, tmp_path, monkeypatch):
    """The worker writes the end of what its child has trained: the reasons as tags, and nothing in the registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "jobs")
    plan(tmp_path, accuracy=0.1)
    with WorkerProcess(tmp_path) as running:
        desk = Desk(tmp_path)
        try:
            job = desk.put()
            client = connect(server)
            wait_until(lambda: _ended_runs(client) or running.process.poll() is not None, 60)
        finally:
            desk.close()
    [run] = _ended_runs(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["neuroserve.job_id"] == job
    assert run.data.tags["neuroserve.gate"] == "refused"
    assert "0.1" in run.data.tags["neuroserve.gate.reasons"]
    assert run.data.metrics["validation_accuracy"] == pytest.approx(0.1)
    assert not client.search_model_versions(f"run_id='{run.info.run_id}'")


def _ended_runs(client):
    found = client.get_experiment_by_name("jobs")
    runs = [] if found is None else client.search_runs([found.experiment_id])
    return [run for run in runs if run.info.status == "FINISHED"]
