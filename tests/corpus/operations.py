"""Requests of everything but predictions: models, canaries, jobs, probes, pages, methods, hosts, origins, framing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.corpus import pictures, sequences
from tests.corpus.calls import PNG, Call, Http, form, get, post, raw, send
from tests.corpus.services import ORIGIN
from tests.server import shipped

ABSENT = "00000000-0000-4000-8000-000000000000"


def requests() -> Iterator[Call]:
    """All that leaves the store as it is."""
    yield from _models()
    yield from _probes()
    yield from _pages()
    yield from _methods()
    yield from _ids()
    yield from _origins()
    yield from _framing()


def changes() -> Iterator[Call]:
    """What changes the store and the jobs, in this order, at the end."""
    yield from _jobs()
    yield from _wrong_jobs()
    yield from _canaries()
    yield from _versions()


def _models() -> Iterator[Call]:
    yield get("models all", "/models")
    for name in ("digit-cnn", "digit-mlp", "topic-transformer", "forecast-lstm", "forecast-gru", "nobody", "..", "%00"):
        yield get(f"models {name}", f"/models/{name}")
    live = shipped("digit-cnn")
    for version in (live, live + 1, 99, 0, "x", -1, 10**20):
        yield replace(get(f"models report {version}", f"/models/digit-cnn/versions/{version}/report"), view="page")
    yield get("models drift of nobody", "/models/nobody/drift")
    yield get("models drift of digit-mlp", "/models/digit-mlp/drift")
    yield get("models canary", "/models/digit-cnn/canary")
    yield get("models canary of nobody", "/models/nobody/canary")


def _probes() -> Iterator[Call]:
    yield get("probes live", "/health/live")
    yield get("probes ready", "/health/ready")
    yield get("probes nothing", "/nothing")
    yield get("probes a slash more", "/health/live/")
    yield get("probes two slashes", "//health/live")
    yield get("probes recipes", "/train/recipes")
    yield get("probes openapi", "/openapi.json")


def _pages() -> Iterator[Call]:
    for path in ("/", "/docs", "/redoc", "/docs/", "/playground/main.js", "/playground/base.css",
                 "/playground/icon.svg", "/playground/sample.csv", "/playground/nothing.js",
                 "/playground/../settings.py", "/docs/static/swagger-ui.css", "/docs/static/nothing"):  # fmt: skip
        yield replace(get(f"pages {path}", path), view="page")
    yield replace(get("pages compressed", "/", accept_encoding="gzip"), view="page")
    yield replace(get("pages not compressed", "/", accept_encoding="gzip;q=0"), view="page")
    yield replace(get("pages of another tag", "/", if_none_match='"other"'), view="page")
    yield replace(get("pages of any tag", "/", if_none_match="*"), view="page")


def _methods() -> Iterator[Call]:
    paths = ("/", "/predict/digit", "/predict/sequence", "/models", "/models/digit-cnn", "/models/digit-cnn/promote",
             "/models/digit-cnn/canary", "/train", "/train/recipes", "/metrics", "/health/live", "/v2",
             "/v2/models/digit-cnn/infer", "/openapi.json", "/nothing", f"/train/{ABSENT}/events")  # fmt: skip
    for path in paths:
        page = path in {"/", "/openapi.json", "/metrics"}
        yield replace(send(f"methods HEAD {path}", "HEAD", path), view="page" if page else "all")
        yield send(f"methods OPTIONS {path}", "OPTIONS", path)
    for method, path in (("GET", "/predict/digit"), ("PUT", "/predict/digit"), ("DELETE", "/models"),
                         ("PATCH", "/train"), ("POST", "/health/live"), ("GET", "/predict/sequence/batch"),
                         ("POST", "/metrics"), ("BREW", "/predict/digit"), ("OPTIONS", "*"),
                         ("TRACE", "/")):  # fmt: skip
        yield send(f"methods {method} {path}", method, path)


def _ids() -> Iterator[Call]:
    for given in ("mine-1", "a" * 128, "a" * 129, "with space", "ümlaut", "", "a;b"):
        yield post(f"ids fast {given}", "/predict/digit", pictures.SEVEN, content_type="image/png", x_request_id=given)
        yield get(f"ids GET {given}", "/models/nobody", x_request_id=given)


def _origins() -> Iterator[Call]:
    def digit(name: str, **headers: str) -> Http:
        return post(f"origins {name}", "/predict/digit", pictures.SEVEN, content_type="image/png", **headers)

    for name, value in {
        "listed": ORIGIN, "own": "http://{address}", "foreign": "https://evil.example", "null": "null",
        "listed with a port": f"{ORIGIN}:8443", "broken": "::", "empty": "", "upper case": ORIGIN.upper(),
    }.items():  # fmt: skip
        yield digit(f"predict from {name}", origin=value)
        yield post(f"origins train from {name}", "/train", {"task": "nothing"}, origin=value)
        yield post(f"origins v2 from {name}", "/v2/models/digit-cnn/infer", {"inputs": []}, origin=value)
        yield get(f"origins GET from {name}", "/models/nobody", origin=value)
        for path in ("/predict/digit", "/train"):
            yield send(f"origins preflight of {path} from {name}", "OPTIONS", path, origin=value,
                       access_control_request_method="POST", access_control_request_headers="content-type")  # fmt: skip
    for host in ("localhost", "localhost:1", "127.0.0.1", "[::1]:80", "10.0.0.7", "evil.example", "corpus.example.com",
                 "CORPUS.example.com:99", "sub.corpus.example.com", "localhost.evil.example", "", "a b",
                 "localhost."):  # fmt: skip
        yield digit(f"host {host}", host=host)
        yield get(f"origins host of a probe {host}", "/health/live", host=host)
        yield get(f"origins host of a GET {host}", "/models/nobody", host=host)
    yield digit(
        "behind a proxy", x_forwarded_for="10.1.1.1", x_forwarded_proto="https", x_forwarded_host="evil.example"
    )
    yield digit("same site", sec_fetch_site="same-origin")
    yield digit("cross site", sec_fetch_site="cross-site")


def _framing() -> Iterator[Call]:
    head, tail = b"POST /predict/digit HTTP/1.1\r\nHost: localhost\r\n", b"Content-Type: image/png\r\n"
    seven = pictures.SEVEN
    length = b"Content-Length: %d\r\n\r\n" % len(seven)
    whole = head + tail + length + seven
    yield raw("framing two at once", whole + whole, answers=2)
    yield raw("framing three kinds at once", whole + b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + whole, 3)
    yield raw("framing HTTP/1.0", whole.replace(b"HTTP/1.1", b"HTTP/1.0"))
    yield raw("framing close", head + b"Connection: close\r\n" + tail + length + seven)
    yield raw("framing no HTTP", b"hello\r\n\r\n")
    yield raw("framing another version", b"GET / HTTP/3.0\r\nHost: localhost\r\n\r\n")
    yield raw("framing no host", b"GET /health/live HTTP/1.1\r\n\r\n")
    yield raw("framing two hosts", b"GET /models/a HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
    yield raw("framing two lengths", head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab")
    yield raw("framing length and chunks", head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n")
    yield raw("framing length of a text", head + b"Content-Length: x\r\n\r\n")
    yield raw("framing negative length", head + b"Content-Length: -1\r\n\r\n")
    yield raw("framing bad chunk", head + tail + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n")
    yield raw("framing large head", head + b"X-Large: " + b"a" * 70_000 + b"\r\n\r\n")
    yield raw("framing announces too much", head + tail + b"Content-Length: 99999999\r\n\r\n")
    yield raw("framing an upgrade", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
              b"Upgrade: h2c\r\n\r\n")  # fmt: skip
    yield raw("framing CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    yield raw("framing an absolute path", b"GET http://localhost/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    yield raw("framing expects", head + b"Expect: 100-continue\r\n" + tail + length + seven)
    yield raw("framing a space in a header", b"GET /health/live HTTP/1.1\r\nHost : localhost\r\n\r\n")


def _jobs() -> Iterator[Call]:
    yield get("jobs none", "/train")
    order = {"task": "digit", "network": "mlp", "epochs": 2, "seed": 3, "promote": "manual", "priority": 7}
    yield replace(post("jobs submit", "/train", order, idempotency_key="corpus"), keep="job")
    yield post("jobs submit again", "/train", order, idempotency_key="corpus")
    yield post("jobs submit another by that key", "/train", {**order, "seed": 4}, idempotency_key="corpus")
    yield get("jobs one", "/train/{job}")
    yield get("jobs list", "/train?status=queued&task=digit&limit=1")
    yield get("jobs list of another task", "/train?task=topic")
    yield send("jobs cancel", "DELETE", "/train/{job}")
    yield send("jobs cancel again", "DELETE", "/train/{job}")
    yield get("jobs cancelled", "/train/{job}")
    yield get("jobs events", "/train/{job}/events")
    yield get("jobs events from 1", "/train/{job}/events", last_event_id="1")
    yield get("jobs events from the end", "/train/{job}/events", last_event_id="99")
    yield get("jobs events from a text", "/train/{job}/events", last_event_id="x")
    yield send("jobs head of events", "HEAD", "/train/{job}/events")
    for task in ("digit", "topic", "forecast"):
        yield replace(post(f"jobs submit {task}", "/train", {"task": task}), keep=task)
    yield get("jobs first page", "/train?limit=2")
    for task in ("digit", "topic", "forecast"):
        yield send(f"jobs cancel {task}", "DELETE", f"/train/{{{task}}}")


def _wrong_jobs() -> Iterator[Call]:
    for name, content in {
        "nothing": {}, "a list": [], "unknown task": {"task": "x"},
        "unknown network": {"task": "digit", "network": "x"},
        "epochs 0": {"task": "digit", "epochs": 0}, "many wrong": {"task": "digit", "epochs": 0, "batch_size": 0},
        "epochs a text": {"task": "digit", "epochs": "3"}, "unknown field": {"task": "digit", "colour": "red"},
        "promote unknown": {"task": "digit", "promote": "never"}, "priority 11": {"task": "digit", "priority": 11},
        "limit too long": {"task": "digit", "time_limit_s": 1e9}, "seed negative": {"task": "digit", "seed": -1},
    }.items():  # fmt: skip
        yield post(f"jobs wrong, {name}", "/train", content)
    yield post("jobs wrong, no JSON", "/train", b"{", content_type="application/json")
    yield post("jobs wrong, no type", "/train", b'{"task": "x"}', content_type="text/plain")
    yield post("jobs wrong, an empty key", "/train", {"task": "x"}, idempotency_key="")
    for query in ("status=x", "limit=0", "limit=x", "cursor=x", "task=x"):
        yield get(f"jobs list {query}", f"/train?{query}")
    yield get("jobs absent", f"/train/{ABSENT}")
    yield get("jobs events of an absent one", f"/train/{ABSENT}/events")
    yield send("jobs cancel an absent one", "DELETE", f"/train/{ABSENT}")


def _canaries() -> Iterator[Call]:
    path, live = "/models/digit-cnn/canary", shipped("digit-cnn")
    wanted = {"version": live + 1, "percent": 50, "mode": "split"}
    for name, content in {
        "the live version": {**wanted, "version": live}, "version 99": {**wanted, "version": 99},
        "percent 0": {**wanted, "percent": 0}, "percent 101": {**wanted, "percent": 101}, "unknown mode": {
            **wanted, "mode": "x"}, "nothing": {}, "agreement in a split": {
            **wanted, "rule": {"min_rows": 10, "min_agreement": 0.9}},
        "another contract": {**wanted, "version": live + 2},
    }.items():  # fmt: skip
        yield post(f"canary wrong, {name}", path, content)
    yield send("canary end none", "DELETE", path)
    yield send("canary end what may run", "DELETE", path)
    yield post("canary start", path, wanted)
    yield post("canary start another", path, wanted)
    pixels = {"pixels": pictures.mnist(7).tolist()}
    for number in range(12):
        yield post(f"canary fast {number}", "/predict/digit", pixels, x_canary_key=f"client-{number}")
    for number in range(4):
        key = {"x_canary_key": f"client-{number}"}
        yield replace(post(f"canary asgi {number}", "/predict/digit", pixels, **key), chunked=True)
        yield post(f"canary batch {number}", "/predict/digit/batch", {"pixels": [pixels["pixels"]] * 2}, **key)
        yield post(f"canary of a version {number}", f"/predict/digit?version={live}", pixels, **key)
        yield post(f"canary explained {number}", "/predict/digit?explain=true", pixels, **key)
        yield post(f"canary v2 {number}", "/v2/models/digit-cnn/infer", {"inputs": [{
            "name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8", "data": pictures.mnist(7).ravel().tolist()}]},
            **key)  # fmt: skip
        yield post(f"canary by id {number}", "/predict/digit", pixels, x_request_id=f"request-{number}")
    yield post("canary of another model", "/predict/digit?model=digit-mlp", pixels, x_canary_key="client-0")
    yield get("canary told", path)
    yield get("canary in the list", "/models/digit-cnn")
    yield send("canary delete its version", "DELETE", f"/models/digit-cnn/versions/{live + 1}")
    yield send("canary end", "DELETE", path)
    yield send("canary end again", "DELETE", path)
    yield get("canary ended", path)
    yield post("canary after", "/predict/digit", pixels, x_canary_key="client-0")
    yield post("canary shadow", path, {**wanted, "percent": 100, "mode": "shadow"})
    yield post("canary under a shadow", "/predict/digit", pixels, x_canary_key="client-0")
    yield replace(get("canary compared", path), until='"compared_rows":1')
    yield send("canary end the shadow", "DELETE", path)


def _versions() -> Iterator[Call]:
    live = shipped("digit-cnn")
    pixels: dict[str, Any] = {"pixels": pictures.mnist(7).tolist()}
    for name, content in {
        "99": {"version": 99},
        "nothing": {},
        "a text": {"version": "1"},
        "0": {"version": 0},
    }.items():
        yield post(f"versions promote {name}", "/models/digit-cnn/promote", content)
    yield post("versions promote of nobody", "/models/nobody/promote", {"version": 1})
    yield post("versions nothing to roll back", "/models/forecast-gru/rollback")
    for name in ("digit-cnn", "digit-mlp"):
        other = live + 1 if name == "digit-cnn" else shipped(name) + 1
        yield post(f"versions promote another of {name}", f"/models/{name}/promote", {"version": other})
        yield post(f"versions answer of another of {name}", f"/predict/digit?model={name}", pixels)
        yield send(f"versions delete the live of {name}", "DELETE", f"/models/{name}/versions/{other}")
        yield post(f"versions roll back {name}", f"/models/{name}/rollback")
        yield send(f"versions delete {name}", "DELETE", f"/models/{name}/versions/{other}")
        yield send(f"versions delete {name} again", "DELETE", f"/models/{name}/versions/{other}")
        yield get(f"versions left of {name}", f"/models/{name}")
    yield post("versions answer at the end", "/predict/digit", pixels)
    yield replace(get("probes metrics", "/metrics"), view="names", until="neuroserve_jobs{")


def with_keys(operator: str, caller: str, weak: str) -> Iterator[Call]:
    """What each key of the closed service may do."""
    holders: dict[str, dict[str, str]] = {
        "nobody": {}, "operator": {"authorization": f"Bearer {operator}"},
        "caller": {"authorization": f"Bearer {caller}"},
        "unknown": {"authorization": f"Bearer {weak}"}, "basic": {"authorization": "Basic YTpi"},
    }  # fmt: skip
    body, kind = form(("file", "seven.png", "image/png", pictures.SEVEN))
    for holder, key in holders.items():
        calls = [
            post("fast", "/predict/digit", pictures.SEVEN, content_type=PNG["Content-Type"], **key),
            replace(post("asgi", "/predict/digit", body, content_type=kind, **key), chunked=True),
            post("text", "/predict/sequence", {"text": sequences.HEADLINE}, **key),
            post("v2", "/v2/models/nobody/infer", {"inputs": []}, **key),
            get("v2 metadata", "/v2/models/digit-cnn", **key),
            get("models", "/models/nobody", **key),
            get("recipes", "/train/recipes", **key),
            get("jobs", "/train", **key),
            post("train", "/train", {"task": "x"}, **key),
            post("promote", "/models/digit-cnn/promote", {"version": 99}, **key),
            send("delete", "DELETE", "/models/digit-cnn/versions/99", **key),
            replace(get("metrics", "/metrics", **key), view="page"),
            get("live", "/health/live", **key),
            get("nothing", "/nothing", **key),
            send("options", "OPTIONS", "/predict/digit", **key),
            replace(send("head", "HEAD", "/", **key), view="page"),
            get("foreign origin", "/models/nobody", origin="https://evil.example", **key),
            get("foreign host", "/models/nobody", host="evil.example", **key),
        ]
        for call in calls:
            yield replace(call, name=f"keys {holder}: {call.name}", service="keys")
