"""What the protocol tells of the server and its models: metadata, configuration, the repository's index."""

from __future__ import annotations

from typing import Any

from models.manifest import Manifest, ManifestError, TensorSpec, read_manifest
from service.errors import NotFound, Unavailable
from service.oip.values import NAMES
from service.registry import Registry

EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "schedule_policy",
              "statistics"]  # fmt: skip
PLATFORM = "onnxruntime_onnx"


def server(version: str) -> dict[str, Any]:
    return {"name": "neuroserve", "version": version, "extensions": EXTENSIONS}


def metadata(manifest: Manifest, versions: list[int]) -> dict[str, Any]:
    """Tensors with their row axis; -1 is a size that is free."""
    return {
        "name": manifest.name,
        "versions": [str(version) for version in versions],
        "platform": PLATFORM,
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
    }


def config(manifest: Manifest, most_items: int, most_batch_rows: int, max_wait_ms: float) -> dict[str, Any]:
    """The ModelConfig that fits what this service does; `dims` are those of one row."""
    batching = {
        "preferred_batch_size": [most_batch_rows],
        "max_queue_delay_microseconds": round(max_wait_ms * 1000),
        "default_queue_policy": {"timeout_action": "REJECT", "allow_timeout_override": True},
    }
    return {
        "name": manifest.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "version_policy": {"all": {}},
        "max_batch_size": most_items,
        "input": [
            {**_row(spec), "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
            for spec in manifest.inputs
        ],
        "output": [{**_row(spec), "is_shape_tensor": False} for spec in manifest.outputs],
        "dynamic_batching": batching,
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
        "default_model_filename": manifest.model_file,
    }


async def manifest_of(registry: Registry, name: str, version: int | None) -> tuple[Manifest, list[int]]:
    """A version's manifest, by default that of the live one, and the versions that the store has of the model.

    NotFound when there is no such model or version, Unavailable when its manifest cannot be read.
    """
    slot = await registry.slot(name)
    loaded = await slot.get(None) if version is None else None
    versions = await registry.in_store(registry.store.versions, name)
    if loaded is not None:
        return loaded.manifest, versions
    if version not in versions:
        raise NotFound(f"{name} has no version {version}; it has {', '.join(map(str, versions))}.")
    try:
        return await registry.in_store(read_manifest, registry.store.root / name / str(version)), versions
    except ManifestError as exc:
        raise Unavailable(f"{name} version {version} cannot be used: {exc}.") from None


async def index(registry: Registry, *, only_ready: bool) -> list[dict[str, str]]:
    """Every version in the store: READY where it answers when asked for, UNAVAILABLE with the reason where not."""
    found: list[dict[str, str]] = []
    for name in await registry.names():
        slot = registry.loaded(name)
        refused = {} if slot is None else dict(slot.refused)
        fault = None if slot is None else slot.fault
        for entry in await registry.in_store(registry.catalogue.entries, name):
            version = entry.info.version
            reason = fault or refused.get(version) or entry.info.problem
            state = "UNAVAILABLE" if reason else "READY"
            found.append({"name": name, "version": str(version), "state": state, "reason": reason or ""})
    return [each for each in found if each["state"] == "READY"] if only_ready else found


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": _sizes(spec)}


def _row(spec: TensorSpec) -> dict[str, Any]:
    """A tensor of one row; a number alone is a tensor of one value there."""
    sizes = _sizes(spec)[1:]
    reshape: dict[str, Any] = {} if sizes else {"reshape": {"shape": []}}
    return {"name": spec.name, "data_type": f"TYPE_{NAMES[spec.dtype]}", "dims": sizes or [1], **reshape}


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in spec.shape]
