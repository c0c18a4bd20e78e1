"""Drift: rows like those of training rest, shifted ones are seen, whichever worker got them; and it costs little."""

import asyncio
import json
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from models.drift import Signal
from models.manifest import read_manifest
from models.store import Store
from service.batch import Done, Item, Part
from service.drift import HALF_LIFE_ROWS, DriftMetrics
from tests.canaries import publish_live
from tests.server import SHIPPED, Server, wait_until
from tests.service.fakes import FakeEngine
from tests.service.pictures import mnist_test


def manifest_of(name):
    return read_manifest(SHIPPED.folder(name, SHIPPED.live(name)))


def thick(pictures):
    """The same digits written with a broad pen."""
    return np.maximum.reduce([np.roll(pictures, (down, right), (1, 2)) for down in (0, 1) for right in (-1, 0, 1)])


def done_of(parts, outputs):
    """A batch that has run."""
    engine = FakeEngine()
    items = [Item(part, engine, None, 0.0, lambda: False) for part in parts]
    return Done(items, sum(part.rows for part in parts), outputs, 0.0, 0.0)


def digits(pictures):
    """A batch of one picture a request, of a network that is as sure as in training."""
    sure = np.linspace(0.9985, 0.9999, len(pictures), dtype=np.float32)
    probabilities = np.zeros((len(pictures), 10), np.float32)
    probabilities[:, 0] = sure
    return done_of(
        [Part({"pixels": picture[None]}) for picture in pictures], [probabilities, np.zeros(len(pictures), np.float32)]
    )


class Counted:
    """The counting of one process, for a shipped model."""

    def __init__(self, name="digit-cnn"):
        self.registry = CollectorRegistry()
        self.metrics = DriftMetrics(self.registry)
        self.manifest = manifest_of(name)
        self.metrics.follow(self.manifest)

    def count(self, *batches):
        async def run():
            for batch in batches:
                self.metrics.take(self.manifest.name, batch)
                self.metrics.write()

        asyncio.run(run())

    def counts(self):
        return self.metrics.counts(self.registry.collect(), self.manifest.name, self.manifest.version)

    def psi(self):
        found = self.metrics.index(list(self.registry.collect()))
        return {sample.labels["signal"]: sample.value for sample in found.samples}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service of two workers of its own: others' requests would be counted too."""
    with Server(tmp_path_factory.mktemp("drift")) as server:
        yield server


def ask(server, pictures):
    """Each batch on a connection of its own, so that both workers get some."""
    for at in range(0, len(pictures), 64):
        with httpx.Client(base_url=server.url, timeout=30) as client:
            answer = client.post("/predict/digit/batch", json={"pixels": pictures[at : at + 64].tolist()})
            assert answer.status_code == 200
        time.sleep(0.1)  # what is gathered in a second is bounded


def told(server):
    return server.client.get("/models/digit-cnn/drift").json()


def test_digits_like_those_of_training_rest_and_shifted_ones_are_seen(served):
    """MNIST's test digits do not move it; the same digits in thick strokes do, in the answer and in the metrics."""
    assert told(served)["signals"]["ink"]["psi"] is None
    assert told(served)["signals"]["ink"]["state"] == "too_few_rows"
    pictures = mnist_test()[0][np.random.default_rng(0).permutation(10_000)[:1280]]  # their order is not random
    ask(served, pictures[:448])
    rested = wait_until(lambda: (now := told(served))["rows"] > 350 and now, 5)
    assert {name: signal["state"] for name, signal in rested["signals"].items()} == {
        "ink": "rests",
        "confidence": "rests",
    }
    ask(served, thick(pictures[448:]))
    shifted = wait_until(lambda: (now := told(served))["rows"] > rested["rows"] + 500 and now, 5)
    assert shifted["signals"]["ink"]["state"] == "shifted"
    assert shifted["signals"]["ink"]["psi"] > 10 * rested["signals"]["ink"]["psi"]
    bins = shifted["signals"]["ink"]["bins"]
    assert bins[-1]["now"] > 3 * bins[-1]["training"]
    assert (bins[0]["at_least"], bins[-1]["below"]) == (None, None)
    assert sum(each["now"] for each in bins) == pytest.approx(1)
    assert sum(each["training"] for each in bins) == pytest.approx(1)
    for _ in range(4):
        with httpx.Client(base_url=served.url) as client:
            lines = client.get("/metrics").text.splitlines()
        [line] = [line for line in lines if line.startswith('neuroserve_drift_psi{model="digit-cnn",signal="ink"}')]
        assert float(line.split()[-1]) > 0.25


def test_every_shipped_model_has_a_reference(served):
    """Inputs of each kind, and what its answers were like."""
    expected = {
        "digit-cnn": {"ink", "confidence"},
        "topic-transformer": {"tokens", "unknown_share", "confidence"},
        "forecast-lstm": {"level OT", "spread OT", "confidence"},
    }
    for name in SHIPPED.names():
        found = served.client.get(f"/models/{name}/drift").json()
        assert found["training_rows"] >= 4000
        kin = next(signals for other, signals in expected.items() if other.split("-")[0] == name.split("-")[0])
        assert kin <= set(found["signals"])
    loaded = {model["name"] for model in served.client.get("/models").json()["models"] if model["serving"]}
    assert loaded == set(expected)  # looking loads nothing


