"""Behind the proxies that people run, and under clients that offer HTTP/2: real nginx, HAProxy and curl."""

import csv
import io
import shutil
import subprocess
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from tests.server import EXAMPLES, Server, free_port, wait_until

pytestmark = pytest.mark.slow

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}

NGINX = """
daemon off; pid nginx.pid; error_log error.log; user root;
events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream backend {{ server {backend}; keepalive 8; }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    location / {{ proxy_pass http://backend; proxy_set_header Host $http_host; proxy_set_header Connection ""; }}
    location /always/ {{  # as in many guides to websockets
      proxy_pass http://backend/; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }}
    location /mapped/ {{
      proxy_pass http://backend/; proxy_set_header Host $http_host; proxy_request_buffering off;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    }}
  }}
}}
"""

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{port}
  default_backend plain
frontend figures
  bind 127.0.0.1:{figures}
  stats enable
  stats uri /
backend plain
  option httpchk
  server one {backend} check inter 200ms
backend head
  option httpchk
  http-check send meth HEAD uri /health/ready ver HTTP/1.1 hdr Host localhost
  server one {backend} check inter 200ms
backend head_without_host
  option httpchk HEAD /v2/health/ready
  server one {backend} check inter 200ms
"""


def program(name):
    """Where a program is; it must be there."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert path, f"{name} is not installed: apt-get install {name}"
    return path


@contextmanager
def running(command, port):
    """A program until the body ends, once it takes connections."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: any(each.laddr.port == port for each in listening(process)), 10)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def listening(process):
    assert process.poll() is None, process.stderr.read()
    return psutil.Process(process.pid).net_connections("tcp")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("served"), workers=1) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(served, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    backend = served.url.removeprefix("http://")
    (folder / "nginx.conf").write_text(NGINX.format(port=port, backend=backend), "utf-8")
    with running([program("nginx"), "-p", str(folder), "-c", "nginx.conf"], port) as process:
        yield f"http://127.0.0.1:{port}", process


@pytest.mark.parametrize("prefix", ["", "/always", "/mapped"])
def test_requests_through_nginx_are_answered(nginx, prefix):
    """With the headers of its websocket guides, whatever the client offers; kept connections serve many requests."""
    url, _ = nginx
    offers = [{}, {"Upgrade": "websocket", "Connection": "upgrade"}, {"Upgrade": "h2c", "Connection": "Upgrade"}]
    with httpx.Client() as client:
        for offer in offers * 5:
            answer = client.post(f"{url}{prefix}/predict/digit", content=SEVEN, headers={**PNG, **offer})
            assert (answer.status_code, answer.json().get("digit")) == (200, 7), answer.text
            answer = client.get(f"{url}{prefix}/health/ready", headers=offer)
            assert answer.status_code == 200


@pytest.mark.parametrize("prefix", ["", "/always", "/mapped"])
def test_a_refusal_of_too_much_comes_through_nginx(nginx, prefix):
    """413 and not 502, also where nginx hands the body on while it comes."""
    answer = httpx.post(f"{nginx[0]}{prefix}/predict/digit", content=bytes(30 * 2**20), headers=PNG, timeout=30)
    assert answer.status_code == 413


def test_a_connection_that_nginx_keeps_outlives_its_idle_time(nginx, served):
    """It is used again after longer than the few seconds that such servers give by default."""
    url, process = nginx

    def kept():
        (worker,) = psutil.Process(process.pid).children()
        port = int(served.url.rpartition(":")[2])
        return {each.laddr.port for each in worker.net_connections("tcp") if each.raddr and each.raddr.port == port}

    def ask():
        assert httpx.post(f"{url}/predict/digit", content=SEVEN, headers=PNG).status_code == 200

    ask()
    before = kept()
    assert before
    time.sleep(6.5)
    assert kept() == before
    ask()
    assert kept() == before


def test_haproxy_sees_the_service_up_and_sees_it_leave(tmp_path):
    """Its own default check (OPTIONS) and HEAD ones; told to stop, the service is taken out before it is gone."""
    port, figures = free_port(), free_port()
    with Server(tmp_path / "state", workers=1, drain_s=3) as server:
        config = tmp_path / "haproxy.cfg"
        backend = server.url.removeprefix("http://")
        config.write_text(HAPROXY.format(port=port, figures=figures, backend=backend), "utf-8")

        def states():
            told = httpx.get(f"http://127.0.0.1:{figures}/;csv").text.removeprefix("# ")
            rows = csv.DictReader(io.StringIO(told))
            return {row["pxname"]: (row["status"], row["check_status"]) for row in rows if row["svname"] == "one"}

        with running([program("haproxy"), "-db", "-f", str(config)], port):
            wait_until(lambda: all(check == "L7OK" for _, check in states().values()), 10)
            assert set(states()) == {"plain", "head", "head_without_host"}
            answer = httpx.post(f"http://127.0.0.1:{port}/predict/digit", content=SEVEN, headers=PNG)
            assert answer.json()["digit"] == 7
            server.process.terminate()
            told = time.monotonic()
            wait_until(lambda: states()["head"][0] == "DOWN", 5)
            assert time.monotonic() - told < 2.5
            answer = httpx.post(f"{server.url}/predict/digit", content=SEVEN, headers=PNG)
            assert answer.json()["digit"] == 7
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("more", [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]])
def test_curl_that_offers_http2_gets_its_answer(served, more):
    """Twice on one connection."""
    ask = ["-H", "Content-Type: image/png", *more, "--data-binary", f"@{EXAMPLES / 'seven.png'}"]
    url = f"{served.url}/predict/digit"
    command = [program("curl"), "-sS", "--http2", "-w", "%{http_version} %{num_connects}\n", *ask, url, url]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert told.count('"digit":7') == 2, told
    assert [line.rpartition("}")[2] for line in told.splitlines()] == ["1.1 1", "1.1 0"]


def test_curl_that_sends_too_much_gets_the_refusal(served, tmp_path):
    """Whether it waits to be asked, or sends at once."""
    large = tmp_path / "large"
    large.write_bytes(bytes(30 * 2**20))
    for more in (["-H", "Expect:"], []):
        ask = ["-H", "Content-Type: image/png", *more, "--data-binary", f"@{large}", f"{served.url}/predict/digit"]
        told = subprocess.run(
            [program("curl"), "-sS", "-w", "%{http_code}", *ask], capture_output=True, text=True, timeout=20, check=True
        )
        assert told.stdout.endswith("413"), told
