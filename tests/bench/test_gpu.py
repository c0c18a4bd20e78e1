"""The GPU's benchmark runs from end to end: on a CPU, for its figures there prove nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from service import device
from service.device import CPU
from tests.bench import gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_figure_is_measured_and_written(tmp_path, data_dir, monkeypatch):
    """`--device cpu --quick` goes through every step that a GPU's run has."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "tests.bench.gpu", "--device", "cpu", "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(file.read_text())
    steps = {"session", "session_two", "engine", "bound", "batcher", "graphs"}
    assert set(report["models"]) == set(report["http"]["models"]) == set(gpu.FLAGSHIPS)
    for name, found in report["models"].items():
        assert set(found["best_rows_per_s"]) == steps
        assert min(found["best_rows_per_s"].values()) > 0
        assert found["nodes"][CPU] > 10
        for step in report["http"]["models"][name].values():
            assert step["failures"] == 0
            assert 0 < step["p50_ms"] <= step["p99_ms"]
            assert step["rows_per_s"] > 0
    assert report["http"]["swaps"]["failures"] == 0
    assert report["http"]["swaps"]["swap_median_s"] > 0
    assert report["http"]["memory"]["after"]["rss_mb"] > 50
    assert report["machine"]["versions"]["numpy"]
    assert set(report["on"].values()) == {CPU}
    assert "| digit-cnn | HTTP, one_connection |" in done.stdout


def test_it_refuses_where_there_is_no_cuda(monkeypatch, capsys):
    """A CPU's figures are never taken for a GPU's."""
    monkeypatch.setattr(device, "driver_present", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match=r"no NVIDIA driver was found.*\n.*--device cpu only tries the program out"):
        gpu.main()
    assert capsys.readouterr().out == ""


def test_it_names_the_data_that_is_missing(monkeypatch, tmp_path):
    """The file and the variable that says where to look."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit, match=r"t10k-images-idx3-ubyte.gz is missing; set DATA_DIR"):
        gpu.main()


def test_a_child_that_dies_is_a_figure_that_is_missing_with_its_reason(monkeypatch):
    """A failed capture may end its process: the others' figures stay."""
    dead = subprocess.CompletedProcess([], -6, "", "terminate called after throwing an instance")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: dead)
    options = type("Options", (), {"device": "cuda", "seconds": 1.0, "quick": False})
    model = type("Model", (), {"name": "digit-cnn"})
    rates, reason = gpu._in_a_child(model, device.Device("cuda", True, ""), options)
    assert rates == {}
    assert reason == "exit code -6: terminate called after throwing an instance"
