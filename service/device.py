"""Which device the models run on, and how many threads they may use.

`onnxruntime.get_available_providers()` only tells how the package was built, so nothing here believes it: a driver is
looked for first, then a session of one node is made and asked what it got; so is every model's session afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import io
import logging
import os
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import onnxruntime

log = logging.getLogger(__name__)

DeviceMode = Literal["auto", "cuda", "cpu"]
GraphMode = Literal["off", "auto", "on"]
CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"

_TRIAL = (
    b'\x08\n\x12\x00:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01t'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x14"
)
"""An ONNX graph of one Identity node."""


class DeviceError(RuntimeError):
    """The asked-for device cannot be had; the message says what is missing."""


@dataclass
class Device:
    """What was asked for and what a session should try.

    `reason` is for people: why it is not a GPU when it is not, and what a model does without on the GPU.
    `tensorrt_cache` is the folder of TensorRT's engines, None without TensorRT.
    """

    mode: DeviceMode
    try_cuda: bool
    reason: str
    threads: int = 1
    gpu_mem_limit_bytes: int | None = None
    cuda_graphs: GraphMode = "off"
    tensorrt_cache: Path | None = None
    _remarks: dict[str, str] = field(default_factory=dict)

    @property
    def first_provider(self) -> str:
        """The provider that a session should get."""
        if not self.try_cuda:
            return CPU
        return CUDA if self.tensorrt_cache is None else TENSORRT

    def remark(self, model: str, text: str | None) -> None:
        """Let `reason` say what this model does without; None when there is nothing to say any more."""
        if text is None and model not in self._remarks:
            return
        self._remarks.pop(model, None)
        if text is not None:
            self._remarks[model] = text
        self.reason = "; ".join(f"{name}: {each}" for name, each in sorted(self._remarks.items()))


def choose(
    mode: DeviceMode,
    threads: int,
    gpu_mem_limit_bytes: int | None = None,
    *,
    cuda_graphs: GraphMode = "off",
    tensorrt_cache: Path | None = None,
) -> Device:
    """The device for this process. DeviceError when something was asked for that this machine does not have."""
    if tensorrt_cache is not None and cuda_graphs != "off":
        raise DeviceError(
            f"NEUROSERVE_TENSORRT=true and NEUROSERVE_CUDA_GRAPHS={cuda_graphs} exclude each other; set one of them"
        )
    reason = "NEUROSERVE_DEVICE=cpu" if mode == "cpu" else _why_no_cuda()
    if reason:
        if mode == "cuda":
            raise DeviceError(
                f"NEUROSERVE_DEVICE=cuda, but {reason}; set NEUROSERVE_DEVICE=auto or cpu to run on the CPU"
            )
        if tensorrt_cache is not None:
            raise DeviceError(f"NEUROSERVE_TENSORRT=true, but {reason}; unset it to run without TensorRT")
        if cuda_graphs == "on":
            raise DeviceError(f"NEUROSERVE_CUDA_GRAPHS=on, but {reason}; set it to auto or off to run without CUDA")
        return Device(mode, False, reason, threads)
    if tensorrt_cache is not None and (missing := _why_no_tensorrt()):
        raise DeviceError(f"NEUROSERVE_TENSORRT=true, but {missing}; unset it to run on CUDA alone")
    return Device(mode, True, "", threads, gpu_mem_limit_bytes, cuda_graphs, tensorrt_cache)


def granted(providers: list[Any]) -> str:
    """The first provider that a session with this list really gets; empty, with a log line, when there is none."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_TRIAL, options, providers=providers, enable_fallback=0)
    except Exception as exc:  # ONNX Runtime raises a class of its own per status
        log.warning("ONNX Runtime makes no session on %s: %s", providers[0][0], str(exc).strip())
        return ""
    return str(session.get_providers()[0])


def _why_no_cuda() -> str:
    """Why ONNX Runtime cannot use CUDA here; empty when it can."""
    if not driver_present():
        return "no NVIDIA driver was found (libcuda.so.1 does not load)"
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        onnxruntime.preload_dlls()
    said = " ".join(stdout.getvalue().split())
    if said:
        log.info("CUDA libraries: %s", said)
    if (got := granted([(CUDA, {"device_id": 0}), CPU])) == CUDA:
        return ""
    return f"ONNX Runtime does not get at the NVIDIA GPU that is there: {said or got or 'the log has the reason'}"


def _why_no_tensorrt() -> str:
    """Why ONNX Runtime cannot use TensorRT here; empty when it can."""
    if TENSORRT not in onnxruntime.get_available_providers():
        return "this ONNX Runtime package was built without it"
    if granted([(TENSORRT, {"device_id": 0}), (CUDA, {"device_id": 0}), CPU]) == TENSORRT:
        return ""
    return "ONNX Runtime cannot load it (TensorRT 10 for CUDA 13 must be installed; the log has the reason)"


def driver_present() -> bool:
    """Whether the NVIDIA driver's library can be loaded and sees a device."""
    cuda = driver()
    if cuda is None:
        return False
    count = ctypes.c_int(0)
    return bool(cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0)


def driver() -> ctypes.CDLL | None:
    """The NVIDIA driver's library, or None where it does not load. Loading it initialises nothing."""
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None


def cpu_quota() -> float:
    """CPUs this process may use: the cgroup's quota where there is one, else the CPUs it may be scheduled on."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (_quota_v2(), _quota_v1()) if quota is not None]
    return min([float(affinity), *quotas])


def _quota_v2(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    try:
        limit, period = (root / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _quota_v1(root: Path = Path("/sys/fs/cgroup/cpu")) -> float | None:
    try:
        limit = int((root / "cpu.cfs_quota_us").read_text("ascii"))
        period = int((root / "cpu.cfs_period_us").read_text("ascii"))
    except (OSError, ValueError):
        return None
    return None if limit <= 0 or period <= 0 else limit / period


def package_conflict() -> str | None:
    """A warning when both ONNX Runtime packages are installed: they overwrite each other's files without a word."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            installed.append(name)
    if len(installed) < 2:
        return None
    return (
        "both onnxruntime and onnxruntime-gpu are installed and share one folder, so CUDA may be gone; "
        "uninstall both, then: pip install --force-reinstall --no-deps onnxruntime-gpu"
    )
