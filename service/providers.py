"""What a model's session asks ONNX Runtime for: the execution providers, in order, each with its options."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import onnxruntime

from models.manifest import Manifest
from service.device import CPU, CUDA, TENSORRT, Device
from service.loader import at_normal_priority
from service.tensors import shape_of


def provider_list(device: Device, manifest: Manifest) -> list[Any]:
    """The providers for one model on this device, the wanted one first; makes the folder of TensorRT's engines."""
    if not device.try_cuda:
        return [CPU]
    cuda = (CUDA, _cuda_options(device))
    if device.tensorrt_cache is None:
        return [cuda, CPU]
    folder = device.tensorrt_cache / manifest.name / str(manifest.version)
    folder.mkdir(parents=True, exist_ok=True)
    return [(TENSORRT, _tensorrt_options(folder, manifest)), cuda, CPU]


def open_session(path: Path, manifest: Manifest, device: Device) -> onnxruntime.InferenceSession:
    """The session for one model. Raises what ONNX Runtime raises; it never becomes a CPU session by itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and logged by whoever catches it
    options.enable_mem_pattern = False  # it keeps a block of memory for every shape a batch ever had
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = provider_list(device, manifest)
    build = functools.partial(onnxruntime.InferenceSession, path, options, providers=providers, enable_fallback=0)
    session = at_normal_priority(build) if device.threads > 1 else build()
    session.disable_fallback()  # a device that dies must be an error, not a silent CPU
    return session


def _cuda_options(device: Device) -> dict[str, str]:
    options = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",  # TF32 keeps ten bits: the golden sample would not come out within its tolerance
    }
    if device.gpu_mem_limit_bytes is not None:
        options["gpu_mem_limit"] = str(device.gpu_mem_limit_bytes)
    if device.cuda_graphs != "off":
        options["enable_cuda_graph"] = "1"
    return options


def _tensorrt_options(folder: Path, manifest: Manifest) -> dict[str, str]:
    """One engine for every bucket (a shape outside the profile would build another), kept between starts."""
    buckets = manifest.buckets
    lengths = buckets.lengths or [0]
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
        "trt_profile_min_shapes": _profile(manifest, 1, lengths[0]),
        "trt_profile_opt_shapes": _profile(manifest, buckets.rows[-1], lengths[-1]),
        "trt_profile_max_shapes": _profile(manifest, buckets.rows[-1], lengths[-1]),
    }


def _profile(manifest: Manifest, rows: int, length: int) -> str:
    """`name:1x48x7,other:1`, the form that TensorRT's options take."""
    shapes = [(spec.name, shape_of(spec, rows, length)) for spec in manifest.inputs]
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes)
