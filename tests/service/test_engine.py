"""The engine on the shipped models: rows do not see each other, padding changes nothing, the truth about the device."""

import asyncio

import numpy as np
import pytest

from models.store import Store
from service import device, engine
from service.batch import Part
from service.batcher import Batcher
from service.device import CPU, CUDA, Device, DeviceError
from service.engine import EngineError
from service.errors import InternalError
from service.providers import open_session
from service.settings import ZOO
from tests.artifacts import digit_graph, draft

ON_CPU = Device("cpu", try_cuda=False, reason="test")
FLAGSHIPS = ["digit-cnn", "topic-transformer", "forecast-lstm"]


@pytest.fixture(scope="module")
def loaded():
    """Each flagship of the zoo, ready to run."""
    store = Store(ZOO)
    found = {}
    for name in FLAGSHIPS:
        version = store.live(name)
        found[name] = engine.load(store.folder(name, version), store.verify(name, version), ON_CPU)
    yield found
    for each in found.values():
        each.close()


def row(name, length, seed):
    """One random but valid row in the graph's own tensors."""
    random = np.random.default_rng(seed)
    if name == "digit-cnn":
        return {"pixels": random.integers(0, 256, (1, 28, 28), np.uint8)}
    if name == "topic-transformer":
        return {"token_ids": random.integers(2, 5000, (1, length))}
    values = random.normal(10, 3, (1, length, 7)).astype(np.float32)
    return {"values": values, "lengths": np.array([length]), "hour_of_week": random.integers(0, 168, 1)}


@pytest.mark.parametrize("name", FLAGSHIPS)
def test_a_row_alone_equals_the_same_row_in_a_mixed_padded_batch(loaded, name):
    """Neighbours and padding move no answer by more than 1e-5 of its size."""
    lengths = [24, 60, 168, 24, 100]
    rows = [row(name, length, seed) for seed, length in enumerate(lengths)]
    model = loaded[name]
    bucket = model.bucket_length(168)
    together = model.run(rows, len(rows), bucket)
    for place, (one, length) in enumerate(zip(rows, lengths, strict=True)):
        alone = model.run([one], 1, length)
        for mixed, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(mixed[place], single[0], rtol=1e-5, atol=1e-5)


def test_more_rows_than_the_largest_bucket_are_answered_in_order(loaded):
    """A large part runs in several goes of one session."""
    rows = [row("digit-cnn", 0, seed) for seed in range(150)]
    model = loaded["digit-cnn"]
    all_at_once = model.run([{"pixels": np.concatenate([each["pixels"] for each in rows])}], 150, 0)[0]
    assert all_at_once.shape == (150, 10)
    for place in (0, 63, 64, 149):
        np.testing.assert_allclose(all_at_once[place], model.run([rows[place]], 1, 0)[0][0], atol=1e-5)


@pytest.mark.parametrize("name", FLAGSHIPS)
def test_shipped_models_pass_their_own_self_test(loaded, name):
    """The golden sample gives on this device what the exporter got."""
    assert loaded[name].self_test() <= 1e-3
    assert loaded[name].provider == CPU


@pytest.mark.parametrize("name", FLAGSHIPS)
def test_row_buckets_of_a_gpu_change_no_answer(loaded, name):
    """Rows that only fill a bucket up are cut off again."""
    model = loaded[name]
    rows = [row(name, 48, seed) for seed in range(5)]
    plain = model.run(rows, 5, 48)
    model._pads_rows = True
    try:
        padded = model.run(rows, 5, 48)
    finally:
        model._pads_rows = False
    for one, other in zip(plain, padded, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_graph_with_other_tensors_than_promised_is_refused(tmp_path):
    """The manifest's tensor names are checked against the session's."""
    digit_graph(tmp_path / "model.onnx", favourite=1)
    manifest = draft(favourite=1)
    wrong = manifest.model_copy(update={"outputs": [manifest.outputs[0].model_copy(update={"name": "logits"})]})
    with pytest.raises(EngineError, match=r"outputs are \['probabilities'\], the manifest says \['logits'\]"):
        engine.load(tmp_path, wrong, ON_CPU)


def test_a_file_that_is_no_graph_is_refused_without_its_insides(tmp_path):
    """A client sees a sentence; ONNX Runtime's own words go to the log."""
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="does not load; the log has the reason"):
        engine.load(tmp_path, draft(), ON_CPU)


