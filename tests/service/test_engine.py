"""The engine on the shipped models: rows do not see each other, padding changes nothing, the truth about the device."""

import numpy as np
import pytest

from models.store import Store
from service import device, engine
from service.device import CPU, Device, DeviceError
from service.engine import EngineError
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
