"""The whole OpenAPI document against a real service: whatever schemathesis sends, each answer is a documented one.

Two runs of its command line, one without keys and one with: examples, boundary values and random data, valid and not,
and its checks: no 5xx, documented status, content type, headers and body, what is invalid is refused, `Allow` is right,
and no operation that asks for a key answers without. Nothing is trained: jobs wait for a worker that never comes.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import schemathesis

from models.jobs import JOB_EVENT
from service.keys import new_key
from service.security import ANY, needed_scope
from tests.server import EXAMPLES, Server, wait_until

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).with_name("schemathesis.toml")
EVENTS = "/train/{job_id}/events"
CASES = 2_000
FOLLOWED = {"name": "digit-cnn", "version": "3", "job_id": "0b9f6a3e-6f0b-5d7c-9a51-0a5b8f3c2d11"}


@pytest.fixture(scope="module")
def secrets():
    """Three keys: for each scope alone, and for both."""
    scopes = {"web": ["predict"], "ops": ["admin"], "all": ["predict", "admin"]}
    return {name: new_key(name, of) for name, of in scopes.items()}


@pytest.fixture(scope="module")
def services(tmp_path_factory, secrets):
    """One service without keys, and one with; their stores are changed by what is sent."""
    folder = tmp_path_factory.mktemp("schemathesis")
    keys = ",".join(key.line for _, key in secrets.values())
    with (
        Server(folder / "open", trainer="external", workers=1) as plain,
        Server(folder / "closed", trainer="external", workers=1, api_keys=keys) as closed,
    ):
        yield {"open": plain, "closed": closed}


def bearer(secrets, name):
    return {"Authorization": f"Bearer {secrets[name][0]}"}


def run(server, folder, seed, *options):
    """The report of one run of schemathesis; its own words where something was found."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    command += [f"{server.url}/openapi.json", "--exclude-path", EVENTS, "--phases", "examples,coverage,fuzzing"]
    # One worker: CPython 3.11 may stumble when two threads read source code at once, as hypothesis does.
    command += ["--max-examples", "30", "--seed", str(seed), "--generation-database", "none", "--workers", "1"]
    command += ["--request-timeout", "30", "--suppress-health-check", "all", "--no-color", "--continue-on-failure"]
    command += ["--report", "json", "--report-json-path", "report.json", "--warnings", "off", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr}"
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_every_answer_is_a_documented_one(services, secrets, tmp_path):
    """Without keys and with: 2,000 cases and more over every operation, not one answer that the document lacks."""
    cases = 0
    for seed, (name, server) in enumerate(services.items(), 1):
        options = ["-H", f"Authorization: {bearer(secrets, 'all')['Authorization']}"] if name == "closed" else []
        report = run(server, tmp_path, seed, *options)
        assert report["complete"]
        operations = report["operations"]
        assert operations["tested"] == operations["total"] - 1, "every operation but the stream of events"
        assert (operations["errored"], report["test_cases"]["errored"], report["errors"]) == (0, 0, [])
        cases += report["test_cases"]["generated"]
        print(f"{name}, seed {seed}: {report['test_cases']} in {report['running_time']:.0f} s")
    assert cases >= CASES


def operations_of(server):
    """Every operation of the document, by method and path, as schemathesis understands it."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def test_every_operation_asks_for_its_key(services, secrets):
    """401 without a key and with a wrong one, 403 with a key for something else, both as documented; else neither."""
    server, asked = services["closed"], 0
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for operation in operations_of(server):
            method, path = operation.method.upper(), operation.path.format(**FOLLOWED)
            scope = needed_scope(method, path)
            if scope is None:
                assert client.request(method, path).status_code not in {401, 403}, operation.label
                continue
            asked += 1
            for headers in ({}, {"Authorization": "Bearer not-a-key-of-this-place"}, {"Authorization": "Basic YTpi"}):
                refused = client.request(method, path, headers=headers)
                assert refused.status_code == 401, operation.label
                operation.validate_response(refused)
            if scope != ANY:
                refused = client.request(method, path, headers=bearer(secrets, "ops" if scope == "predict" else "web"))
                assert refused.status_code == 403, operation.label
                operation.validate_response(refused)
    assert asked >= 30


def test_the_stream_of_events_is_as_documented(services):
    """What schemathesis leaves out, as the stream of a waiting job has no end: unknown, waiting and cancelled jobs."""
    server = services["open"]
    (operation,) = (each for each in operations_of(server) if each.path == EVENTS)
    client = server.client
    job = wait_until(lambda: submit(client), 30)["id"]
    strange = ["x", "%00", "9" * 500, "%F0%9F%98%80", "..%2f..", FOLLOWED["job_id"]]
    for place in strange:
        answer = client.get(f"/train/{place}/events")
        assert answer.status_code == 404, place
        operation.validate_response(answer)
    for after in ("-1", "x", "1" * 16, "1e3"):
        answer = client.get(f"/train/{job}/events", headers={"Last-Event-ID": after})
        assert answer.status_code == 422, after
        operation.validate_response(answer)
    with client.stream("GET", f"/train/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert any(line == "event: status" for line in stream.iter_lines())
    assert client.delete(f"/train/{job}").status_code == 202
    ended = client.get(f"/train/{job}/events")  # now it has an end
    events = re.findall(r"event: (.*)\ndata: (.*)\n", ended.text)
    assert [JOB_EVENT.validate_python({"type": name, **json.loads(data)}).type for name, data in events][-1] == "done"
    assert client.get(f"/train/{job}/events", headers={"Last-Event-ID": "9" * 15}).status_code == 204


def submit(client):
    """A waiting job's answer; None while the queue is full, after one place in it was made."""
    answer = client.post("/train", json={"task": "digit"})
    if answer.status_code != 429:
        return answer.json()
    for job in client.get("/train?status=queued&limit=1").json()["jobs"]:
        client.delete(f"/train/{job['id']}")
    return None


def test_nothing_was_trained_and_all_answers_are_right_still(services, secrets):
    """After all of it both services recognise a seven, and no job has begun."""
    seven = (EXAMPLES / "seven.png").read_bytes()
    for name, server in services.items():
        headers = bearer(secrets, "all") if name == "closed" else {}
        answer = server.client.post("/predict/digit", content=seven, headers={"Content-Type": "image/png", **headers})
        assert answer.json()["digit"] == 7
        jobs = server.client.get("/train?limit=100", headers=headers).json()["jobs"]
        assert {job["status"] for job in jobs} <= {"queued", "cancelled"}
        assert "Traceback" not in server.log
