"""Keys on a real service: every door asks, the file is followed, and nothing starts open to a network by accident."""

import asyncio
import contextlib
import subprocess
import sys

import httpx
import pytest

from service.keys import new_key
from tests.server import EXAMPLES, ROOT, Server, wait_until

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def secrets():
    return {name: new_key(name, scopes) for name, scopes in {"web": ["predict"], "ops": ["admin"]}.items()}


@pytest.fixture(scope="module")
def closed(tmp_path_factory, secrets):
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys"
    file.write_text(secrets["ops"][1].line + "\n")
    with Server(folder / "state", api_keys=secrets["web"][1].line, api_keys_file=file) as server:
        server.key_file = file
        yield server


def headers(secrets, name):
    return {"Authorization": f"Bearer {secrets[name][0]}"}


def test_each_door_asks_for_its_key(closed, secrets):
    """401 without a key, 403 with another's, and the answer with the right one; probes and pages are open."""
    web, ops = headers(secrets, "web"), headers(secrets, "ops")
    post, get = closed.client.post, closed.client.get
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert get(path).status_code == 200, path
    assert post("/predict/digit", content=SEVEN, headers=PNG | web).json()["digit"] == 7
    assert get("/models", headers=web).status_code == get("/models", headers=ops).status_code == 200
    assert get("/train/recipes", headers=ops).status_code == 200
    for method, path in (("POST", "/predict/digit"), ("GET", "/models"), ("GET", "/train"), ("GET", "/metrics")):
        answer = closed.client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "key_missing"), path
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    assert post("/predict/digit", content=SEVEN, headers=PNG | ops).status_code == 403
    refused = post("/models/digit-cnn/rollback", headers=web)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


def test_a_refused_body_is_not_read(closed):
    """A stranger who announces a large body is answered before it is sent."""

    async def announce():
        reader, writer = await asyncio.open_connection(httpx.URL(closed.url).host, httpx.URL(closed.url).port)
        writer.write(b"POST /predict/digit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n")
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        return line

    assert b"401" in asyncio.run(announce())


def test_the_document_tells_of_keys(closed):
    """Swagger's Authorize button has something to ask for, and each operation says which scope it needs."""
    document = closed.client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    train = document["paths"]["/train"]["post"]
    assert train["security"] == [{"key": []}]
    assert "scope `admin`" in train["description"]
    assert {"401", "403"} <= set(train["responses"])
    assert "security" not in document["paths"]["/health/live"]["get"]


def test_no_secret_is_shown_anywhere(closed, secrets):
    """Neither the log nor the metrics repeat a key, wrong ones included."""
    wrong = "a-wrong-key-that-somebody-tried"
    closed.client.get("/models", headers={"Authorization": f"Bearer {wrong}"})
    seen = closed.log + closed.client.get("/metrics", headers=headers(secrets, "ops")).text
    assert wrong not in seen
    assert all(secret not in seen for secret, _ in secrets.values())


def test_a_key_taken_from_the_file_opens_nothing_any_more(closed, secrets):
    """Every worker follows the file, also on a connection that was let in before."""
    secret, key = new_key("late", ["predict"])
    late = {"Authorization": f"Bearer {secret}"}
    lines = closed.key_file.read_text()

    def statuses():
        with contextlib.ExitStack() as stack:  # open together, so that every worker has some of them
            fresh = [stack.enter_context(httpx.Client(base_url=closed.url)) for _ in range(8)]
            return {each.post("/predict/digit", content=SEVEN, headers=PNG | late).status_code for each in fresh}

    with httpx.Client(base_url=closed.url) as kept:
        assert kept.post("/predict/digit", content=SEVEN, headers=PNG | late).status_code == 401
        closed.key_file.write_text(lines + key.line + "\n")
        wait_until(lambda: statuses() == {200}, 5)
        assert kept.post("/predict/digit", content=SEVEN, headers=PNG | late).status_code == 200
        closed.key_file.write_text(lines)
        wait_until(lambda: statuses() == {401}, 5)
        assert kept.post("/predict/digit", content=SEVEN, headers=PNG | late).status_code == 401


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0"}, "NEUROSERVE_ALLOW_OPEN_NETWORK=true"),
        ({"api_keys": "web:predict:short"}, "at least 16"),
        ({"api_keys_file": "/nowhere/keys"}, "cannot be read"),
    ],
)
def test_a_service_that_would_be_open_or_locked_by_mistake_does_not_start(tmp_path, settings, says):
    """One sentence says what to set."""
    said = Server(tmp_path, **settings).refused()
    assert says in said
    assert "Traceback" not in said


def test_the_command_makes_a_key_that_works():
    """Standard output is the line to keep, the secret goes to the terminal alone."""
    command = [sys.executable, "-m", "service", "key", "web", "--scope", "predict", "--scope", "admin"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout.startswith("web:admin+predict:sha256:")
    assert "Authorization: Bearer ns_" in made.stderr
