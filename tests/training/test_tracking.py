"""What a training writes down besides: TensorBoard's event files, and a run on a real MLflow server."""

import json
import os
import re
import time
from types import SimpleNamespace

import pytest

from models.jobs import EpochRow, JobSpec
from tests.server import SHIPPED, free_port
from tests.training.eventfiles import figures
from training import tracking, worker
from training.__main__ import main
from training.mlflow_run import MlflowRun, connect
from training.mlmodel import mlmodel
from training.tensorboard import EventFiles

SPEC = JobSpec(task="digit", network="mlp", epochs=3, batch_size=64, learning_rate=0.01)


def row(epoch):
    return EpochRow(epoch=epoch, train_loss=1 / epoch, val_loss=2 / epoch, val_metric=0.9, seconds=0.5)


@pytest.fixture(name="draft")
def _draft():
    return SHIPPED.manifest("digit-mlp", SHIPPED.live("digit-mlp"))


def test_event_files_of_a_resumed_run_hold_each_epoch_once(tmp_path, draft):
    """Two processes, the first cut off without a close: one folder, and TensorBoard reads no epoch twice."""
    first = EventFiles(tmp_path / "tb", "digit-mlp", tmp_path / "work", print, resume=False)
    for epoch in (1, 2):
        first.epoch(row(epoch))
    second = EventFiles(tmp_path / "tb", "digit-mlp", tmp_path / "work", print, resume=True)
    for epoch in (1, 2, 3):
        second.epoch(row(epoch))
    second.candidate(tmp_path, draft)
    second.close()
    first.close()
    assert second.folder == first.folder
    assert len(list(first.folder.iterdir())) == 2
    read = figures(first.folder)
    assert read["loss/train"] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    assert read["metric/validation"] == [(1, 0.9), (2, 0.9), (3, 0.9)]
    assert read["candidate_test/accuracy"] == [
        (draft.provenance.epochs_run, round(draft.metrics["test"]["accuracy"], 4))
    ]


def test_another_run_gets_another_folder(tmp_path):
    """Without a resume the figures of two runs do not mix."""
    folders = {EventFiles(tmp_path, "digit-mlp", tmp_path / "work", print, resume=False).folder for _ in range(2)}
    assert len(folders) == 2


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    """At the start, in a sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(tracking.TrackingError, match="the folder cannot be written"):
        EventFiles(tmp_path / "file", "digit-mlp", tmp_path / "work", print, resume=False)


@pytest.mark.parametrize(
    ("package", "arguments", "uri"),
    [("mlflow", [], "http://127.0.0.1:1"), ("tensorboard", ["--tensorboard", "var/tb"], "")],
)
def test_a_missing_package_is_refused_before_anything_begins(
    package, arguments, uri, monkeypatch, capsys, caplog, tmp_path
):
    """The command line and the worker name the extra to install; neither trains."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    real = tracking.importlib.util.find_spec
    monkeypatch.setattr(
        tracking.importlib.util, "find_spec", lambda name, *rest: None if name == package else real(name, *rest)
    )
    assert main(["fit", "digit", "--work", str(tmp_path / "work"), *arguments]) == 1
    words = f"the package {package} is missing: pip install 'neuroserve[{package}]'"
    assert words in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    assert worker.main(["--state", str(tmp_path / "state"), *arguments]) == os.EX_CONFIG
    assert words in caplog.text


def test_the_worker_hands_the_flag_to_its_children(tmp_path):
    """As a whole path: a child may work elsewhere."""
    settings = worker._settings(["--state", str(tmp_path), "--tensorboard", str(tmp_path / "tb")], ("fit",))
    assert settings.jobs.fit == ("fit", "--tensorboard", str(tmp_path / "tb"))
    assert worker._settings(["--state", str(tmp_path)], ("fit",)).jobs.fit == ("fit",)


def test_the_model_file_tells_dtypes_and_shapes(draft):
    """The signature is the manifest's, dynamic axes are -1, and both flavours point at the ONNX."""
    told = json.loads(mlmodel(draft, "run", "3"))
    assert {flavor["data"] for flavor in told["flavors"].values()} == {"model.onnx"}
    [pixels] = json.loads(told["signature"]["inputs"])
    assert (pixels["name"], pixels["tensor-spec"]) == ("pixels", {"dtype": "uint8", "shape": [-1, 28, 28]})


