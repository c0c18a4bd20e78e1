"""The metrics: what is counted of batches, what is asked for at a scrape, and that each name is documented."""

import asyncio
import os
import re
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service.batch import Part
from service.batcher import Batcher
from service.gpu import Gpus
from service.metrics import Metrics
from service.probes import Probe
from service.tally import SECONDS, _Spread
from tests.server import EXAMPLES, ROOT, Server, wait_until
from tests.service.fakes import FakeEngine

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
NVIDIA_SMI = """#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
echo "GPU-1111, 81559, 1024, 37, 120.50, 700.00"
echo "GPU-2222, 81559, 0, 0, [N/A], [N/A]"
"""


def values(text):
    """Every sample of a scrape: its name with its labels in order, and its value."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}" if sample.labels else sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return values(metrics.render().decode()).get(f"{name}{sorted(labels.items())}", 0.0)


class Watched:
    """A batcher of a held engine whose batches are counted."""

    def __init__(self, **options):
        self.metrics, self.waiting = Metrics(), []
        self.engine = FakeEngine(lengths=options.pop("lengths", ()))
        self.batcher = Batcher(
            "m",
            max_queue_rows=100,
            max_batch_rows=4,
            observe=lambda report: self.metrics.batch("m", report),
            waiting=self.waiting.append,
            **options,
        )

    def submit(self, rows=1, length=0):
        part = Part({"x": np.ones((rows, length or 1), np.float32)}, rows, length)
        return self.batcher.submit(self.engine, [part], timeout_s=5)[0]

    def dispatches(self):
        reasons = ("idle", "device_free", "full", "max_wait")
        found = {
            reason: value(self.metrics, "neuroserve_dispatches_total", model="m", reason=reason) for reason in reasons
        }
        return {reason: count for reason, count in found.items() if count}


def test_a_batch_is_counted_with_the_reason_it_was_sent_off_for():
    """The first row finds the device idle; of nine that wait behind it, two runs are full and one takes the rest."""

    async def run():
        watched = Watched()
        watched.engine.gate.clear()
        first = watched.submit()
        await asyncio.to_thread(watched.engine.started.wait)
        rest = [watched.submit() for _ in range(9)]
        watched.engine.gate.set()
        await asyncio.gather(first, *rest)
        await watched.batcher.close()
        return watched

    watched = asyncio.run(run())
    assert watched.engine.batches == [1, 4, 4, 1]
    assert watched.dispatches() == {"idle": 1, "full": 2, "device_free": 1}


@pytest.mark.parametrize(
    ("quick", "reasons"), [(True, {"full": 1, "device_free": 1}), (False, {"full": 1, "device_free": 1})]
)
def test_rows_behind_a_full_batch_waited_for_the_device(quick, reasons):
    """Also where batches run on the event loop."""

    async def run():
        watched = Watched()
        watched.engine.is_quick = quick
        await asyncio.gather(*[watched.submit() for _ in range(6)])
        await watched.batcher.close()
        return watched.dispatches()

    assert asyncio.run(run()) == reasons


def test_a_batch_held_for_company_says_so():
    """With `max_wait_ms` it is the clock that sends it off."""

    async def run():
        watched = Watched(max_wait_ms=5)
        await watched.submit()
        await watched.batcher.close()
        return watched.dispatches()

    assert asyncio.run(run()) == {"max_wait": 1}


def test_each_request_has_its_own_queue_time():
    """Two that wait behind a held run waited long, the first hardly."""

    async def run():
        watched = Watched()
        watched.engine.gate.clear()
        first = watched.submit()
        await asyncio.to_thread(watched.engine.started.wait)
        rest = [watched.submit() for _ in range(2)]
        await asyncio.sleep(0.12)
        shown = list(watched.waiting)
        watched.engine.gate.set()
        await asyncio.gather(first, *rest)
        await asyncio.sleep(0.06)
        await watched.batcher.close()
        return watched, shown

    watched, shown = asyncio.run(run())
    assert value(watched.metrics, "neuroserve_queue_seconds_count", model="m") == 3
    assert value(watched.metrics, "neuroserve_queue_seconds_bucket", model="m", le="0.1") == 1
    assert value(watched.metrics, "neuroserve_queue_seconds_sum", model="m") > 0.2
    assert shown[-1] == 2
    assert watched.waiting[-1] == 0


def test_padding_is_counted():
    """Three rows of 5 steps in a bucket of 8 steps, on a device that runs batches of 4."""

    async def run():
        watched = Watched(lengths=(8,))
        watched.engine.padded_rows = lambda rows: 4
        await watched.submit(rows=3, length=5)
        await watched.batcher.close()
        return watched.metrics

    metrics = asyncio.run(run())
    assert value(metrics, "neuroserve_rows_total", model="m", version="1") == 3
    assert value(metrics, "neuroserve_padded_rows_total", model="m") == 4
    assert value(metrics, "neuroserve_steps_total", model="m") == 15
    assert value(metrics, "neuroserve_padded_steps_total", model="m") == 32


def test_figures_gathered_in_memory_are_those_of_single_observations():
    """On the bounds, between them and beyond them."""
    found, expected = (Histogram("h", "", buckets=SECONDS, registry=CollectorRegistry()) for _ in range(2))
    spread = _Spread(SECONDS)
    for seconds in (0.0, 0.0005, 0.0006, 0.3, 10, 11.5, 1):
        spread.add(seconds)
        expected.observe(seconds)
    spread.write(found)
    [found], [expected] = found.collect(), expected.collect()
    assert [sample[:3] for sample in found.samples if sample.name != "h_created"] == [
        sample[:3] for sample in expected.samples if sample.name != "h_created"
    ]


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A driver's program for two GPUs, one of which does not tell its power."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_gpus_are_told_in_bytes_ratios_and_watts(nvidia_smi):
    """Under our names and Triton's; what a GPU does not tell is left out."""
    found = {
        (sample.name, sample.labels["gpu_uuid"]): sample.value
        for family in asyncio.run(Gpus().families())
        for sample in family.samples
    }
    assert found["neuroserve_gpu_memory_used_bytes", "GPU-1111"] == 2**30
    assert found["nv_gpu_memory_total_bytes", "GPU-2222"] == 81559 * 2**20
    assert found["nv_gpu_utilization", "GPU-1111"] == pytest.approx(0.37)
    assert found["neuroserve_gpu_power_watts", "GPU-1111"] == 120.5
    assert ("neuroserve_gpu_power_watts", "GPU-2222") not in found
    assert "--query-gpu=uuid,memory.total,memory.used,utilization.gpu" in (nvidia_smi.parent / "asked").read_text()


