"""What a session is asked for, from the settings on: providers in order, options that the installed package knows."""

import mmap
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from models.store import Store
from service import device, engine
from service.device import CPU, CUDA, TENSORRT, Device, DeviceError
from service.engine import EngineError
from service.providers import open_session, provider_list
from service.settings import ZOO, Settings
from tests.artifacts import digit_graph, draft
from tests.server import Server

PACKAGE = Path(onnxruntime.__file__).parent / "capi"


def manifest(name="digit-cnn"):
    store = Store(ZOO)
    return store.manifest(name, store.live(name))


def on_gpu(monkeypatch, **changes):
    """The device that these settings choose on a machine whose GPU works."""
    monkeypatch.setattr(device, "driver_present", lambda: True)
    monkeypatch.setattr(device, "granted", lambda providers: providers[0][0])
    settings = Settings(**changes)
    return device.choose(
        settings.device,
        1,
        settings.gpu_mem_limit_bytes,
        cuda_graphs=settings.cuda_graphs,
        tensorrt_cache=settings.tensorrt_cache,
    )


def test_cuda_is_asked_for_with_careful_options(monkeypatch):
    """No search for algorithms, no growing arena, float32 as the exporter had it; a CPU behind it for odd nodes."""
    chosen = on_gpu(monkeypatch)
    (first, options), second = provider_list(chosen, manifest())
    assert (first, second) == (CUDA, CPU)
    assert options == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    assert chosen.first_provider == CUDA


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"gpu_mem_limit_mb": 512}, {"gpu_mem_limit": str(512 * 2**20)}),
        ({"cuda_graphs": "on"}, {"enable_cuda_graph": "1"}),
        ({"cuda_graphs": "auto"}, {"enable_cuda_graph": "1"}),
        ({"cuda_graphs": "off"}, {}),
    ],
)
def test_each_setting_adds_its_option_and_no_other(monkeypatch, changes, added):
    """From the settings through the device to ONNX Runtime's list."""
    plain = provider_list(on_gpu(monkeypatch), manifest())[0][1]
    assert provider_list(on_gpu(monkeypatch, **changes), manifest())[0][1] == {**plain, **added}


def test_tensorrt_comes_first_and_keeps_its_engines_in_the_state_folder(monkeypatch, tmp_path):
    """One engine a version, built for all of its buckets, with CUDA and the CPU behind it."""
    chosen = on_gpu(monkeypatch, tensorrt=True, state=tmp_path, gpu_mem_limit_mb=64)
    assert chosen.first_provider == TENSORRT
    (first, options), (second, cuda), third = provider_list(chosen, manifest("forecast-lstm"))
    assert (first, second, third) == (TENSORRT, CUDA, CPU)
    assert cuda["gpu_mem_limit"] == str(64 * 2**20)
    folder = tmp_path / "tensorrt" / "forecast-lstm" / str(manifest("forecast-lstm").version)
    assert folder.is_dir()
    assert options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert options["trt_profile_min_shapes"] == "values:1x48x7,lengths:1,hour_of_week:1"
    assert options["trt_profile_max_shapes"] == "values:64x336x7,lengths:64,hour_of_week:64"


def test_a_picture_has_no_length_in_tensorrts_profile(monkeypatch, tmp_path):
    """Rows are the only axis that varies."""
    chosen = on_gpu(monkeypatch, tensorrt=True, state=tmp_path)
    options = provider_list(chosen, manifest("digit-cnn"))[0][1]
    assert options["trt_profile_min_shapes"] == "pixels:1x28x28"
    assert options["trt_profile_opt_shapes"] == "pixels:64x28x28"


