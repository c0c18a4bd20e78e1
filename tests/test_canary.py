"""Canaries on the real service with two processes: shares, sticky clients, totals, rules, faults, restarts, load."""

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from models.manifest import MANIFEST_FILE, Manifest
from models.store import Store
from tests.canaries import LIVE_LABEL, NAME, body, picked, pixels, publish_live, publish_table, rows_of
from tests.server import EXAMPLES, Server, wait_until

pytestmark = pytest.mark.slow

PATH = f"/models/{NAME}/canary"
JSON = {"Content-Type": "application/json"}
GOOD = [LIVE_LABEL] * 256


class Line:
    """One connection; opened anew after a pause, for the service closes idle ones."""

    def __init__(self, server):
        self._connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
        self._used = 0.0

    def post(self, content, path="/predict/digit", **headers):
        """Status, headers and JSON of an answer; an argument `x_canary_key` becomes that header."""
        if time.monotonic() - self._used > 2:
            self._connection.close()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("POST", path, content, {**JSON, **named})
        response = self._connection.getresponse()
        told = response.status, response.headers, json.loads(response.read())
        self._used = time.monotonic()
        return told

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()


def on_lines(server, number, work):
    """What `work(line, index)` gives on so many connections at once."""
    with ThreadPoolExecutor(number) as pool, ExitStack() as opened:
        lines = [opened.enter_context(Line(server)) for _ in range(number)]
        return list(pool.map(work, lines, range(number)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two processes on a live version that always answers the same."""
    state = tmp_path_factory.mktemp("canary")
    publish_live(Store(state / "models"))
    with Server(state, workers=2) as server:
        yield server


@pytest.fixture(autouse=True)
def no_canary_is_left(request):
    """A test that fails leaves none behind for the next."""
    yield
    if "server" in request.fixturenames:
        for name in (NAME, "topic-transformer", "forecast-lstm"):
            request.getfixturevalue("server").client.delete(f"/models/{name}/canary")


@pytest.fixture
def line(server):
    """A connection to it."""
    with Line(server) as line:
        yield line


def order(server, version, percent, mode, rule=None, name=NAME):
    """Start a canary and wait until both processes take part: each answers for itself."""
    answer = server.client.post(
        f"/models/{name}/canary", json={"version": version, "percent": percent, "mode": mode, "rule": rule}
    )
    assert answer.status_code == 201, answer.text
    number = answer.json()["running"]["number"]
    folder = server.state / "models" / name / "canary"
    wait_until(lambda: len(list(folder.glob(f"tally-{number}-*"))) == 2, 15)
    time.sleep(0.05)


def canary(server, name=NAME):
    return server.client.get(f"/models/{name}/canary").json()


def figures(server, name=NAME):
    return canary(server, name)["running"]["figures"]


def end(server, name=NAME):
    assert server.client.delete(f"/models/{name}/canary").status_code == 200


def publish(server, labels, **options):
    return publish_table(Store(server.state / "models"), labels, **options)


def live(server):
    return server.client.get(f"/models/{NAME}").json()["live"]


def test_a_split_sends_its_share_to_the_candidate_and_keeps_clients_there(server):
    """3,200 requests on 8 connections: the share is right, a key has one side in both processes, all are counted."""
    candidate = publish(server, GOOD, confidence=0.95)
    before = live(server)
    order(server, candidate, 20, "split")

    def ask(line, index):
        sides = []
        for step in range(400):
            key = f"client-{step}" if index % 2 else f"{index}-{step}"
            name = "x_canary_key" if index % 2 else "x_request_id"
            status, headers, told = line.post(body(1 + step % 250), **{name: key})
            assert (status, told["digit"]) == (200, LIVE_LABEL)
            version = told["model"]["version"]
            assert headers["x-model-version"] == str(version)
            assert version == (candidate if picked(key, candidate, 20) else before), key
            assert headers["x-canary"] == ("candidate" if version == candidate else None)
            sides.append(version)
        return sides

    seen = Counter(side for sides in on_lines(server, 8, ask) for side in sides)
    assert abs(seen[candidate] / 3200 - 0.2) < 0.03
    told = [figures(server), *on_lines(server, 4, lambda *_: figures(server))]
    assert all(each == told[0] for each in told)
    sides = {side: told[0][side] for side in ("live", "candidate")}
    assert {side: (each["requests"], each["rows"]) for side, each in sides.items()} == {
        "live": (seen[before],) * 2,
        "candidate": (seen[candidate],) * 2,
    }
    for side in sides.values():
        assert side["failed_requests"] == 0
        assert 0 < side["latency_ms_p50"] <= side["latency_ms_p99"]
        assert side["latency_ms_mean"] > 0
    assert told[0]["confidence_difference"] == pytest.approx(0.04, abs=1e-5)
    assert server.client.get("/models").json()["models"][0]["canary"] == {
        "version": candidate,
        "percent": 20,
        "mode": "split",
    }
    end(server)


def test_a_batch_goes_whole_to_one_side_and_a_named_version_stays(server, line):
    """By one key; requests that name a version are answered by it, whatever their key."""
    candidate, before = publish(server, GOOD), live(server)
    order(server, candidate, 50, "split")
    batch = json.dumps({"pixels": [pixels(n) for n in range(1, 6)]}).encode()
    for n in range(20):
        _, headers, told = line.post(batch, "/predict/digit/batch", x_canary_key=f"k{n}")
        expected = candidate if picked(f"k{n}", candidate, 50) else before
        assert (told["model"]["version"], headers["x-model-version"]) == (expected, str(expected))
        for version in (before, candidate):
            path = f"/predict/digit?version={version}"
            assert line.post(body(1), path, x_canary_key=f"k{n}")[2]["model"]["version"] == version
    sides = figures(server)
    assert sides["live"]["rows"] + sides["candidate"]["rows"] == 100
    assert sides["candidate"]["rows"] == 5 * sum(picked(f"k{n}", candidate, 50) for n in range(20))
    assert server.client.delete(f"/models/{NAME}/versions/{candidate}").json()["code"] == "version_in_canary"
    end(server)


def test_a_shadow_tells_what_an_offline_comparison_tells(server):
    """Everybody is answered by the live version; agreement and shift are those of the two tables."""
    labels = [LIVE_LABEL if n % 7 else 8 for n in range(256)]
    candidate, before = publish(server, labels, confidence=0.73), live(server)
    order(server, candidate, 100, "shadow")
    firsts = [1 + n % 250 for n in range(600)]

    def ask(line, index):
        for first in firsts[index::4]:
            status, headers, told = line.post(body(first))
            assert (status, told["model"]["version"], headers["x-canary"]) == (200, before, None)

    on_lines(server, 4, ask)
    told = wait_until(lambda: (now := figures(server))["compared_rows"] == 600 and now, 20)
    theirs, ours = rows_of(labels, 0.73)[firsts], rows_of(GOOD)[firsts]
    assert told["agreement"] == pytest.approx(np.mean(theirs.argmax(1) == LIVE_LABEL))
    assert told["confidence_shift"] == pytest.approx(np.mean(theirs[:, LIVE_LABEL] - ours[:, LIVE_LABEL]), abs=1e-5)
    assert told["candidate"]["mean_confidence"] == pytest.approx(0.73, abs=1e-5)
    assert told["live"]["mean_confidence"] == pytest.approx(0.91, abs=1e-5)
    assert (told["live"]["rows"], told["candidate"]["rows"], told["dropped_rows"]) == (600, 600, 0)
    metrics = server.client.get("/metrics").text
    assert f'neuroserve_canary_compared_rows_total{{mode="shadow",model="{NAME}",version="{candidate}"}} 600' in metrics
    end(server)


def test_a_slow_shadow_delays_nobody(server):
    """A candidate hundreds of times slower: no request waits for it, and what it cannot keep up with is dropped."""
    candidate = publish(server, GOOD, slow=20)

    def ask(line, index):
        times = []
        for n in range(300):
            began = time.perf_counter()
            assert line.post(body(1 + n % 250))[0] == 200
            times.append(time.perf_counter() - began)
            time.sleep(0.002)
        return times

    alone = np.concatenate(on_lines(server, 4, ask))
    order(server, candidate, 100, "shadow")
    beside = np.concatenate(on_lines(server, 4, ask))
    told = figures(server)
    assert told["dropped_rows"] > 100
    assert told["candidate"]["failed_requests"] == 0
    run_ms = told["candidate"]["latency_ms_mean"]
    assert np.median(beside) < np.median(alone) + 0.01
    assert np.percentile(beside, 99) * 1000 < max(run_ms / 2, np.percentile(alone, 99) * 1000 + 50)
    print(f"p50 {np.median(alone) * 1e3:.2f} -> {np.median(beside) * 1e3:.2f} ms")
    print(f"p99 {np.percentile(alone, 99) * 1e3:.2f} -> {np.percentile(beside, 99) * 1e3:.2f} ms, {told}")
    began = time.monotonic()
    end(server)
    assert time.monotonic() - began < 3


def test_a_rule_promotes_a_good_candidate_by_itself(server):
    """Enough rows that agree: it goes live in both processes, no request fails, and the reason stays readable."""
    candidate = publish(server, GOOD)
    order(server, candidate, 100, "shadow", {"min_rows": 200, "min_agreement": 0.99})
    asked = count()
    with ExitStack() as opened:
        lines = [opened.enter_context(Line(server)) for _ in range(4)]

        def answered_by_it():
            return {line.post(body(1 + next(asked) % 250))[2]["model"]["version"] for line in lines} == {candidate}

        wait_until(answered_by_it, 20, 0)
    assert next(asked) >= 200
    told = canary(server)
    assert (told["running"], told["last"]["outcome"], told["last"]["version"]) == (None, "promoted", candidate)
    assert "100.00% of" in told["last"]["reason"]
    assert told["last"]["figures"]["compared_rows"] >= 200
    assert live(server) == candidate
    wait_until(lambda: f"canary {told['last']['number']} promoted" in server.log, 2)


def test_a_rule_aborts_a_bad_candidate_by_itself(server, line):
    """As soon as it can no longer pass; the live version has answered all along."""
    candidate, before = publish(server, [8] * 256), live(server)
    order(server, candidate, 100, "shadow", {"min_rows": 1000, "min_agreement": 0.99})
    asked = count()

    def aborted():
        status, _, told = line.post(body(1 + next(asked) % 250))
        assert (status, told["model"]["version"]) == (200, before)
        return canary(server)["running"] is None

    wait_until(aborted, 20, 0.01)
    last = canary(server)["last"]
    assert (last["outcome"], last["figures"]["agreement"]) == ("aborted", 0)
    assert "0.00% of" in last["reason"]
    assert next(asked) < 1000
    assert live(server) == before
    assert "aborted" in server.log


def test_a_candidate_that_fails_in_the_middle_is_stood_in_for_and_aborted(server, line):
    """Its clients get the live version's answer, told as such; its rule ends it."""
    candidate, before = publish(server, GOOD[:200]), live(server)
    order(server, candidate, 100, "split", {"min_rows": 500, "max_error_rate": 0.02})
    for first in range(1, 101):
        assert line.post(body(first))[2]["model"]["version"] == candidate
    stood_in = 0

    def aborted():
        nonlocal stood_in
        status, headers, told = line.post(body(250))
        assert (status, told["digit"], told["model"]["version"]) == (200, LIVE_LABEL, before)
        stood_in += headers["x-canary"] == "fallback"
        return canary(server)["running"] is None

    wait_until(aborted, 20, 0)
    last = canary(server)["last"]
    assert last["outcome"] == "aborted"
    assert "rows failed, at most 2.00% of 500 may" in last["reason"]
    assert stood_in >= 11
    assert 11 <= last["figures"]["fallbacks"] <= stood_in
    assert last["figures"]["candidate"]["failed_rows"] == last["figures"]["fallbacks"]
    wait_until(lambda: line.post(body(250))[1]["x-canary"] is None, 5)  # the other process follows


def test_starts_and_ends_under_load_fail_nobody(server):
    """Canaries of both modes come, go and are promoted while requests keep coming: each is answered, and right."""
    versions = [publish(server, GOOD), publish(server, GOOD)]
    done = threading.Event()
    answered = Counter()

    def load(line, index):
        step = count()
        while not done.is_set():
            status, headers, told = line.post(body(1 + next(step) % 250), x_canary_key=f"{index}-{next(step) % 40}")
            assert (status, told["digit"]) == (200, LIVE_LABEL)
            assert headers["x-model-version"] == str(told["model"]["version"])
            answered[headers["x-canary"], told["model"]["version"]] += 1

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(on_lines, server, 6, load)
        try:
            for number in range(6):
                mode = "shadow" if number % 3 == 1 else "split"
                order(server, versions[number % 2], 40, mode)
                time.sleep(0.2)
                if number == 2:
                    answer = server.client.post(f"/models/{NAME}/promote", json={"version": versions[0]})
                    assert answer.json()["canary"] is None
                    assert canary(server)["last"]["outcome"] == "promoted"
                    versions[0] = publish(server, GOOD)
                else:
                    end(server)
        finally:
            done.set()
        loading.result()
    assert answered["fallback", versions[1]] == 0
    assert {version for (said, version), _ in answered.items() if said == "candidate"} >= {versions[1]}
    assert sum(answered.values()) > 300


@pytest.mark.parametrize("name", ["topic-transformer", "forecast-lstm"])
def test_texts_and_series_are_shadowed_and_split_too(server, line, name):
    """The same network as another version agrees with itself, also where its tokenizer must read the text anew."""
    store = Store(server.state / "models")
    staged = store.stage()
    shutil.copytree(store.folder(name, store.live(name)), staged, dirs_exist_ok=True)
    if name.startswith("topic"):
        with (staged / "tokenizer.json").open("a") as stream:
            stream.write("\n")
    manifest = Manifest.model_validate_json((staged / MANIFEST_FILE).read_bytes())
    candidate = store.publish(staged, manifest).version
    example = json.loads((EXAMPLES / ("headline.json" if name.startswith("topic") else "week.json")).read_bytes())
    batch = json.dumps({"inputs": [example] * 3}).encode()
    order(server, candidate, 100, "shadow", name=name)
    for _ in range(10):
        assert line.post(json.dumps(example).encode(), "/predict/sequence")[1]["x-canary"] is None
        assert line.post(batch, "/predict/sequence/batch")[0] == 200
    told = wait_until(lambda: (now := figures(server, name))["compared_rows"] == 40 and now, 20)
    assert told["agreement"] == 1
    if name.startswith("topic"):
        assert told["confidence_shift"] == pytest.approx(0, abs=1e-5)
    else:
        assert told["mean_abs_difference"] == pytest.approx(0, abs=1e-4)
        assert told["live"]["mean_interval_width"] > 0
    end(server, name)
    order(server, candidate, 100, "split", name=name)
    for path, content in (("/predict/sequence", json.dumps(example).encode()), ("/predict/sequence/batch", batch)):
        status, headers, _ = line.post(content, path)
        assert (status, headers["x-canary"], headers["x-model-version"]) == (200, "candidate", str(candidate))
    end(server, name)


def test_a_restart_and_a_dead_worker_keep_the_canary_and_its_counts(tmp_path):
    """The order is in the store: a killed worker's successor and a new service go on with it, sums and all."""
    store = Store(tmp_path / "models")
    before, candidate = publish_live(store), publish_table(store, GOOD)

    def ask(server, start):
        """60 requests; how many the candidate answered, each on its side."""
        with Line(server) as line:
            for n in range(start, start + 60):
                expected = candidate if picked(f"k{n}", candidate, 50) else before
                assert line.post(body(1 + n % 250), x_canary_key=f"k{n}")[2]["model"]["version"] == expected

    with Server(tmp_path, workers=2) as server:
        order(server, candidate, 50, "split")
        ask(server, 0)
        worker = next(each for each in psutil.Process(server.process.pid).children() if each.net_connections())
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: len(list((store.root / NAME / "canary").glob("tally-1-*"))) == 3, 10)
        time.sleep(0.3)
        ask(server, 60)
    with Server(tmp_path, workers=2) as server:
        ask(server, 120)
        now = figures(server)
        assert now["live"]["requests"] + now["candidate"]["requests"] == 180
        assert now["candidate"]["requests"] == sum(picked(f"k{n}", candidate, 50) for n in range(180))
        assert now["candidate"]["failed_requests"] == 0