def test_a_machine_without_gpus_tells_of_none(monkeypatch, tmp_path):
    """No program, no families, and nothing is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asyncio.run(Gpus().families()) == []


def test_a_driver_that_fails_leaves_the_figures_out(nvidia_smi, caplog):
    """A scrape goes on without them; the log says why, once."""
    nvidia_smi.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")

    async def run():
        probe = Probe(Gpus().families, 0.0)
        return [await probe.families() for _ in range(3)]

    assert asyncio.run(run()) == [[], [], []]
    assert caplog.text.count("Failed to initialize NVML") == 1


def test_figures_are_asked_for_only_now_and_then():
    """Scrapes of the same moment share one asking; later ones ask anew."""
    asked = []

    async def ask():
        asked.append(len(asked))
        await asyncio.sleep(0.01)
        return asked[-1:]

    async def run():
        probe = Probe(ask, 0.1)
        first = await asyncio.gather(*(probe.families() for _ in range(5)))
        await asyncio.sleep(0.12)
        return first, await probe.families()

    assert asyncio.run(run()) == ([[0]] * 5, [1])


def test_a_scrape_does_not_wait_for_ever(monkeypatch):
    """What takes too long is missing now and there later."""
    monkeypatch.setattr("service.probes._WAIT_S", 0.01)
    there = asyncio.Event()

    async def ask():
        await there.wait()
        return ["late"]

    async def run():
        probe = Probe(ask, 60)
        first = await probe.families()
        there.set()
        second = await probe.families()
        await probe.close()
        return first, second

    assert asyncio.run(run()) == ([], ["late"])


def documented():
    """Names, types and labels in the tables of the documentation."""
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `((?:neuroserve|nv)_\w+)` \| (\w+) \| (.*?) \|", text, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert sorted(names) == sorted(set(names))
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_every_metric_of_a_real_scrape_is_documented(tmp_path: Path, nvidia_smi):
    """And no other: names, types, and the labels of those that have samples."""
    with Server(tmp_path / "state", workers=1, trainer="external") as server:
        assert server.client.post("/predict/digit", content=SEVEN, headers=PNG).status_code == 200
        assert (
            server.client.post(
                "/predict/sequence",
                content=(EXAMPLES / "headline.json").read_bytes(),
                headers={"Content-Type": "application/json"},
            ).status_code
            == 200
        )
        first = server.client.get("/metrics").text
        assert "neuroserve_jobs" not in first
        assert not (tmp_path / "state" / "jobs.sqlite").exists()
        assert server.client.post("/train", json={"task": "digit"}).status_code == 202
        queued = 'neuroserve_jobs{status="queued",task="digit"} 1.0'
        text = wait_until(lambda: queued in (told := server.client.get("/metrics").text) and told, 15, 0.5)
    table, found = documented(), {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels) or table[name][1])
    assert found == table


def test_totals_of_batches_are_right_with_several_workers(tmp_path):
    """Each worker gathers its own; a scrape of either sums both, and gauges are not doubled."""
    with Server(tmp_path) as server:
        for _ in range(12):
            assert server.client.post(
                "/predict/digit", content=SEVEN, headers={**PNG, "Connection": "close"}
            ).is_success
        count = 'neuroserve_queue_seconds_count{model="digit-cnn"} 12.0'
        text = wait_until(lambda: count in (told := server.client.get("/metrics").text) and told, 5)
        for _ in range(4):
            told = values(server.client.get("/metrics", headers={"Connection": "close"}).text)
            reasons = [value for name, value in told.items() if name.startswith("neuroserve_dispatches_total")]
            assert sum(reasons) == 12
            assert told["neuroserve_provider[('model', 'digit-cnn'), ('provider', 'CPUExecutionProvider')]"] == 1
            assert told["neuroserve_queue_rows[('model', 'digit-cnn')]"] == 0
    assert 'neuroserve_swaps_total{model="digit-cnn",result="live"} 2.0' in text