def test_the_installed_package_knows_every_option_by_its_name(monkeypatch, tmp_path):
    """A misspelt option would be found on a GPU only: so each name is looked up in the provider's library."""
    lists = [
        provider_list(on_gpu(monkeypatch, cuda_graphs="on", gpu_mem_limit_mb=64), manifest()),
        provider_list(on_gpu(monkeypatch, tensorrt=True, state=tmp_path), manifest()),
    ]
    words = {CUDA: {"HEURISTIC", "kSameAsRequested"}, TENSORRT: set()}
    for provider, options in (entry for each in lists for entry in each[:-1]):
        words[provider] |= set(options)
    libraries = {CUDA: "cuda", TENSORRT: "tensorrt"}
    assert len(words[TENSORRT]) == 8
    for provider, names in words.items():
        file = PACKAGE / f"libonnxruntime_providers_{libraries[provider]}.so"
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            assert {name for name in names if content.find(name.encode()) < 0} == set()
    (binding,) = PACKAGE.glob("onnxruntime_pybind11_state*.so")
    assert b"gpu_graph_id" in binding.read_bytes()


def test_onnx_runtime_takes_the_whole_list(monkeypatch, tmp_path):
    """Names, options and order make a session; the trial session of one node gets what a model's session gets."""
    trial = device.granted
    digit_graph(tmp_path / "model.onnx", favourite=2)
    chosen = on_gpu(monkeypatch, gpu_mem_limit_mb=64)
    session = open_session(tmp_path / "model.onnx", draft(), chosen)
    assert session.get_providers()[-1] == CPU
    assert session.get_providers()[0] == trial(provider_list(chosen, draft()))


def test_a_cpu_is_asked_for_alone():
    """Nothing of CUDA is touched."""
    assert provider_list(Device("cpu", try_cuda=False, reason="test"), manifest()) == [CPU]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda"}, "NEUROSERVE_DEVICE=cuda, but no NVIDIA driver"),
        ({"tensorrt_cache": Path("x")}, "NEUROSERVE_TENSORRT=true, but no NVIDIA driver"),
        ({"cuda_graphs": "on"}, "NEUROSERVE_CUDA_GRAPHS=on, but no NVIDIA driver"),
        ({"tensorrt_cache": Path("x"), "cuda_graphs": "auto"}, "exclude each other"),
        ({"device": "cpu", "cuda_graphs": "on"}, "NEUROSERVE_CUDA_GRAPHS=on, but NEUROSERVE_DEVICE=cpu"),
        ({"device": "cpu", "tensorrt_cache": Path("x")}, "NEUROSERVE_TENSORRT=true, but NEUROSERVE_DEVICE=cpu"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_refuses_to_start(monkeypatch, changes, message):
    """A sentence that names the setting and the reason."""
    monkeypatch.setattr(device, "driver_present", lambda: False)
    mode = changes.pop("device", "auto")
    with pytest.raises(DeviceError, match=re.escape(message)):
        device.choose(mode, 1, **changes)


def test_graphs_where_possible_are_no_reason_to_refuse_a_cpu(monkeypatch):
    """`auto` asks for nothing that a CPU must have."""
    monkeypatch.setattr(device, "driver_present", lambda: False)
    assert not device.choose("auto", 1, cuda_graphs="auto").try_cuda


def test_a_driver_without_cudas_libraries_is_told_apart(monkeypatch):
    """The GPU is there, the package's CUDA provider is not: `auto` says so, `cuda` refuses."""
    monkeypatch.setattr(device, "driver_present", lambda: True)
    monkeypatch.setattr(device, "granted", lambda providers: CPU)
    chosen = device.choose("auto", 1)
    assert not chosen.try_cuda
    assert "does not get at the NVIDIA GPU that is there" in chosen.reason
    with pytest.raises(DeviceError, match="NEUROSERVE_DEVICE=cuda, but ONNX Runtime does not get at"):
        device.choose("cuda", 1)


@pytest.mark.parametrize("available", [[TENSORRT, CUDA, CPU], [CUDA, CPU]])
def test_tensorrt_that_cannot_be_loaded_refuses(monkeypatch, tmp_path, available):
    """A package without it and a machine without its libraries; CUDA alone is never taken in its place."""
    monkeypatch.setattr(device, "driver_present", lambda: True)
    monkeypatch.setattr(device, "granted", lambda providers: CUDA if providers[0][0] == CUDA else "")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    missing = "cannot load it" if TENSORRT in available else "built without it"
    with pytest.raises(DeviceError, match=f"NEUROSERVE_TENSORRT=true, but .*{missing}.*unset it to run on CUDA"):
        device.choose("auto", 1, tensorrt_cache=tmp_path)


def test_a_trial_asks_a_real_session(caplog):
    """What a list of providers is worth is seen from a session; one that cannot be made is told in the log."""
    assert device.granted([CPU]) == CPU
    assert not caplog.text
    assert device.granted([(CPU, {}), 3]) == ""
    assert "ONNX Runtime makes no session on CPUExecutionProvider: 'providers' values must be" in caplog.text


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        (Device("cuda", True, ""), "NEUROSERVE_DEVICE=cuda"),
        (Device("auto", True, "", tensorrt_cache=Path("x")), "NEUROSERVE_TENSORRT=true"),
    ],
)
def test_another_provider_than_asked_for_is_refused(chosen, asked):
    """The session's own account counts, after it was built."""
    with pytest.raises(DeviceError, match=f"{asked}, but ONNX Runtime gave digit-cnn {CPU}"):
        engine._check_provider("digit-cnn", CPU, chosen)
    engine._check_provider("digit-cnn", chosen.first_provider, chosen)
    engine._check_provider("digit-cnn", CPU, Device("auto", True, ""))