def test_cuda_without_a_driver_refuses(monkeypatch):
    """`cuda` never becomes a CPU; `auto` does, and says why."""
    monkeypatch.setattr(device, "driver_present", lambda: False)
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        device.choose("cuda", 1)
    auto = device.choose("auto", 1)
    assert not auto.try_cuda
    assert "libcuda" in auto.reason


class Driver:
    """The NVIDIA driver's library, as far as looking for a device goes."""

    def __init__(self, started, devices):
        self.started, self.devices = started, devices

    def cuInit(self, flags):  # noqa: N802
        return self.started

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(
    ("driver", "present"),
    [(None, False), (Driver(100, 0), False), (Driver(0, 0), False), (Driver(0, 1), True)],
)
def test_a_driver_counts_with_a_device_only(monkeypatch, driver, present):
    """A library without a card, as in an image that was built for GPUs, is no GPU."""
    monkeypatch.setattr(device, "driver", lambda: driver)
    assert device.driver_present() is present


@pytest.mark.parametrize(
    ("content", "quota"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("nonsense", None)],
)
def test_the_cgroup_quota_is_read(tmp_path, content, quota):
    """Threads follow the container's quota, not the host's cores."""
    (tmp_path / "cpu.max").write_text(content)
    assert device._quota_v2(tmp_path) == quota


def test_the_older_cgroup_quota_is_read_too(tmp_path):
    """Version 1 files, where -1 means no limit."""
    (tmp_path / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert device._quota_v1(tmp_path) == 2.0
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    assert device._quota_v1(tmp_path) is None


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Loads a flagship as on a GPU: all the engine does there, on a session that is a CPU's but says otherwise."""
    monkeypatch.setattr(engine, "open_session", lambda path, manifest, _: open_session(path, manifest, ON_CPU))
    monkeypatch.setattr(engine.Engine, "present_provider", lambda _: CUDA)

    def load(name, **changes):
        store = Store(ZOO)
        version = store.live(name)
        chosen = Device("cuda", try_cuda=True, reason="", **changes)
        return engine.load(store.folder(name, version), store.verify(name, version), chosen)

    return load


@pytest.mark.parametrize("cuda_graphs", ["off", "on"])
@pytest.mark.parametrize("name", ["digit-cnn", "forecast-lstm"])
def test_a_gpus_engine_binds_every_bucket_before_it_serves(as_on_gpu, loaded, name, cuda_graphs):
    """Warm-up makes them all; answers are those of the plain session, inside and outside of the buckets."""
    model = as_on_gpu(name, cuda_graphs=cuda_graphs)
    buckets = model.manifest.buckets
    assert model.provider == CUDA
    assert len(model._bindings._made) == len(buckets.rows) * len(buckets.lengths or [0])
    assert not model.quick(1, 48)
    for length in (48, 400):
        rows = [row(name, length, seed) for seed in range(3)]
        for mine, plain in zip(model.run(rows, 3, length), loaded[name].run(rows, 3, length), strict=True):
            np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-5)
    assert model.is_sound()
    model.close()


class Dead:
    """A tensor on a device that is gone."""

    def update_inplace(self, data):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")


def test_a_device_that_dies_fails_its_batch_and_is_told_apart_from_a_bad_row(as_on_gpu):
    """Behind a batcher: the copy fails, the golden sample fails too, so the report says that the device is lost."""
    model = as_on_gpu("digit-cnn")
    reports = []

    async def ask():
        batcher = Batcher("digit", max_queue_rows=64, max_batch_rows=64, observe=reports.append)
        parts = [Part(row("digit-cnn", 0, seed)) for seed in range(3)]
        good = await asyncio.gather(*batcher.submit(model, parts, timeout_s=10))
        for bucket in model._bindings._made.values():
            bucket._inputs = [(spec, staged, Dead()) for spec, staged, _ in bucket._inputs]
        failed = await asyncio.gather(*batcher.submit(model, parts, timeout_s=10), return_exceptions=True)
        await batcher.close()
        return good, failed

    good, failed = asyncio.run(ask())
    assert {answer.provider for answer in good} == {CUDA}
    assert [type(each) for each in failed] == [InternalError] * 3
    assert [report.failed for report in reports] == [False, True]
    assert [report.sound for report in reports] == [True, False]
    model.close()
