"""Canaries inside a process: orders followed by every replica, refusals that say why, rules, faults, freed memory."""

import json
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from models.canary import CanaryRule, CanaryRunsError
from models.store import Store, VersionDamagedError, VersionNotFoundError
from service.canary import NotLiveError, OtherContractError
from service.canary_schemas import NewCanary
from service.engine import EngineError
from service.schemas import Promotion
from tests.artifacts import digit_graph, draft
from tests.canaries import NAME, body, publish_live, publish_table
from tests.service.replicas import GOOD, ask, order, replicas, run
from tests.service.test_registry import until


@pytest.fixture
def store(tmp_path):
    """A store with version 1 live and an equally good version 2."""
    store = Store(tmp_path / "models")
    publish_live(store)
    publish_table(store, GOOD)
    return store


def test_every_replica_follows_an_order_and_its_end(store):
    """Within two seconds each tries the candidate, and two seconds after the end none does; its session is freed."""

    async def scenario(one, other):
        await order(one)
        assert (await ask(one, body(1))).version == 2

        async def tries():
            return (await ask(other, body(1))).version == 2

        await until(tries, 2)
        trials = [each.trials[NAME] for each in (one, other)]
        running = (await other.canaries.state(NAME)).running
        await other.canaries.end(NAME, running, "ended", "enough")

        async def over():
            return {(await ask(each, body(1))).version for each in (one, other)} == {1}

        await until(over, 2)

        async def freed():
            return not any(hasattr(trial.candidate.engine, "_session") for trial in trials)

        await until(freed, 2)
        assert (await one.canaries.state(NAME)).last.reason == "enough"

    run(store, scenario, 2)


def test_what_cannot_be_tried_is_refused_before_anybody_sees_it(store):
    """The live version, an unknown one, one of another contract, a damaged one, one that fails its self-test."""
    other = store.stage()
    digit_graph(other / "model.onnx", favourite=1)
    store.publish(other, draft(labels=[f"number {n}" for n in range(10)]))
    damaged = publish_table(store, GOOD)
    (store.folder(NAME, damaged) / "model.onnx").write_bytes(b"not a graph")
    wrong = store.stage()
    digit_graph(wrong / "model.onnx", favourite=6)
    store.publish(wrong, draft(favourite=5))

    async def scenario(registry):
        for version, error, told in (
            (1, NotLiveError, "version 1 is live"),
            (9, VersionNotFoundError, "no version 9"),
            (3, OtherContractError, "other inputs, outputs or labels"),
            (damaged, VersionDamagedError, "was changed after it was published"),
            (5, EngineError, "fails its self-test"),
        ):
            with pytest.raises(error, match=told):
                await order(registry, version)
        assert (await registry.canaries.state(NAME)).running is None
        await order(registry)
        with pytest.raises(CanaryRunsError, match="version 2 of digit-cnn is in a canary already"):
            await order(registry)

    run(store, scenario)


@pytest.mark.parametrize(("goes_live", "outcome"), [(2, "promoted"), (3, "superseded")])
def test_a_promotion_by_any_way_ends_the_canary(store, goes_live, outcome):
    """Also one by another process: what it was tried against is live no more."""
    publish_table(store, GOOD)

    async def scenario(registry):
        await order(registry)
        store.promote(NAME, goes_live)

        async def over():
            return not registry.trials

        await until(over, 2)
        assert (await ask(registry, body(1))).version == goes_live
        last = (await registry.canaries.state(NAME)).last
        assert (last.outcome, last.reason) == (outcome, f"version {goes_live} went live")

    run(store, scenario)


def test_a_rollback_ends_the_canary(store):
    """The version it was tried against has gone."""
    publish_table(store, GOOD)
    store.promote(NAME, 2)

    async def scenario(registry):
        await order(registry, 3)
        store.rollback(NAME)
        await registry.follow(NAME)
        assert not registry.trials
        assert (await ask(registry, body(1))).version == 1
        assert (await registry.canaries.state(NAME)).last.reason == "version 1 went live"

    run(store, scenario)


def test_a_replica_that_cannot_load_the_candidate_aborts_the_canary(store):
    """What does not run everywhere is not to be promoted; the reason says so."""

    async def scenario(registry):
        await order(registry)
        (store.folder(NAME, 2) / "model.onnx").write_bytes(b"not a graph")
        async with replicas(store) as (late,):
            assert not late.trials
            last = (await late.canaries.state(NAME)).last
            assert last.outcome == "aborted"
            assert "was changed after it was published" in last.reason
            assert (await ask(late, body(1))).version == 1

    run(store, scenario)


