"""The command line as users, operators and the worker see it: real processes, real data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.jobs import JOB_EVENT, JobEvent, Recipes
from models.manifest import read_manifest
from models.store import Store
from training import recipes
from training.__main__ import main
from training.publish import publish, read_draft
from training.registry import UnknownTaskError, get_task, task_names

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT / "models" / "zoo"
FIT = [sys.executable, "-W", "error", "-m", "training", "fit"]


@pytest.fixture(name="env")
def _env(data_dir: Path, tmp_path: Path) -> dict[str, str]:
    return os.environ | {"DATA_DIR": str(data_dir.resolve()), "NEUROSERVE_STATE": str(tmp_path / "state")}


def _events(text: str) -> list[JobEvent]:
    return [JOB_EVENT.validate_json(line) for line in text.splitlines()]


def _of(events: list[JobEvent], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


def _run(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FIT, *arguments], check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_a_child_tells_events_and_leaves_a_candidate_that_publishes(env: dict[str, str], tmp_path: Path) -> None:
    """One epoch of the small network: only JSON on standard output, all stages, a candidate the store takes."""
    work = tmp_path / "job"
    ended = _run(["digit", "--network", "mlp", "--epochs", "1", "--events", "--stage-only", "--work", str(work)], env)
    assert ended.returncode == 0, ended.stderr
    events = _events(ended.stdout)
    stages = [event.stage for event in _of(events, "stage")]
    assert stages == ["data", "fit", "export", "parity", "evaluate", "candidate"]
    assert _of(events, "stage")[-1].path == str(work / "candidate")
    assert [event.row.epoch for event in _of(events, "epoch")] == [1]
    progress = _of(events, "progress")
    assert progress[-1].progress.step == progress[-1].progress.steps == 430
    seconds = (progress[-1].at - progress[0].at).total_seconds()
    assert len(progress) <= 2 * seconds + 3
    result = publish(work / "candidate", Store(tmp_path / "store"), job_id="j")
    assert result.model is not None, result.gate
    assert result.metrics["test"]["accuracy"] > 0.95


@pytest.mark.slow
def test_a_killed_child_goes_on_from_its_last_epoch(env: dict[str, str], tmp_path: Path) -> None:
    """kill -9 in the second epoch, then --resume: epoch 1 is told again, not trained again."""
    arguments = ["digit", "--network", "mlp", "--epochs", "2", "--batch-size", "512", "--work", str(tmp_path / "job")]
    arguments += ["--events", "--stage-only", "--resume"]
    with subprocess.Popen([*FIT, *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            event = JOB_EVENT.validate_json(line)
            if event.type == "progress" and event.progress.epoch == 2:
                child.kill()
                break
    assert child.returncode == -signal.SIGKILL
    ended = _run(arguments, env)
    assert ended.returncode == 0, ended.stderr
    events = _events(ended.stdout)
    assert [event.row.epoch for event in _of(events, "epoch")] == [1, 2]
    assert {event.progress.epoch for event in _of(events, "progress")} == {2}
    assert read_draft(tmp_path / "job" / "candidate").provenance.epochs_run == 2


@pytest.mark.slow
def test_the_child_dies_with_its_parent(env: dict[str, str], tmp_path: Path) -> None:
    """A worker killed outright leaves no training behind."""
    arguments = [*FIT, "digit", "--network", "mlp", "--events", "--stage-only", "--work", str(tmp_path / "job")]
    script = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({arguments!r}, stdout=subprocess.PIPE, text=True)\n"
        "print(child.pid, child.stdout.readline(), end='', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, event = parent.stdout.readline().split(" ", 1)
        assert json.loads(event)["stage"] == "data"
        parent.kill()
    deadline = time.monotonic() + 10
    while _alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(pid))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_failing_child_says_why_in_one_sentence(env: dict[str, str], tmp_path: Path) -> None:
    """Missing data with no mirror to reach: an error event that names the file, and an exit code."""
    env |= {
        "DATA_DIR": str(tmp_path / "empty"),
        "https_proxy": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    ended = _run(["digit", "--events", "--stage-only", "--work", str(tmp_path / "job")], env)
    assert ended.returncode == 1
    errors = _of(_events(ended.stdout), "error")
    assert len(errors) == 1
    assert "train-images-idx3-ubyte.gz is missing and could not be downloaded" in errors[0].message
    assert str(tmp_path / "empty" / "mnist") in errors[0].message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chess"], "there is no task 'chess'; there are"),
        (["digit", "--network", "lstm"], "task digit has no network 'lstm'; it has cnn, mlp"),
        (["digit", "--epochs", "0"], "epochs must be between 1 and 200, not 0"),
        (["digit", "--learning-rate", "nan"], "learning rate must be between 1e-06 and 1, not nan"),
        (["digit", "--seed", "-1"], "seed must be between 0 and"),
    ],
)
def test_a_setting_outside_the_recipe_is_refused_in_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the setting and what is allowed."""
    assert main(["fit", *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"error: {words}")


@pytest.mark.slow
def test_refused_ends_with_its_own_exit_code(env: dict[str, str], tmp_path: Path) -> None:
    """A training with a rate too small to learn is refused: exit code 3, reasons on the screen, an empty store."""
    store = tmp_path / "store"
    arguments = ["digit", "--network", "mlp", "--epochs", "1", "--batch-size", "1024", "--learning-rate", "1e-6"]
    ended = _run([*arguments, "--store", str(store)], env)
    assert ended.returncode == 3, ended.stderr
    assert "but must be at least 0.97" in ended.stdout
    assert "refused by the gate: nothing was published" in ended.stdout
    assert Store(store).names() == []


def test_the_shipped_recipes_are_those_of_the_code() -> None:
    """models/zoo/recipes.json is what `python -m training recipes` writes; run it after changing a task."""
    assert recipes.FILE.read_text("utf-8") == recipes.as_json(recipes.collect())
    assert Recipes.model_validate_json(recipes.FILE.read_text("utf-8")).tasks.keys() == set(task_names())


def test_recipes_are_written_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`recipes --output` writes the same text to another place."""
    assert main(["recipes", "--output", str(tmp_path / "new" / "recipes.json")]) == 0
    assert (tmp_path / "new" / "recipes.json").read_text() == recipes.FILE.read_text()
    assert "wrote" in capsys.readouterr().out


def test_every_recipe_is_sound() -> None:
    """Defaults lie in their ranges, the default network exists, model names are task-network."""
    for name, task in recipes.collect().tasks.items():
        assert next(iter(task.networks)) == task.default_network
        for network, recipe in task.networks.items():
            assert recipe.model == f"{name}-{network}"
            for bounds in (recipe.epochs, recipe.batch_size, recipe.learning_rate):
                assert bounds.min <= bounds.default <= bounds.max


def test_an_unknown_task_is_named() -> None:
    """`base` is no task either."""
    with pytest.raises(UnknownTaskError, match="there is no task 'base'"):
        get_task("base")


@pytest.mark.slow
def test_the_shipped_digit_networks_read_the_test_split_as_promised(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate` scores the shipped files again and finds the figures of their manifests, above the promise."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    store = Store(ZOO)
    for name, promised in (("digit-cnn", 0.993), ("digit-mlp", 0.985)):
        assert main(["evaluate", name, "--store", str(ZOO)]) == 0
        said = capsys.readouterr().out
        live = store.live(name)
        assert live is not None
        accuracy = store.verify(name, live).metrics["test"]["accuracy"]
        assert f"test accuracy: {accuracy:.6f} (published: {accuracy:.6f})" in said
        assert accuracy >= promised


def test_the_shipped_digit_networks_have_the_promised_contract() -> None:
    """Tensors, labels, weights, licences and a command to make them again."""
    store = Store(ZOO)
    for name, weights in (("digit-cnn", 144_587), ("digit-mlp", 753_291)):
        live = store.live(name)
        assert live is not None
        manifest = read_manifest(store.folder(name, live))
        assert [(one.name, one.dtype, one.shape) for one in manifest.inputs] == [("pixels", "uint8", ["batch", 28, 28])]
        assert [(one.name, one.shape) for one in manifest.outputs] == [
            ("probabilities", ["batch", 10]),
            ("outlier", ["batch"]),
        ]
        assert manifest.doubt is not None
        assert manifest.labels == list("0123456789")
        assert manifest.provenance.weights == weights
        assert manifest.provenance.command.startswith("python -m training fit digit --network")
        assert all(source.licence for source in manifest.provenance.data)
        assert manifest.gate is not None
        assert manifest.gate.passed


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "models")
    folder = tmp_path / "models" / "digit-cnn"
    source = Store(ZOO)
    live = source.live("digit-cnn")
    assert live is not None
    draft = source.manifest("digit-cnn", live)
    for _ in range(3):
        staged = store.stage()
        shutil.copytree(source.folder("digit-cnn", live), staged, dirs_exist_ok=True)
        store.publish(staged, draft)
    assert folder.is_dir()
    store.promote("digit-cnn", 1)
    return store


def test_operators_list_verify_promote_roll_back_and_prune(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb does what it says and tells it in a line."""
    at = ["--store", str(store.root)]
    assert main(["store", "promote", "digit-cnn", "3", *at]) == 0
    assert store.live("digit-cnn") == 3
    assert main(["store", "rollback", "digit-cnn", *at]) == 0
    assert store.live("digit-cnn") == 1
    assert main(["store", "prune", "digit-cnn", "--keep", "1", *at]) == 0
    assert store.versions("digit-cnn") == [1, 3]
    assert main(["store", "list", *at]) == 0
    assert main(["store", "verify", *at]) == 0
    (store.root / ".staging" / "left").mkdir()
    assert main(["store", "prune", *at]) == 0
    assert not list((store.root / ".staging").iterdir())
    said = capsys.readouterr().out
    assert "digit-cnn version 3 is live" in said
    assert "removed 2 of digit-cnn" in said
    assert "removed nothing of digit-cnn" in said
    assert "removed 1 leftover of processes that are gone" in said
    assert "digit-cnn    1 live" in said
    assert "digit-cnn 3: whole" in said


def test_a_damaged_version_is_shown_and_fails_the_check(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed file is named and the exit code is 1; a broken manifest does not stop the list."""
    (store.folder("digit-cnn", 2) / "model.onnx").write_bytes(b"x")
    (store.folder("digit-cnn", 3) / "manifest.json").write_text("{}")
    at = ["--store", str(store.root)]
    assert main(["store", "verify", "digit-cnn", *at]) == 1
    assert main(["store", "list", "digit-cnn", *at]) == 0
    said = capsys.readouterr().out
    assert "digit-cnn version 2: model.onnx was changed after it was published" in said
    assert "digit-cnn 3: digit-cnn version 3: manifest.json is not a version 1 manifest" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["store", "verify", "chess"], "has no model chess"),
        (["store", "promote", "digit-cnn", "9"], "has no version 9"),
        (["store", "rollback", "chess"], "there is no model chess"),
        (["store", "rollback", "digit-cnn"], "digit-cnn has no earlier live version to roll back to"),
        (["store", "prune", "chess"], "has no model chess"),
        (["store", "list", "chess"], "has no model chess"),
        (["evaluate", "chess"], "has no live version of chess"),
    ],
)
def test_what_is_not_there_is_said_in_words(
    store: Store, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line on standard error."""
    assert main([*arguments, "--store", str(store.root)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_damaged_version_is_not_promoted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """The file that differs is named, the exit code is 1, and what was live stays."""
    (store.folder("digit-cnn", 2) / "model.onnx").write_bytes(b"x")
    assert main(["store", "promote", "digit-cnn", "2", "--store", str(store.root)]) == 1
    assert "version 2: model.onnx was changed after it was published" in capsys.readouterr().err
    assert store.live("digit-cnn") == 1


def test_operators_use_a_real_shell(store: Store) -> None:
    """`python -m training store …` on a real folder: what it prints and the exit codes 0, 1 and 2."""

    def shell(*arguments: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "training", "store", *arguments, "--store", str(store.root)],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout, ended.stderr

    assert shell("promote", "digit-cnn", "3") == (0, "digit-cnn version 3 is live\n", "")
    assert shell("verify") == (0, "".join(f"digit-cnn {number}: whole\n" for number in (1, 2, 3)), "")
    assert shell("rollback", "digit-cnn") == (0, "digit-cnn version 1 is live\n", "")
    code, said, error = shell("prune", "--keep", "-1")
    assert (code, said) == (2, "")
    assert "-1 is below 0" in error
    code, said, error = shell("promote", "digit-cnn", "9")
    assert (code, said) == (1, "")
    assert error.endswith("digit-cnn has no version 9; it has 1, 2, 3\n")
    assert error.count("\n") == 1


def test_looking_after_a_store_needs_no_torch(store: Store) -> None:
    """The gate, publishing and the operator's verbs work where only the service is installed."""
    script = (
        "import sys, runpy\n"
        "import training, training.gate, training.publish, training.lifeline\n"
        f"sys.argv = ['training', 'store', 'list', '--store', {str(store.root)!r}]\n"
        "try:\n    runpy.run_module('training', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'onnx', 'tqdm'} & sys.modules.keys()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "digit-cnn" in ended.stdout
