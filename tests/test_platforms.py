"""Where it runs, told in a sentence elsewhere; and that no process of ours calls the maker of a library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.platforms import refusal
from tests.server import ROOT, SHIPPED, Server, shipped

PRETEND = """
import asyncio, platform, sys, runpy, urllib.request
sys.platform, sys.maxsize = {system!r}, {largest}
platform.machine = lambda: {machine!r}
sys.modules["fcntl"] = None
sys.argv = {arguments!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
ELSEWHERE = {
    "Windows": ("win32", "AMD64", 2**63 - 1, "WSL 2"),
    "an Intel Mac": ("darwin", "x86_64", 2**63 - 1, "Intel Mac"),
    "a 32-bit Python": ("linux", "armv7l", 2**31 - 1, "32-bit"),
}


@pytest.mark.parametrize("module", ["service", "training", "neuroserve"])
@pytest.mark.parametrize("place", ELSEWHERE)
def test_elsewhere_a_start_is_refused_in_a_sentence(place, module):
    """Not by an ImportError of some module: what it needs, and what runs there all the same."""
    system, machine, largest, says = ELSEWHERE[place]
    arguments = [module, *{"training": ["worker"], "neuroserve": ["serve"]}.get(module, [])]
    code = PRETEND.format(system=system, machine=machine, largest=largest, arguments=arguments, module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("neuroserve: neuroserve runs on 64-bit Linux and on Macs with Apple silicon")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_elsewhere_the_models_package_says_so_when_it_is_imported():
    """A library does not end the program that imports it."""
    code = "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import models.store"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ImportError: neuroserve runs on 64-bit Linux")


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_machines_that_it_is_made_for_are_not_refused(monkeypatch, system):
    """64-bit Linux of any maker, Apple silicon."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: "arm64" if system == "darwin" else "aarch64")
    assert refusal() is None


# ---------------------------------------------------------------------- a dependency's reports home


MODEL = SHIPPED.folder("digit-mlp", shipped("digit-mlp")) / "model.onnx"
SESSION = "import onnxruntime, time; onnxruntime.InferenceSession({model!r}); time.sleep(1.5)"


def left_in(home: Path, code: str) -> list[str]:
    """The files that a program leaves in its user's folder."""
    unset = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "CI"}  # in CI the library reports nothing by itself
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=ROOT, env={**environment, "HOME": str(home)}, check=True, capture_output=True)
    return [str(path) for path in home.rglob("*") if "onnxruntime" in str(path).lower()]


@pytest.mark.parametrize("package", ["service.engine", "training.export", "models", "neuroserve.client", "tests.bench"])
def test_onnx_runtime_reports_nothing_home(tmp_path, package):
    """Whichever of our packages is imported before it; it would leave an id of the machine in ~/.cache."""
    assert left_in(tmp_path, f"import {package}; {SESSION.format(model=str(MODEL))}") == []


def test_the_check_sees_a_report(tmp_path):
    """Without any of our packages the file is there: the test above would notice."""
    assert left_in(tmp_path, SESSION.format(model=str(MODEL)))


def test_a_running_service_leaves_no_report(tmp_path, monkeypatch):
    """With models loaded, in all its processes."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "home").mkdir()
    with Server(tmp_path / "state", workers=2) as server:
        assert server.client.get("/health/ready").status_code == 200
    assert list((tmp_path / "home").rglob("*onnxruntime*")) == []
