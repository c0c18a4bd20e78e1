"""Fixed, bound buffers: the answers of `session.run`, at addresses that stay, with nothing left of the batch before.

No GPU is needed: ONNX Runtime binds tensors on a CPU by the same calls.
"""

import threading

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime import OrtDeviceMemoryType

from models.store import Store
from service import binding, engine
from service.binding import NO_GRAPH, Bindings, run_options
from service.device import Device
from service.engine import Engine
from service.settings import ZOO
from service.tensors import pack, pack_into, repeat_last, shape_of
from tests.artifacts import digit_graph, draft

ON_CPU = Device("cpu", try_cuda=False, reason="test")
NETWORKS = sorted(Store(ZOO).names())
BUCKETS = {"image": [(1, 0), (8, 0), (64, 0)], "text": [(1, 16), (4, 40), (16, 128)], "series": [(2, 48), (8, 192)]}


def opened(name, *, bind):
    """A shipped network, not warmed up; unbound it pads its rows like a GPU's, through `session.run`."""
    store = Store(ZOO)
    version = store.live(name)
    made = Engine(store.folder(name, version), store.manifest(name, version), ON_CPU, bind=bind)
    made._pads_rows = True
    return made


def row(kind, length, seed):
    """One random but valid row in the graph's own tensors."""
    random = np.random.default_rng(seed)
    if kind == "image":
        return {"pixels": random.integers(0, 256, (1, 28, 28), np.uint8)}
    if kind == "text":
        return {"token_ids": random.integers(2, 5000, (1, length))}
    values = random.normal(10, 3, (1, length, 7)).astype(np.float32)
    return {"values": values, "lengths": np.array([length]), "hour_of_week": random.integers(0, 168, 1)}


@pytest.fixture(scope="module")
def series():
    """The forecast flagship twice: bound, and through `session.run`."""
    pair = opened("forecast-lstm", bind=True), opened("forecast-lstm", bind=False)
    yield pair
    for each in pair:
        each.close()


@pytest.mark.parametrize("name", NETWORKS)
def test_bound_buffers_give_the_bits_of_session_run(name):
    """Every shipped network over several buckets, full ones and such that padding rows and steps fill up."""
    bound, plain = opened(name, bind=True), opened(name, bind=False)
    kind = bound.manifest.kind
    for rows, length in BUCKETS[kind]:
        for count in {rows, max(1, rows - 1)}:
            parts = [row(kind, max(24, length - 7 * seed) if length > 24 else length, seed) for seed in range(count)]
            for got, wanted in zip(bound.run(parts, count, length), plain.run(parts, count, length), strict=True):
                assert got.shape[0] == count
                np.testing.assert_array_equal(got, wanted)
    assert bound._bindings.bytes() > 0
    assert plain._bindings is None
    bound.close()
    plain.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.integers(24, 192), min_size=1, max_size=9), min_size=2, max_size=4))
def test_no_row_of_an_earlier_batch_shows_in_a_later_one(series, batches):
    """Any sequence of batches over shared buffers answers each batch as if it were the first."""
    bound, plain = series
    for number, lengths in enumerate(batches):
        parts = [row("series", length, 100 * number + place) for place, length in enumerate(lengths)]
        bucket = bound.bucket_length(max(lengths))
        kept = bound.run(parts, len(parts), bucket)
        for got, wanted in zip(kept, plain.run(parts, len(parts), bucket), strict=True):
            np.testing.assert_array_equal(got, wanted)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    spare=st.integers(0, 4),
    rubbish=st.integers(-9, 9),
)
def test_packing_over_an_older_batch_equals_packing_anew(lengths, spare, rubbish):
    """Every byte of the place is written: rows, zeros behind short rows, the last row again in the places left."""
    spec = next(
        each
        for each in Store(ZOO).manifest("topic-rnn", Store(ZOO).live("topic-rnn") or 0).inputs
        if each.name == "token_ids"
    )
    arrays = [np.arange(1, length + 1)[np.newaxis] + place for place, length in enumerate(lengths)]
    place = np.full((len(arrays) + spare, 12), rubbish)
    pack_into(place, spec, arrays)
    anew = pack(spec, arrays, len(arrays), 12)
    np.testing.assert_array_equal(place, repeat_last(anew, spare) if spare else anew)


def test_the_place_is_not_written_over_by_what_does_not_fit():
    """Another type would be taken by ONNX Runtime as bytes, a row too many would be lost: both are errors."""
    spec = Store(ZOO).manifest("topic-rnn", Store(ZOO).live("topic-rnn") or 0).inputs[0]
    place = np.zeros((2, 8), np.int64)
    with pytest.raises(TypeError, match="Cannot cast"):
        pack_into(place, spec, [np.ones((1, 8), np.float32)])
    with pytest.raises(ValueError, match="more than the 2 rows"):
        pack_into(place, spec, [np.ones((3, 8), np.int64)])


