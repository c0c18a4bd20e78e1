"""Warnings while versions change: canaries and swaps between versions that doubt and versions that do not."""

import threading

import numpy as np
import pytest

from models.store import Store
from tests.artifacts import publish, publish_doubting
from tests.server import Server, wait_until
from tests.service.oip import infer, outputs
from tests.service.warned import NAME, OUTLIER, bar, counted, told, told_by_tensors

CANARY = f"/models/{NAME}/canary"
PLAIN, DOUBTING = 1, 2
"""Versions: both give 0.91 to the digit 3; the second doubts, and its outputs are in another order."""


@pytest.fixture
def server(tmp_path):
    """One process; a version without doubt is live, one with doubt is in the store."""
    store = Store(tmp_path / "models")
    assert publish(store, favourite=3) == PLAIN
    assert publish_doubting(store, favourite=3) == DOUBTING
    store.promote(NAME, PLAIN)
    with Server(tmp_path, workers=1) as server:
        yield server


def ask(server, outlier=0.9, path="/predict/digit", **headers):
    answer = server.client.post(path, json={"pixels": bar(outlier).tolist()}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def begin(server, version, percent, mode):
    answer = server.client.post(CANARY, json={"version": version, "percent": percent, "mode": mode})
    assert answer.status_code == 201, answer.text


def figures(server):
    return server.client.get(CANARY).json()["running"]["figures"]


def test_a_shadowed_candidate_that_doubts_is_compared_by_name(server):
    """Its first output is not its probabilities; nobody sees its warnings, and none is counted."""
    begin(server, DOUBTING, 100, "shadow")
    for _ in range(10):
        assert "warnings" not in ask(server, 0.2).json()
        assert "warnings" not in ask(server, 0.2, "/predict/digit?explain=false").json()
    answer = server.client.post(f"/v2/models/{NAME}/infer", **infer({"pixels": np.array([bar(0.2)])}))
    assert told_by_tensors(answer).codes == [[]]
    wait_until(lambda: figures(server)["compared_rows"] == 21, 10)
    found = figures(server)
    assert found["agreement"] == 1
    outlier = round(255 * 0.2) / 255
    assert found["confidence_shift"] == pytest.approx(-0.81 * outlier, abs=1e-3)
    assert found["candidate"]["mean_confidence"] == pytest.approx(0.91 - 0.81 * outlier, abs=1e-3)
    assert counted(server) == 0


def test_a_candidate_that_doubts_warns_where_it_answers(server):
    """With a split the header, the field and the metric follow the side that gave the answer."""
    begin(server, DOUBTING, 50, "split")
    sides = {}
    for number in range(30):
        answer = ask(server, 0.9, **{"X-Canary-Key": f"client-{number}"})
        side = answer.headers.get("X-Canary")
        sides[side] = sides.get(side, 0) + 1
        assert told(answer).codes == [[OUTLIER] if side else []]
        assert answer.headers.get("X-Warnings") == (OUTLIER if side else None)
        tensors = infer({"pixels": np.array([bar(0.9)])})
        tensors["headers"]["X-Canary-Key"] = f"client-{number}"
        answer = server.client.post(f"/v2/models/{NAME}/infer", **tensors)
        found, _ = outputs(answer)
        assert ("outlier" in found, bool(answer.headers.get("X-Warnings"))) == (bool(side), bool(side))
    assert set(sides) == {None, "candidate"}
    assert counted(server) == 2 * sides["candidate"]


def test_a_candidate_may_not_drop_the_outlier_output(server):
    """Clients of /v2 may read it: the canary is refused as one with another contract."""
    assert server.client.post(f"/models/{NAME}/promote", json={"version": DOUBTING}).status_code == 200
    answer = server.client.post(CANARY, json={"version": PLAIN, "percent": 10, "mode": "split"})
    assert (answer.status_code, answer.json()["code"]) == (409, "other_contract")


def test_a_swap_takes_the_warnings_with_it(server):
    """Ten answers before and behind each swap, on the fast path and over tensors; every answer fits its version."""
    for version in (DOUBTING, PLAIN, DOUBTING, PLAIN):
        assert server.client.post(f"/models/{NAME}/promote", json={"version": version}).status_code == 200
        for _ in range(10):
            answer = ask(server)
            assert answer.json()["model"]["version"] == version
            assert told(answer).codes == [[OUTLIER] if version == DOUBTING else []]
            answer = server.client.post(f"/v2/models/{NAME}/infer", **infer({"pixels": np.array([bar(0.9)] * 2)}))
            assert told_by_tensors(answer).codes == [[OUTLIER] if version == DOUBTING else []] * 2
    assert counted(server) == 2 * 10 * 3


def test_answers_during_swaps_fit_the_version_that_gave_them(server):
    """Under a steady load the field is there exactly where the answer names the doubting version."""
    stop, wrong, seen = threading.Event(), [], set()

    def load():
        while not stop.is_set():
            answer = ask(server).json()
            seen.add(answer["model"]["version"])
            if ("warnings" in answer) != (answer["model"]["version"] == DOUBTING):
                wrong.append(answer)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for version in [DOUBTING, PLAIN] * 4:
            assert server.client.post(f"/models/{NAME}/promote", json={"version": version}).status_code == 200
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert seen == {PLAIN, DOUBTING}
