"""Host names, pages of other origins and path prefixes on a real service, over both ways a request may take."""

import asyncio
import re
import socket

import grpc
import httpx
import pytest

from service.oip.rpc.messages import INFERENCE
from tests.server import EXAMPLES, Server

SEVEN = (EXAMPLES / "seven.png").read_bytes()
EVIL = {"Origin": "http://evil.example"}
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A service that opens its predict routes to one page, and answers to one more name."""
    settings = {"cors_origins": PAGE, "allowed_hosts": "models.example.com", "grpc_port": 0, "trainer": "external"}
    with Server(tmp_path_factory.mktemp("opened"), **settings) as server:
        yield server


def sent(server, path, *lines, method="POST", body=SEVEN):
    """The status, head and body of an answer to such a request; the lines come first in its head."""
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port), 10) as line:
        head = [f"{method} {path} HTTP/1.1", *lines, "Content-Type: image/png", f"Content-Length: {len(body)}"]
        line.sendall("\r\n".join(head).encode() + b"\r\nConnection: close\r\n\r\n" + body)
        said = b"".join(iter(lambda: line.recv(65536), b""))
    head, _, content = said.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), content


@pytest.mark.parametrize(
    "path", ["/predict/digit", "/v2/models/digit-cnn/infer", "/models/digit-cnn/rollback", "/train"]
)
@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["Host: evil.example"], "host_not_allowed"),
        (["Host: 127.0.0.1", "Origin: http://evil.example"], "origin_not_allowed"),
        (["Host: 127.0.0.1", "Origin: null"], "origin_not_allowed"),
        (["Origin: null", "Host: 127.0.0.1", "X-Forwarded-Host: evil.example"], "host_not_allowed"),
        (["Host: 127.0.0.1", "X-Forwarded-Host: evil.example"], "host_not_allowed"),
    ],
)  # fmt: skip
def test_strangers_are_refused_on_every_way(service, path, lines, code):
    """Ten times in a row, with honest requests of nearly the same head between, which are answered."""
    for _ in range(10):
        status, _, content = sent(service, path, *lines)
        assert status == 403
        assert b"NEUROSERVE_" in content
        assert path.startswith("/v2") or code.encode() in content
        assert sent(service, "/predict/digit", "Host: 127.0.0.1")[0] == 200
    assert sent(service, "/predict/digit?model=digit-mlp", *lines)[0] == 403


def test_a_form_of_a_page_is_refused(service):
    """Multipart and plain text need no preflight: a browser sends them from any page."""
    files = {"file": ("seven.png", SEVEN, "image/png")}
    for path in ("/predict/digit", "/predict/digit/batch", "/train"):
        assert service.client.post(path, files=files, headers=EVIL).json()["code"] == "origin_not_allowed"
        assert service.client.post(path, content=b"{}", headers=EVIL).status_code == 403
    assert service.client.post("/predict/digit", files=files).json()["digit"] == 7
    own = {"Origin": service.url}
    assert service.client.post("/predict/digit", files=files, headers=own).json()["digit"] == 7


def test_probes_answer_to_any_name_and_pages_to_any_page(service):
    """A monitor calls a machine as it likes; what any page may show, any page may read."""
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert service.client.get(path, headers={"Host": "neuroserve.default.svc"}).status_code == 200
    assert service.client.get("/", headers={"Host": "neuroserve.default.svc"}).status_code == 403
    assert service.client.get("/docs", headers=EVIL).status_code == 200
    assert service.client.get("/models", headers=EVIL).status_code == 403


def test_a_listed_page_may_ask_for_predictions_only(opened):
    """The preflight says so, and the answer, whatever it is; every other page and route stays closed."""
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for path in ("/predict/digit", "/predict/sequence/batch", "/v2/models/digit-cnn/infer"):
        said = opened.client.options(path, headers=asks)
        assert said.status_code == 204
        assert said.headers["access-control-allow-origin"] == PAGE
        assert said.headers["vary"] == "Origin"
        allowed = {name.strip() for name in said.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "x-request-id", "x-canary-key"} <= allowed
        assert "POST" in said.headers["access-control-allow-methods"]
        assert int(said.headers["access-control-max-age"]) > 0
        assert opened.client.options(path, headers={**asks, **EVIL}).status_code == 403
    assert opened.client.options("/train", headers=asks).status_code == 403
    for content in (SEVEN, b"", b"no picture"):
        png = {"Content-Type": "image/png"}
        answer = opened.client.post("/predict/digit", content=content, headers={"Origin": PAGE, **png})
        assert answer.status_code == opened.client.post("/predict/digit", content=content, headers=png).status_code
        assert answer.headers["access-control-allow-origin"] == PAGE
        exposed = answer.headers["access-control-expose-headers"]
        assert "x-model-version" in exposed
        assert "x-warnings" in exposed
    for path in ("/train", "/models/digit-cnn/rollback"):
        refused = opened.client.post(path, headers={"Origin": PAGE})
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (403, False)
    assert opened.client.get("/models", headers={"Origin": PAGE}).status_code == 403


def test_a_head_seen_before_opens_nothing_to_another_page(opened):
    """The fast path keeps heads that it has let in: with another origin it is another head."""
    for _ in range(5):
        status, head, _ = sent(opened, "/predict/digit", "Host: models.example.com")
        assert status == 200
        assert "access-control" not in head
        status, head, _ = sent(opened, "/predict/digit", "Host: models.example.com", f"Origin: {PAGE}")
        assert status == 200
        assert f"access-control-allow-origin: {PAGE}" in head
        assert sent(opened, "/predict/digit", "Host: models.example.com", "Origin: http://evil.example")[0] == 403
        assert sent(opened, "/predict/digit", "Host: other.example.com")[0] == 403


def test_a_trusted_proxy_says_which_name_was_asked_for(opened):
    """This machine's proxies are trusted: a page under that name is the service's own, on every way."""
    named = ["Host: 127.0.0.1:8000", "X-Forwarded-Host: models.example.com, 10.0.0.1"]
    for path in ("/predict/digit", "/predict/digit?", "/predict/digit/"):
        assert sent(opened, path, *named)[0] == 200
        assert sent(opened, path, *named, "Origin: https://models.example.com")[0] == 200
        assert sent(opened, path, *named, "Origin: http://evil.example")[0] == 403


def test_a_preflight_needs_no_key(tmp_path):
    """Browsers send none with it; the request itself needs one, and the page may read why it was refused."""
    with Server(tmp_path, cors_origins=PAGE, api_keys=f"web:predict:{'k' * 20}", workers=1) as server:
        asks = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
        assert server.client.options("/predict/digit", headers=asks).status_code == 204
        refused = server.client.post("/predict/digit", content=SEVEN, headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        key = {"Authorization": f"Bearer {'k' * 20}", "Content-Type": "image/png", "Origin": PAGE}
        answer = server.client.post("/predict/digit", content=SEVEN, headers=key)
        assert (answer.json()["digit"], answer.headers["access-control-allow-origin"]) == (7, PAGE)


def test_a_page_that_a_bridge_lets_speak_grpc_is_refused_too(opened):
    """No browser speaks gRPC itself; what a bridge passes on carries the page's origin."""

    async def call(*metadata):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port(opened)}") as channel:
            ask = channel.unary_unary(f"/{INFERENCE}/ServerMetadata")
            return await ask(b"", metadata=metadata)

    assert asyncio.run(call())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(call(("origin", "http://evil.example")))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def grpc_port(server):
    """The port that the service announced."""
    (line,) = [each for each in server.log.splitlines() if "gRPC" in each or "grpc" in each][:1]
    return int(line.rpartition(":")[2].split()[0])