def test_a_server_that_is_away_costs_seconds_and_one_sentence(tmp_path, monkeypatch):
    """Nothing raises, nothing hangs, a password in the address is not told."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    said, begun = [], time.monotonic()
    run = MlflowRun(SPEC, tmp_path, said.append, resume=False)
    for epoch in range(1, 30):
        run.epoch(row(epoch))
    run.failed("stopped")
    assert time.monotonic() - begun < 30
    assert len(said) == 1, said
    assert re.match(r"MLflow at http://127\.0\.0\.1:\d+ takes nothing at the moment, the training goes on: ", said[0])
    assert "secret" not in said[0]


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    """Without the variable a job's end loads no client and tells nothing."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.conclude(SPEC, tmp_path, "job", None, "why") == []
    assert not list(tmp_path.iterdir())


class Server:
    """What of MLflow's client a run needs, in memory; `away` makes every call fail."""

    def __init__(self):
        self.runs, self.tags, self.points, self.ended, self.away = [], {}, [], [], False

    def __getattribute__(self, name):
        if not name.startswith("_") and name != "away" and self.away:
            raise ConnectionError("nobody is there")
        return super().__getattribute__(name)

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment, run_name):
        self.runs.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run-{len(self.runs)}"))

    def get_run(self, run):
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage="active"))

    def update_run(self, run, status):
        self.ended.append(status)

    def get_metric_history(self, run, key):
        return [SimpleNamespace(step=step) for at, name, step in self.points if at == run and name == key]

    def log_batch(self, run, metrics=(), params=()):
        self.points += [(run, one.key, one.step) for one in metrics]

    def set_tag(self, run, key, value):
        self.tags[key] = value

    def set_terminated(self, run, status):
        self.ended.append(status)


@pytest.fixture(name="memory")
def _memory(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    connect("http://elsewhere:5000")  # imports the package with its warnings kept
    return Server()


def test_a_server_that_dies_and_comes_back_misses_nothing(memory, tmp_path, monkeypatch):
    """It is asked again after a while, not at every epoch, and both are said once; then it has each epoch once."""
    clock = iter(range(0, 10_000, 25))
    monkeypatch.setattr("training.mlflow_run.time.monotonic", lambda: float(next(clock)))
    said = []
    run = MlflowRun(SPEC, tmp_path, said.append, resume=False, client=memory)
    run.epoch(row(1))
    memory.away = True
    for epoch in range(2, 8):
        run.epoch(row(epoch))
    memory.away = False
    for epoch in range(8, 14):
        run.epoch(row(epoch))
    assert [step for _, name, step in memory.points if name == "val_loss"] == list(range(1, 14))
    assert memory.runs == ["digit-mlp"]
    assert [words.split(": ")[0] for words in said] == [
        "MLflow at http://elsewhere:5000 takes nothing at the moment, the training goes on",
        "MLflow at http://elsewhere:5000 answers again and has been told what it missed",
    ]


def test_a_resumed_run_goes_on_and_a_new_one_begins_anew(memory, tmp_path):
    """The work folder keeps the run; without a resume it is another training."""
    for resume, last in ((False, 2), (True, 3), (False, 1)):
        run = MlflowRun(SPEC, tmp_path, pytest.fail, resume=resume, client=memory)
        for epoch in range(1, last + 1):
            run.epoch(row(epoch))
    told = [(run, step) for run, name, step in memory.points if name == "val_loss"]
    assert told == [("run-1", 1), ("run-1", 2), ("run-1", 3), ("run-2", 1)]


@pytest.mark.parametrize(("error", "status"), [("the loss is no number", "FAILED"), (None, "KILLED")])
def test_a_job_without_a_result_ends_its_run_so(memory, tmp_path, error, status):
    """Failed with the reason, or killed when it was cancelled; a job that has no run gets none for that."""
    MlflowRun(SPEC, tmp_path, pytest.fail, resume=True, client=memory).conclude("job", None, error)
    assert memory.runs == []
    MlflowRun(SPEC, tmp_path, pytest.fail, resume=True, client=memory).epoch(row(1))
    MlflowRun(SPEC, tmp_path, pytest.fail, resume=True, client=memory).conclude("job", None, error)
    assert memory.ended[-1] == status
    assert memory.tags == {"neuroserve.job_id": "job", "neuroserve.error": error or "cancelled"}
