"""Environment variables and the two programs that read them, as real processes: they start, or say why not."""

import os
import subprocess
import sys

import pytest

from service.settings import Settings
from tests.models.test_environment import KUBERNETES
from tests.server import ROOT, Server


def test_a_service_starts_beside_a_kubernetes_service_of_its_name(tmp_path):
    """On its own port, with one line in the log; an unknown name is another line."""
    settings = {
        name.removeprefix("NEUROSERVE_"): value for name, value in KUBERNETES.items() if name != "NEUROSERVE_PORT"
    }
    with Server(tmp_path, workers=1, something_else=1, **settings) as server:
        assert server.client.get("/health/ready").status_code == 200
        lines = [line for line in server.lines if "Kubernetes" in line]
        assert len(lines) == 1, server.log
        assert "NEUROSERVE_GRPC_PORT" in lines[0]
        assert len([line for line in server.lines if "NEUROSERVE_SOMETHING_ELSE" in line]) == 1


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PROT", "80", "NEUROSERVE_PROT is not a setting; did you mean NEUROSERVE_PORT?"),
        ("PORT", "http", "NEUROSERVE_PORT"),
        ("TRAIN_CONCURENCY", "2", "did you mean NEUROSERVE_TRAIN_CONCURRENCY?"),
        ("TRAIN_CONCURRENCY", "two", "NEUROSERVE_TRAIN_CONCURRENCY"),
        ("TRAIN_GPU_MEM_SHARE", "2", "NEUROSERVE_TRAIN_GPU_MEM_SHARE"),
        ("DATABASE_URL", "mysql://neuro:secret@db/jobs", "postgresql://USER:PASSWORD@HOST/NAME"),
        ("ALLOWED_HOSTS", "https://a.example", "NEUROSERVE_ALLOWED_HOSTS"),
        ("CORS_ORIGINS", "app.example", "NEUROSERVE_CORS_ORIGINS"),
        ("ROOT_PATH", "//evil", "NEUROSERVE_ROOT_PATH"),
        ("TRAINER_SILENT_S", "0", "NEUROSERVE_TRAINER_SILENT_S"),
    ],
)
def test_wrong_names_and_values_are_one_sentence(tmp_path, name, value, says):
    """Of the service, and of the worker where it reads them; never a traceback, never a password."""
    environment = {key: each for key, each in os.environ.items() if not key.startswith("NEUROSERVE_")}
    environment |= {"NEUROSERVE_STATE": str(tmp_path), f"NEUROSERVE_{name}": value}
    programs = [["service"], ["training", "worker"]] if name.startswith(("PROT", "TRAIN", "DATA")) else [["service"]]
    for program in programs:
        done = subprocess.run(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "secret" not in done.stderr


def test_an_empty_value_is_no_value(monkeypatch):
    """As for the worker: an empty state folder would be the working directory, and two stores instead of one."""
    for name in [key for key in os.environ if key.startswith("NEUROSERVE_")]:
        monkeypatch.delenv(name)
    plain = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"NEUROSERVE_{name.upper()}", "")
    assert Settings() == plain


def test_other_programs_of_the_training_look_for_typing_errors_too(tmp_path):
    """A wrong name of the state folder would publish into another store."""
    environment = {key: each for key, each in os.environ.items() if not key.startswith("NEUROSERVE_")}
    command = [sys.executable, "-m", "training", "store", "list"]
    environment["NEUROSERVE_STAET"] = str(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "training: NEUROSERVE_STAET is not a setting; did you mean NEUROSERVE_STATE?\n"


def test_a_worker_starts_beside_a_kubernetes_service_of_its_name(tmp_path):
    """It reads other names, and they may be addresses as well."""
    environment = {key: each for key, each in os.environ.items() if not key.startswith("NEUROSERVE_")}
    environment |= KUBERNETES | {"NEUROSERVE_STATE": str(tmp_path), "NEUROSERVE_DATABASE_URL": "tcp://10.0.0.1:5432"}
    command = [sys.executable, "-m", "training", "worker"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        lines = []
        for line in worker.stderr:
            lines.append(line)
            if "takes jobs" in line or "Traceback" in line:
                break
        worker.terminate()
    assert [line for line in lines if "Kubernetes" in line], lines
    assert "Traceback" not in "".join(lines)