# ---------------------------------------------------------------------- behind a prefix


@pytest.mark.parametrize(
    "path", ["/models", "/models/digit-cnn", "/health/live", "/docs", "/v2", "/train/recipes", "/metrics"]
)
def test_a_path_with_a_last_slash_just_answers(service, path):
    """No redirect, which a proxy's prefix would be missing from."""
    answer = service.client.get(f"{path}/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == service.client.get(path).headers["content-type"]


def test_a_post_with_a_last_slash_just_answers(service):
    """Also on the predict routes, which a redirect would turn into a GET."""
    answer = service.client.post("/predict/digit/", content=SEVEN, headers={"Content-Type": "image/png"})
    assert answer.json()["digit"] == 7
    assert service.client.get("/nothing/").status_code == service.client.get("/train//").status_code == 404


def test_a_page_with_a_last_slash_finds_its_parts(service):
    """Its links lead one folder up."""
    for page in ("docs", "redoc"):
        found = re.findall(r'(?:href|src)="([^"]+)"', service.client.get(f"/{page}/").text)
        assert len(found) > 5
        for link in found:
            assert service.client.get(httpx.URL(f"{service.url}/{page}/").join(link).path).status_code == 200, link


def test_the_document_is_relative_to_where_it_lies(service):
    """So that it is right behind any prefix, told or not."""
    assert service.client.get("/openapi.json").json()["servers"] == [{"url": "./"}]


def test_locations_keep_the_prefix(opened):
    """The one of a trusted proxy; what is no path is none."""
    for said, prefix in (
        ("/api/neuro", "/api/neuro"),
        ("/api/neuro/", "/api/neuro"),
        ("//evil.example", ""),
        ("/a,/b", "/a/b"),
    ):
        answer = opened.client.post("/train/", json={"task": "digit"}, headers={"X-Forwarded-Prefix": said})
        assert answer.headers["location"] == f"{prefix}/train/{answer.json()['id']}"


def test_a_root_path_works_whether_or_not_the_proxy_takes_it_away(tmp_path):
    """Both are in use; a path of the service's own is never mistaken for one with the prefix."""
    with Server(tmp_path, root_path="api/neuro/", workers=1, trainer="external") as server:
        for path in ("/models", "/api/neuro/models", "/api/neuro/", "/api/neuro/docs", "/api/neuro/models/"):
            assert server.client.get(path).status_code == 200, path
        for path in ("/api/neuromodels", "/api", "/api/neuro/api/neuro/models"):
            assert server.client.get(path).status_code == 404, path
        answer = server.client.post("/api/neuro/train", json={"task": "digit"})
        assert answer.headers["location"] == f"/api/neuro/train/{answer.json()['id']}"
        png = {"Content-Type": "image/png"}
        for path in ("/predict/digit", "/api/neuro/predict/digit", "/api/neuro/v2/models/digit-cnn/ready"):
            answer = server.client.request("GET" if "ready" in path else "POST", path, content=SEVEN, headers=png)
            assert answer.status_code == 200, path
