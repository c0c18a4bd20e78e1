"""Other pages and path prefixes in a real browser: what a page elsewhere may do, and pages behind a real nginx."""

import http.server
import json
import subprocess
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.browser import browser, ready
from tests.server import EXAMPLES, Server, free_port, wait_until

pytestmark = pytest.mark.slow

SEVEN = (EXAMPLES / "seven.png").read_bytes()
ASK = """async ({url, bytes, headers}) => {
  try {
    const answer = await fetch(url, {method: "POST", body: new Uint8Array(bytes), headers});
    const type = answer.headers.get("content-type");
    return {status: answer.status, version: answer.headers.get("x-model-version"), body: await answer.json(), type};
  } catch (error) { return {status: 0}; }
}"""
SEND = """async ({url, mode}) => {
  const form = new FormData();
  form.append("file", new Blob(["x"]), "x.png");
  try { return (await fetch(url, {method: "POST", body: form, mode})).type; } catch (error) { return "failed"; }
}"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@contextmanager
def elsewhere():
    """An empty page of another origin on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>elsewhere</title>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def asks(page, url, **headers):
    return page.evaluate(ASK, {"url": url, "bytes": list(SEVEN), "headers": {"Content-Type": "image/png", **headers}})


def test_a_listed_page_gets_predictions_and_no_other_page_does(chromium, tmp_path):
    """With a key, a request id and a picture, which all need a preflight; and it reads the headers of the answer."""
    with elsewhere() as listed, elsewhere() as other:
        settings = {"cors_origins": listed, "workers": 1, "trainer": "external"}
        with Server(tmp_path, **settings) as server:
            page = chromium.new_page()
            page.goto(listed)
            extra = {"X-Request-ID": "mine", "X-Canary-Key": "me", "Authorization": "Bearer none"}
            answer = asks(page, f"{server.url}/predict/digit", **extra)
            assert (answer["status"], answer["body"]["digit"]) == (200, 7)
            assert answer["version"]
            refused = asks(page, f"{server.url}/predict/digit?model=nothing", **extra)
            assert (refused["status"], refused["body"]["code"]) == (404, "model_not_found")
            for path in ("/train", "/models/digit-cnn/rollback"):
                assert asks(page, f"{server.url}{path}") == {"status": 0}
            page.goto(other)
            assert asks(page, f"{server.url}/predict/digit") == {"status": 0}
            live = server.client.get("/models/digit-cnn").json()["live"]
            for path in ("/models/digit-cnn/rollback", "/predict/digit", "/train"):
                page.evaluate(SEND, {"url": f"{server.url}{path}", "mode": "no-cors"})  # sent, whatever the page sees
            assert server.client.get("/models/digit-cnn").json()["live"] == live
            metrics = server.client.get("/metrics").text
            assert 'status="403"' in metrics
            page.close()


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location /api/neuro/ {{
      proxy_pass {url}/;
      proxy_set_header Host $http_host;
      {more}
    }}
  }}
}}
"""


@contextmanager
def nginx(folder, url, more=""):
    """nginx that takes `/api/neuro` away; the address of that path."""
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, port=port, url=url, more=more))
    with subprocess.Popen(["nginx", "-p", str(folder), "-c", str(file)], stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: process.poll() is not None or connects(port), 10)
            assert process.poll() is None, process.stderr.read()
            yield f"http://127.0.0.1:{port}/api/neuro"
        finally:
            process.terminate()


def connects(port):
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("told", ["header", "setting", "nothing"])
def test_all_pages_work_behind_a_prefix(chromium, tmp_path, told):
    """The playground, and "Try it out" with its call's address; the prefix is told by the proxy, or set, or unknown."""
    settings = {"root_path": "/api/neuro"} if told == "setting" else {}
    more = "proxy_set_header X-Forwarded-Prefix /api/neuro;" if told == "header" else ""
    with (
        Server(tmp_path / "state", workers=1, trainer="external", **settings) as server,
        nginx(tmp_path, server.url, more) as url,
    ):
        page = chromium.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/#text")
        ready(page)
        page.fill("#text-input", "Oil prices rise as supply fears grow")
        expect(page.locator("#text-answer")).to_contain_text("Business")
        for path in ("docs", "docs/"):
            page.goto(f"{url}/{path}")
            operation = page.locator("#operations-operations-live_health_live_get")
            operation.locator(".opblock-summary").click()
            operation.get_by_role("button", name="Try it out").click()
            operation.get_by_role("button", name="Execute").click()
            expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
            expect(operation.locator(".request-url pre")).to_have_text(f"{url}/health/live")
        assert [each for each in asked if not each.startswith((url, "data:", "blob:"))] == []
        page.close()
        answer = server.client.post(f"{url}/train/", json={"task": "digit"})
        assert answer.status_code == 202
        if told != "nothing":
            assert answer.headers["location"] == f"/api/neuro/train/{answer.json()['id']}"
            assert server.client.get(f"{url}/models/").status_code == 200
        assert json.loads(server.client.get(f"{url}/openapi.json").text)["servers"] == [{"url": "./"}]