def test_texts_and_series_are_counted_too(served):
    """Each signal of their kind gets the rows that were sent."""
    texts = [{"text": f"Oil prices rise again and again {'and again' * index}"} for index in range(40)]
    served.client.post("/predict/sequence/batch", json={"inputs": texts})
    day = [[float(hour % 6) for _ in range(7)] for hour in range(48)]
    series = [{"values": day[: 24 + index], "start": "2018-01-01T00:00:00"} for index in range(8)]
    assert served.client.post("/predict/sequence/batch", json={"inputs": series}).status_code == 200
    for name, rows in (("topic-transformer", 40), ("forecast-lstm", 8)):
        path = f"/models/{name}/drift"
        found = wait_until(lambda path=path: (now := served.client.get(path).json())["rows"] and now, 5)
        assert found["rows"] == pytest.approx(rows, abs=0.5)
        for signal in found["signals"].values():
            assert sum(each["now"] for each in signal["bins"]) == pytest.approx(1)


def test_explanations_are_not_taken_for_clients(served):
    """Of an explained text its one row counts, not the hundred with a word left out."""
    path = "/models/topic-transformer/drift"
    before = served.client.get(path).json()["rows"]
    body = {"text": "Oil prices rise as supply fears grow", "explain": True}
    assert served.client.post("/predict/sequence", json=body).status_code == 200
    after = wait_until(lambda: (now := served.client.get(path).json()["rows"]) != before and now, 5)
    assert after == pytest.approx(before + 1, abs=0.1)


def test_a_version_without_a_reference_says_what_to_do(tmp_path):
    """409 with a sentence, no index in the metrics; and an unknown model is a 404."""
    publish_live(Store(tmp_path / "models"))
    with Server(tmp_path, ready=False, workers=1) as server:
        answer = server.client.get("/models/digit-cnn/drift")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_drift_reference")
        assert "python -m training drift digit-cnn" in answer.json()["detail"]
        assert server.client.get("/models/nothing/drift").status_code == 404


def test_old_rows_fade():
    """After a shift back the index falls again."""
    counted, pictures = Counted(), mnist_test()[0]
    counted.count(*[digits(thick(pictures[at : at + 256])) for at in range(0, 1024, 256)])
    shifted = counted.psi()["ink"]
    counted.count(*[digits(pictures[at : at + 256]) for at in range(0, 5 * HALF_LIFE_ROWS, 256)])
    assert counted.psi()["ink"] < shifted / 20
    assert sum(counted.counts()["ink"]) < 1.5 * HALF_LIFE_ROWS


def test_another_version_starts_from_nothing():
    """Its bins are others, and what the one before answered tells nothing of it."""
    counted = Counted()
    counted.count(digits(mnist_test()[0][:256]))
    assert sum(counted.counts()["ink"]) == pytest.approx(256)
    counted.metrics.follow(counted.manifest.model_copy(update={"version": 99}))
    assert sum(counted.counts()["ink"]) == 0
    assert counted.psi() == {}


def test_a_row_costs_less_than_two_microseconds():
    """Gathered and counted, pictures one a request; the best of some goes, for the machine may be busy."""
    counted, pictures = Counted(), mnist_test()[0]
    batches = [digits(pictures[at : at + 32]) for at in range(0, 512, 32)]

    async def go():
        began = time.perf_counter()
        for batch in batches:
            counted.metrics.take("digit-cnn", batch)
        counted.metrics.write()
        return time.perf_counter() - began

    async def run():
        return min([await go() for _ in range(20)])

    assert asyncio.run(run()) / 512 < 2e-6


def test_much_load_is_sampled():
    """What lies between two countings is bounded, however many rows there were."""
    counted, pictures = Counted(), mnist_test()[0]

    async def run():
        for at in range(0, 5120, 64):
            counted.metrics.take("digit-cnn", digits(pictures[at : at + 64]))
        counted.metrics.write()

    asyncio.run(run())
    assert 500 <= sum(counted.counts()["ink"]) <= 600


def test_the_index_is_nothing_for_the_same_shares_and_grows_with_the_distance():
    """By its definition: the sum over the bins of (q - p) ln(q / p)."""
    signal = Signal(edges=[1.0], counts=[5000, 5000])
    assert signal.psi([700.0, 700.0]) == pytest.approx(0, abs=1e-6)
    assert signal.psi([8000.0, 2000.0]) == pytest.approx(0.3 * np.log(4), abs=1e-3)
    assert signal.psi([10_000.0, 0.0]) > signal.psi([9000.0, 1000.0]) > 0.25


@pytest.mark.parametrize("wrong", [{"edges": [1, 2], "counts": [1, 1]}, {"edges": [2, 1], "counts": [1, 1, 1]},
                                   {"edges": [1], "counts": [0, 0]}])  # fmt: skip
def test_a_reference_that_makes_no_sense_is_refused(wrong):
    """When the manifest is read, not when the first row comes."""
    with pytest.raises(ValueError, match=r"bin|edges"):
        Signal.model_validate_json(json.dumps(wrong))


def test_rows_of_failed_batches_and_of_other_models_count_nothing():
    """And a model that nobody follows is not gathered for ever."""
    counted = Counted()
    counted.count(done_of([Part({"pixels": mnist_test()[0][:1]})], ValueError("no")))
    counted.metrics.take("digit-mlp", SimpleNamespace(rows=1))
    assert sum(counted.counts()["ink"]) == 0
