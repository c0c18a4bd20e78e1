"""The machine a run finds: device, threads, seeds and library versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import random
from pathlib import Path
from typing import Protocol

import torch

_LIBRARIES = ("torch", "onnx", "onnxscript", "numpy")
_ORT_PACKAGES = ("onnxruntime-gpu", "onnxruntime")


def device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def threads(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Threads worth having: `OMP_NUM_THREADS` if set, else the CPUs this process may use within its cgroup's quota."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs the cgroup grants (version 2, then version 1), None when it sets no limit."""
    try:
        if (cgroup / "cpu.max").is_file():
            limit, period = (cgroup / "cpu.max").read_text("ascii").split()
        else:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text("ascii")
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text("ascii")
        return None if limit == "max" or int(limit) < 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def prepare(seed: int) -> torch.device:
    """Seed everything, ask for deterministic kernels, set the threads; the device to train on."""
    where = device()
    if where.type == "cuda":
        limit_gpu_memory(torch.cuda, where)
    # cuBLAS is deterministic only with a fixed workspace, to be named before its first use
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=where.type == "cuda")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # costs time
    torch.set_num_threads(threads())
    seed_all(seed)
    return where


class _Cuda(Protocol):
    def set_per_process_memory_fraction(self, fraction: float, device: torch.device, /) -> None: ...


def limit_gpu_memory(cuda: _Cuda, where: torch.device) -> float:
    """Keep torch within its share of the GPU, so that models that are served there find room; the share.

    `NEUROSERVE_TRAIN_GPU_MEM_SHARE`, above 0 and at most 1; ValueError for anything else.
    """
    said = os.environ.get("NEUROSERVE_TRAIN_GPU_MEM_SHARE") or "0.5"
    try:
        share = float(said)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise ValueError(f"NEUROSERVE_TRAIN_GPU_MEM_SHARE={said} is not a share above 0 and at most 1")
    cuda.set_per_process_memory_fraction(share, where)
    return share


def seed_all(seed: int) -> None:
    """Seed Python's and torch's global generators."""
    random.seed(seed)
    torch.manual_seed(seed)


def libraries() -> dict[str, str]:
    """Versions of what shapes the result."""
    found = {"python": platform.python_version()}
    for name in (*_LIBRARIES, *_ORT_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
