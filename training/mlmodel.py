"""The MLmodel file: what MLflow's clients know of a model without opening its ONNX."""

from __future__ import annotations

import json
import uuid

from models.manifest import Manifest, TensorSpec

MODEL = "model"
"""The folder of a run's artifacts that holds the model."""


def signature(manifest: Manifest) -> dict[str, str | None]:
    """Inputs and outputs as the field `signature` of an MLmodel file: dtype and shape of each, -1 for dynamic axes."""

    def schema(tensors: list[TensorSpec]) -> str:
        return json.dumps(
            [
                {
                    "type": "tensor",
                    "tensor-spec": {"dtype": one.dtype, "shape": [-1 if isinstance(n, str) else n for n in one.shape]},
                    "name": one.name,
                    "required": True,
                }
                for one in tensors
            ]
        )

    return {"inputs": schema(manifest.inputs), "outputs": schema(manifest.outputs), "params": None}


def mlmodel(manifest: Manifest, run_id: str, mlflow_version: str) -> str:
    """The MLmodel file (JSON, which is YAML) by which MLflow's clients read, load and serve the ONNX."""
    flavors = {
        "onnx": {
            "data": manifest.model_file,
            "onnx_version": manifest.provenance.libraries.get("onnx", ""),
            "providers": ["CPUExecutionProvider"],
            "code": None,
        },
        "python_function": {
            "loader_module": "mlflow.onnx",
            "data": manifest.model_file,
            "python_version": manifest.provenance.libraries.get("python", ""),
            "env": {"virtualenv": "python_env.yaml"},
        },
    }
    content = {
        "artifact_path": MODEL,
        "flavors": flavors,
        "mlflow_version": mlflow_version,
        "model_uuid": uuid.uuid4().hex,
        "run_id": run_id,
        "signature": signature(manifest),
        "utc_time_created": manifest.created_at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    return json.dumps(content, indent=1) + "\n"
