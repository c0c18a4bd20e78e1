"""Which device the models run on, and how many threads they may use.

`onnxruntime.get_available_providers()` only tells how the package was built, so nothing here believes it: a driver is
looked for before a session is made, and the session itself is asked afterwards what it got.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import io
import logging
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import onnxruntime

log = logging.getLogger(__name__)

DeviceMode = Literal["auto", "cuda", "cpu"]
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class DeviceError(RuntimeError):
    """The asked-for device cannot be had; the message says what is missing."""


@dataclass(frozen=True)
class Device:
    """What was asked for, what a session should try, and in `reason` why it is not a GPU when it is not."""

    mode: DeviceMode
    try_cuda: bool
    reason: str
    threads: int = 1
    gpu_mem_limit_bytes: int | None = None


def choose(mode: DeviceMode, threads: int, gpu_mem_limit_bytes: int | None = None) -> Device:
    """The device for this process. DeviceError when `cuda` was asked for and this machine has no driver."""
    if mode == "cpu":
        return Device(mode, False, "NEUROSERVE_DEVICE=cpu", threads)
    if not driver_present():
        reason = "no NVIDIA driver was found (libcuda.so.1 does not load)"
        if mode == "cuda":
            raise DeviceError(
                f"NEUROSERVE_DEVICE=cuda, but {reason}; set NEUROSERVE_DEVICE=auto or cpu to run on the CPU"
            )
        return Device(mode, False, reason, threads)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    if said.getvalue():
        log.info("CUDA libraries: %s", " ".join(said.getvalue().split()))
    return Device(mode, True, "", threads, gpu_mem_limit_bytes)


def driver_present() -> bool:
    """Whether the NVIDIA driver's library can be loaded and sees a device."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


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
