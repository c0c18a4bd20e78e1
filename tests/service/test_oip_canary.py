"""Tensor requests while versions change: a canary's share, split or shadowed, and promotions under load."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from models.store import Store
from tests.canaries import LIVE_LABEL, NAME, picked, pixels, publish_live, publish_table
from tests.server import Server, wait_until
from tests.service.oip import infer, outputs

PATH = f"/v2/models/{NAME}/infer"
CANARY = f"/models/{NAME}/canary"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One process on a live version that always answers the same."""
    state = tmp_path_factory.mktemp("canary")
    publish_live(Store(state / "models"))
    with Server(state, workers=1) as server:
        yield server


@pytest.fixture
def order(server):
    """Starts a canary of a new version, and ends it behind the test."""

    def start(labels, percent, mode, **options):
        version = publish_table(Store(server.state / "models"), labels, **options)
        asked = {"version": version, "percent": percent, "mode": mode}
        answer = server.client.post(CANARY, json=asked)
        assert answer.status_code == 201, answer.text
        number = answer.json()["running"]["number"]
        folder = server.state / "models" / NAME / "canary"
        wait_until(lambda: list(folder.glob(f"tally-{number}-*")), 15)
        time.sleep(0.05)
        return version

    yield start
    server.client.delete(CANARY)


def ask(server, first, key, path=PATH):
    asked = infer({"pixels": np.array([pixels(first)], np.uint8)})
    answer = server.client.post(path, content=asked["content"], headers=asked["headers"] | {"X-Canary-Key": key})
    found, content = outputs(answer)
    return int(found["probabilities"].argmax()), int(content["model_version"]), answer.headers.get("x-canary")


def figures(server):
    return server.client.get(CANARY).json()["running"]["figures"]


def test_a_split_sends_the_same_keys_to_the_candidate_as_predict_does(server, order):
    """The version in the answer is the one that answered; a version in the path is not the canary's to change."""
    before = client_version(server)
    candidate = order([5] * 256, 50, "split")
    sides = set()
    for number in range(40):
        key = f"client-{number}"
        chosen = picked(key, candidate, 50)
        expected = (5, candidate, "candidate") if chosen else (LIVE_LABEL, before, None)
        assert ask(server, number, key) == expected
        assert ask(server, number, key, f"/v2/models/{NAME}/versions/{before}/infer") == (LIVE_LABEL, before, None)
        sides.add(chosen)
    assert sides == {True, False}
    wait_until(lambda: sum(figures(server)[side]["requests"] for side in ("live", "candidate")) == 40, 5)


def test_a_candidate_that_fails_is_answered_for_by_the_live_version(server, order):
    """The client gets an answer that says so, and the failure is counted."""
    before = client_version(server)
    order([5] * 8, 100, "split")
    assert ask(server, 200, "a") == (LIVE_LABEL, before, "fallback")
    assert ask(server, 2, "a")[2] == "candidate"
    wait_until(lambda: figures(server)["candidate"]["failed_requests"] == 1, 5)


def test_a_shadow_answers_nothing_and_is_compared(server, order):
    """All rows of the share run on both versions."""
    before = client_version(server)
    order([5] * 256, 100, "shadow")
    for number in range(10):
        assert ask(server, number, str(number)) == (LIVE_LABEL, before, None)
    wait_until(lambda: figures(server)["compared_rows"] == 10, 5)


def test_promotions_under_load_fail_no_request(server):
    """Small ones, and large ones whose JSON is read on a thread; every answer is wholly of one version."""
    client, one = server.client, client_version(server)
    other = publish_table(Store(server.state / "models"), [5] * 256)
    rows = np.array([pixels(1)] * 40, np.uint8)
    asked = [infer({"pixels": rows[:1]}), infer({"pixels": rows}, binary=False), infer({"pixels": rows})]
    digits, stop = {one: LIVE_LABEL, other: 5}, threading.Event()

    def load(index):
        seen = set()
        with httpx.Client(base_url=server.url) as line:
            while not stop.is_set():
                found, content = outputs(line.post(PATH, **asked[index % 3]))
                version = int(content["model_version"])
                assert set(found["probabilities"].argmax(1)) == {digits[version]}
                seen.add(version)
        return seen

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(load, index) for index in range(6)]
        try:
            for turn in range(4):
                version = (other, one)[turn % 2]
                assert client.post(f"/models/{NAME}/promote", json={"version": version}).status_code == 200
                time.sleep(0.3)
        finally:
            stop.set()
        seen = [each.result(30) for each in running]
    assert set.union(*seen) == {one, other}


def client_version(server):
    return server.client.get(f"/models/{NAME}").json()["live"]