REFUSAL = "This session cannot use the graph capture feature as requested by the user"


@pytest.fixture
def uncapturable(monkeypatch, tmp_path):
    """A version that ONNX Runtime refuses to capture, as it does when a node cannot run on CUDA."""
    digit_graph(tmp_path / "model.onnx", favourite=5)

    def refusing(path, manifest, chosen):
        if chosen.cuda_graphs != "off":
            raise RuntimeError(REFUSAL)
        return open_session(path, manifest, Device("cpu", False, ""))

    monkeypatch.setattr(engine, "open_session", refusing)
    return tmp_path


def test_a_graph_that_cannot_be_captured_runs_without_and_says_so(uncapturable, caplog):
    """With `auto`: an answer all the same, a line in the log with the reason, and the note of /health/ready."""
    chosen = Device("auto", True, "", cuda_graphs="auto")
    made = engine.load(uncapturable, draft(favourite=5), chosen)
    assert made.run([{"pixels": np.zeros((1, 28, 28), np.uint8)}], 1, 0)[0].argmax() == 5
    assert REFUSAL in caplog.text
    assert "runs without CUDA graphs" in caplog.text
    assert chosen.reason == "digit-cnn: runs without CUDA graphs"
    assert chosen.cuda_graphs == "auto"
    made.close()


def test_a_graph_that_must_be_captured_is_refused(uncapturable, caplog):
    """With `on` the version is not served, and the reason is in the log."""
    with pytest.raises(EngineError, match="does not load with NEUROSERVE_CUDA_GRAPHS=on; the log has the reason"):
        engine.load(uncapturable, draft(favourite=5), Device("auto", True, "", cuda_graphs="on"))
    assert REFUSAL in caplog.text


def test_a_model_that_got_the_cpu_in_place_of_cuda_is_noted(monkeypatch, tmp_path):
    """`auto` serves it, and the note says so until a version gets the GPU."""
    digit_graph(tmp_path / "model.onnx", favourite=5)
    monkeypatch.setattr(
        engine, "open_session", lambda path, manifest, _: open_session(path, manifest, Device("cpu", False, ""))
    )
    chosen = Device("auto", True, "")
    engine.load(tmp_path, draft(favourite=5), chosen).close()
    assert chosen.reason == "digit-cnn: CUDA was tried, ONNX Runtime gave the CPU"
    chosen.remark("topic-rnn", "runs without CUDA graphs")
    chosen.remark("digit-cnn", None)
    assert chosen.reason == "topic-rnn: runs without CUDA graphs"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("tensorrt", "true", "NEUROSERVE_TENSORRT=true, but"), ("cuda_graphs", "on", "NEUROSERVE_CUDA_GRAPHS=on, but")],
)
def test_the_service_does_not_start_without_what_it_was_told_to_use(tmp_path, name, value, said):
    """The sentence is in the log of the start that failed."""
    with pytest.raises(AssertionError, match=said), Server(tmp_path, device="cpu", workers=1, **{name: value}):
        pass
