"""README tells the truth: settings, routes and commands exist as written."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from models.store import Store
from service.settings import Settings
from tests.server import EXAMPLES, Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text("utf-8")


def settings_table():
    rows = re.findall(r"^\| `NEUROSERVE_([A-Z_]+)` \| (.*?) \| (.*?) \|$", SETTINGS, re.MULTILINE)
    return {name.lower(): (default, meaning) for name, default, meaning in rows}


def shown(value):
    return "" if value is None else f"`{value}`"


def test_every_setting_is_in_the_table_with_its_default_and_meaning():
    """The table is the class, row by row."""
    expected = {name: (shown(field.default), field.description) for name, field in Settings.model_fields.items()}
    assert settings_table() == expected


def test_every_make_target_it_names_exists():
    """A command that is shown can be typed."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def curl_examples():
    """(command, answer) pairs: each curl line of README that is followed by its JSON answer."""
    return re.findall(
        r"```sh\ncurl -s (\S+) -H '([^']+)' (?:--data-binary|-d) @(\S+)\n```\n```json\n(.*?)\n```", README, re.DOTALL
    )


@pytest.mark.parametrize("number", range(3))
def test_the_curl_calls_give_the_answers_that_are_shown(service, number):
    """The three calls, as typed, on the shipped models."""
    examples = curl_examples()
    assert len(examples) == 3
    url, header, file, answer = examples[number]
    name, _, value = header.partition(": ")
    path = url.removeprefix("http://127.0.0.1:8000")
    got = service.client.post(path, content=(ROOT / file).read_bytes(), headers={name: value}).json()
    assert (ROOT / file).parent == EXAMPLES
    check_alike(got, json.loads(answer))


def check_alike(got, told):
    """Equal within the rounding of README; a list that is shown shortened is compared as far as it is shown."""
    if isinstance(told, dict):
        assert got.keys() == told.keys()
        for key in told:
            check_alike(got[key], told[key])
    elif isinstance(told, list):
        assert told
        for mine, theirs in zip(got, told, strict=False):
            check_alike(mine, theirs)
    elif isinstance(told, float):
        assert got == pytest.approx(told, abs=6e-3)
    else:
        assert got == told


def test_every_route_of_the_schema_is_a_route_and_has_an_example(service):
    """`/openapi.json` is complete: each documented path answers, each body has an example."""
    document = service.client.get("/openapi.json").json()
    paths = set(document["paths"])
    assert {"/predict/digit", "/predict/digit/batch", "/predict/sequence", "/predict/sequence/batch"} <= paths
    assert {"/train", "/train/recipes", "/train/{id}", "/train/{id}/events"} <= {
        p.replace("{job_id}", "{id}") for p in paths
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                if kind == "application/json":
                    examples = [each["value"] for each in media.get("examples", {}).values()] or media["schema"]
                    assert examples, path


def test_the_examples_of_the_docs_work_as_they_are(service):
    """Every JSON example of a predict route, posted unchanged, is answered."""
    document = service.client.get("/openapi.json").json()
    count = 0
    for path, methods in document["paths"].items():
        if not path.startswith("/predict"):
            continue
        for example in methods["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            answer = service.client.post(path, json=example["value"])
            assert answer.status_code == 200, (path, answer.text)
            count += 1
    assert count >= 7


def test_the_text_that_is_not_to_be_believed_gets_the_answer_that_is_shown(service):
    """With the warning that is shown."""
    section = README.partition("## When not to believe it")[2]
    body, answer = re.search(r"-d '([^']+)'\n```\n```json\n(.*?)\n```", section, re.DOTALL).groups()
    got = service.client.post("/predict/sequence", json=json.loads(body)).json()
    check_alike(got, json.loads(answer))


def test_the_canary_commands_work_after_the_training_that_is_shown(tmp_path):
    """As typed, on the version that the section before has left live; here it is a copy of the shipped one."""
    section = README.partition("## Try a version before it goes live")[2].partition("```sh\n")[2].partition("```")[0]
    commands = [line.partition("  #")[0].strip() for line in section.splitlines()]
    with Server(tmp_path, workers=1) as server:
        store = Store(tmp_path / "models")
        before = store.live("digit-cnn")
        staged = store.stage()
        shutil.copytree(store.folder("digit-cnn", before), staged, dirs_exist_ok=True)
        version = store.publish(staged, store.manifest("digit-cnn", before)).version
        store.promote("digit-cnn", version)
        assert f'"version": {version}, "live": true' in README
        script = "\n".join(f"{line} || exit 1" for line in commands).replace("curl -s", "curl -sSf")
        script = script.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        assert store.live("digit-cnn") == version