def test_every_bucket_is_made_before_serving_and_never_moves(tmp_path):
    """Warm-up makes all buffers, as many bytes as were counted before; later runs make none and move none."""
    digit_graph(tmp_path / "model.onnx", favourite=3)
    made = engine.load(tmp_path, draft(favourite=3), ON_CPU, bind=True)
    bindings = made._bindings
    before = {bucket: each.addresses() for bucket, each in bindings._made.items()}
    assert sorted(before) == [(rows, 0) for rows in (1, 2, 4, 8, 16, 32, 64)]
    assert len({address for addresses in before.values() for address in addresses}) == 14
    assert bindings.bytes() == bindings.most_bytes() == 127 * (28 * 28 + 10 * 4)
    for seed in range(40):
        count = 1 + seed * 7 % 64
        parts = [row("image", 0, seed + place) for place in range(count)]
        assert made.run(parts, count, 0)[0].argmax(axis=1).tolist() == [3] * count
    assert {bucket: each.addresses() for bucket, each in bindings._made.items()} == before
    made.close()


def test_answers_stay_what_they_were_when_the_next_batch_runs(series):
    """The outputs are copies: a caller may keep them."""
    bound, _ = series
    first = bound.run([row("series", 48, 1)], 1, 48)
    copies = [output.copy() for output in first]
    bound.run([row("series", 48, 2)], 1, 48)
    for output, copy in zip(first, copies, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_more_rows_than_the_largest_bucket_go_through_it_several_times(series):
    """150 rows are answered in order by buckets of at most 64."""
    bound, plain = series
    parts = [row("series", 48, seed) for seed in range(150)]
    for got, wanted in zip(bound.run(parts, 150, 48), plain.run(parts, 150, 48), strict=True):
        assert got.shape[0] == 150
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(("rows", "run"), [(1, 1), (3, 4), (33, 64), (64, 64), (128, 128), (150, 160)])
def test_the_rows_that_are_told_are_those_that_the_device_runs(series, rows, run, monkeypatch):
    """What the metrics call padding is padding: 150 rows are two full buckets of 64 and one of 32."""
    _, plain = series
    ran, session = [], plain._session

    class Counting:
        def run(self, names, feed, options=None):
            ran.append(len(feed["values"]))
            return session.run(names, feed, options)

    monkeypatch.setattr(plain, "_session", Counting())
    plain.run([row("series", 48, 0)] * rows, rows, 48)
    assert plain.padded_rows(rows) == sum(ran) == run


def test_a_shape_outside_the_buckets_makes_no_buffer(series):
    """It is answered by `session.run`: the buffers' memory stays bounded whatever is asked."""
    bound, plain = series
    made = len(bound._bindings._made)
    parts = [row("series", 400, 5)]
    for got, wanted in zip(bound.run(parts, 1, 400), plain.run(parts, 1, 400), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert len(bound._bindings._made) == made


class Broken:
    """A device tensor whose copy fails while `fails` holds; otherwise the real one."""

    def __init__(self, real):
        self.real = real
        self.fails = True

    def update_inplace(self, data):
        if self.fails:
            raise RuntimeError("CUDA failure 719: unspecified launch failure")
        self.real.update_inplace(data)


def test_a_failed_copy_is_the_runs_error_and_not_an_old_answer(tmp_path):
    """What the device raises reaches the caller; while it lasts the engine is not sound, then it answers right."""
    digit_graph(tmp_path / "model.onnx", favourite=4)
    made = engine.load(tmp_path, draft(favourite=4), ON_CPU, bind=True)
    parts = [row("image", 0, 1), row("image", 0, 2)]
    bucket = made._bindings._made[2, 0]
    spec, staged, value = bucket._inputs[0]
    broken = Broken(value)
    bucket._inputs[0] = (spec, staged, broken)
    made.provider = "CUDAExecutionProvider"
    with pytest.raises(RuntimeError, match="CUDA failure 719"):
        made.run(parts, 2, 0)
    assert not made.is_sound()
    broken.fails = False
    made.provider = made.present_provider()
    assert made.is_sound()
    assert made.run(parts, 2, 0)[0].argmax(axis=1).tolist() == [4, 4]
    made.close()


class Copying:
    """A session that wants its inputs elsewhere: as ONNX Runtime then does, it binds a copy of what they are now."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def io_binding(self):
        self.bound = self.real.io_binding()
        return self

    def bind_ortvalue_input(self, name, value):
        self.bound.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy().copy()))

    def bind_ortvalue_output(self, name, value):
        self.bound.bind_ortvalue_output(name, value)

    def copy_outputs_to_cpu(self):
        return self.bound.copy_outputs_to_cpu()

    def run_with_iobinding(self, _, options):
        self.real.run_with_iobinding(self.bound, options)


@pytest.mark.parametrize("name", ["digit-cnn", "forecast-lstm", "topic-transformer"])
def test_an_update_that_the_graph_does_not_see_fails_the_self_test(name):
    """Tensors begin as zeros, so a wrong guess of where the graph wants them cannot pass as a right answer."""
    made = opened(name, bind=True)
    made._bindings._session = Copying(made._session)
    with pytest.raises(RuntimeError, match=r"fails its self-test|modulo by zero"):
        made.self_test()
    made.close()


class Place:
    """A place as a GPU's session names it."""

    def __init__(self, name, vendor, memory=OrtDeviceMemoryType.DEFAULT):
        self.name, self.device_vendor_id, self.device_mem_type, self.device_id = name, vendor, memory, 0


class Placing:
    """A session that wants its inputs in these places."""

    def __init__(self, real, places):
        self.real, self.places = real, places

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_input_memory_infos(self):
        return self.places


def test_each_tensor_is_made_where_the_session_wants_it(monkeypatch):
    """On the GPU or on the CPU, also page-locked memory of the CPU's; never where it would have to be copied."""
    asked = []

    class Recorded:
        @staticmethod
        def ortvalue_from_shape_and_type(shape, dtype, kind, index):
            asked.append((shape, kind, index))
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)

    monkeypatch.setattr(binding, "OrtValue", Recorded)
    made = opened("forecast-lstm", bind=True)
    places = [Place("Cuda", 0x10DE), Place("CudaPinned", 0x10DE, OrtDeviceMemoryType.HOST_ACCESSIBLE), Place("Cuda", 0)]
    made._bindings._session = Placing(made._session, places)
    made.self_test()
    rows = len(made.manifest.golden.inputs["lengths"])
    padded = next(size for size in made.manifest.buckets.rows if size >= rows)
    assert [kind for _, kind, _ in asked] == ["cuda", "cpu", "cuda", "cpu", "cpu", "cpu"]
    assert [shape[0] for shape, _, _ in asked] == [padded] * 6
    made.close()


class Watched:
    """A session that notes the thread and the graph id of each bound run."""

    def __init__(self, real):
        self.real = real
        self.runs = []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def run_with_iobinding(self, bound, options):
        graph = options.get_run_config_entry("gpu_graph_id") if options else None
        self.runs.append((threading.get_ident(), graph))
        self.real.run_with_iobinding(bound, options)


def test_captured_graphs_have_a_thread_and_a_number_for_each_bucket(tmp_path):
    """Whoever asks, graphs are captured and replayed on one thread, each bucket under its own id."""
    digit_graph(tmp_path / "model.onnx", favourite=1)
    manifest = draft(favourite=1)
    session = Watched(onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]))
    bindings = Bindings(session, manifest, graphs=True)

    def ask(rows):
        bindings.run([row("image", 0, 1)] * rows, rows, (rows, 0))

    askers = [threading.Thread(target=ask, args=(rows,)) for rows in (1, 2, 4) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert len({thread for thread, _ in session.runs}) == 1
    assert threading.get_ident() not in {thread for thread, _ in session.runs}
    assert sorted(graph for _, graph in session.runs) == ["1", "1", "2", "2", "3", "3"]
    bindings.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ask(1)


def test_without_graphs_runs_take_turns_on_the_callers_thread(tmp_path):
    """Two threads that should never run at once cannot mix their rows; no graph id is sent."""
    digit_graph(tmp_path / "model.onnx", favourite=1)
    session = Watched(onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"]))
    bindings = Bindings(session, draft(favourite=1))
    bindings.run([row("image", 0, 1)], 1, (1, 0))
    assert session.runs == [(threading.get_ident(), None)]
    bindings._lock.acquire()
    waiting = threading.Thread(target=bindings.run, args=([row("image", 0, 1)], 1, (1, 0)))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    assert len(session.runs) == 1
    bindings._lock.release()
    waiting.join(5)
    assert len(session.runs) == 2
    bindings.close()


def test_a_run_outside_the_graphs_says_so():
    """ONNX Runtime takes -1 as: neither capture nor replay."""
    assert run_options(NO_GRAPH).get_run_config_entry("gpu_graph_id") == "-1"


def test_an_axis_of_no_known_size_cannot_be_bound():
    """The manifest's dynamic axes are `batch` and `length`; buffers of another size cannot be made before a run."""
    spec = draft().outputs[0].model_copy(update={"shape": ["batch", "beams"]})
    with pytest.raises(ValueError, match="axis 'beams' of probabilities"):
        shape_of(spec, 4, 0)