def test_a_lost_device_aborts_the_canary_and_live_serves_on(store):
    """The candidate's fault is not the live version's: the model stays ready."""

    async def scenario(registry):
        await order(registry)
        report = SimpleNamespace(
            engine=SimpleNamespace(version=2, provider="CUDAExecutionProvider"),
            rows=1, items=1, queue_seconds=[0.0], run_seconds=0.0, steps=0, padded_steps=0, failed=True, sound=False,
            padded_rows=1, reason="idle",
        )  # fmt: skip
        registry.trials[NAME]._observe(report)

        async def over():
            return not registry.trials

        await until(over, 2)
        last = (await registry.canaries.state(NAME)).last
        assert (last.outcome, last.reason) == ("aborted", "CUDAExecutionProvider failed while running version 2")
        assert registry.problems() == {}
        assert (await ask(registry, body(1))).version == 1

    run(store, scenario)


def test_a_rule_that_holds_leaves_the_promotion_to_its_user(store, caplog):
    """The verdict is there to read; the canary goes on."""
    caplog.set_level("INFO")

    async def scenario(registry):
        await order(registry, rule=CanaryRule(min_rows=3, on_pass="hold"))
        for n in range(3):
            await ask(registry, body(1), key=f"{n}")

        async def said():
            return "has passed: 3 rows, 0 failed" in caplog.text

        await until(said, 2)
        assert registry.trials
        assert store.live(NAME) == 1

    run(store, scenario)


def test_a_candidate_that_passes_and_cannot_be_promoted_is_aborted(store):
    """Damaged meanwhile: the reason tells both."""

    async def scenario(registry):
        await order(registry, rule=CanaryRule(min_rows=3))
        (store.folder(NAME, 2) / "model.onnx").write_bytes(b"not a graph")
        for n in range(3):
            assert (await ask(registry, body(1), key=f"{n}")).version == 2

        async def over():
            return not registry.trials

        await until(over, 2)
        last = (await registry.canaries.state(NAME)).last
        assert last.outcome == "aborted"
        assert "it passed (3 rows, 0 failed), and cannot be promoted" in last.reason
        assert store.live(NAME) == 1

    run(store, scenario)


def test_a_wrong_order_is_told_over_http(service):
    """Each refusal has its status and a sentence; none leaves anything behind."""
    client, path = service.client, "/models/digit-cnn/canary"
    live = client.get("/models/digit-cnn").json()["live"]
    good = {"version": live, "percent": 10, "mode": "split"}
    for changes, status, code in (
        ({}, 409, "version_live"),
        ({"version": 999}, 404, "version_not_found"),
        ({"percent": 0}, 422, "invalid_input"),
        ({"percent": 101}, 422, "invalid_input"),
        ({"mode": "both"}, 422, "invalid_input"),
        ({"rule": {"min_rows": 0}}, 422, "invalid_input"),
        ({"rule": {"min_rows": 5, "min_agreement": 0.9}}, 422, "no_agreement_in_split"),
    ):
        answer = client.post(path, json={**good, **changes})
        assert (answer.status_code, answer.json()["code"]) == (status, code), changes
        assert answer.headers["content-type"] == "application/problem+json"
    assert client.post("/models/digit-gan/canary", json=good).json()["code"] == "model_not_found"
    assert client.get("/models/digit-gan/canary").status_code == 404
    assert client.delete(path).json()["code"] == "canary_not_found"
    assert client.get(path).json() == {"model": "digit-cnn", "running": None, "last": None}


def test_the_documents_show_canaries_as_they_are(service):
    """Every example is what its schema promises, and the requests are there for each mode and a rule."""
    from service.canary_schemas import CanaryInfo, NewCanary

    document = service.client.get("/openapi.json").json()
    methods = document["paths"]["/models/{name}/canary"]
    examples = methods["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"split", "shadow", "rule"}
    for each in examples.values():
        NewCanary.model_validate(each["value"])
    for method, status in (("post", "201"), ("get", "200"), ("delete", "200")):
        CanaryInfo.model_validate(methods[method]["responses"][status]["content"]["application/json"]["example"])


@pytest.mark.parametrize("version", [True, "2", 2.5, None])
def test_a_version_is_a_whole_number_wherever_it_is_named(version):
    """As for predictions: `true` would be version 1, which goes live without a word."""
    with pytest.raises(ValidationError):
        Promotion.model_validate_json(json.dumps({"version": version}))
    with pytest.raises(ValidationError):
        NewCanary.model_validate_json(json.dumps({"version": version, "percent": 10, "mode": "split"}))
    assert Promotion.model_validate_json('{"version": 2}').version == 2
    assert NewCanary.model_validate_json('{"version": 2, "percent": 10, "mode": "split"}').percent == 10
