"""Requests of the Open Inference Protocol as bytes, written by the protocol's text."""

import json
from functools import cache

import numpy as np

from models.manifest import read_manifest
from tests.server import ROOT, shipped

NAMES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
LENGTH = "Inference-Header-Content-Length"


@cache
def manifest(name):
    return read_manifest(ROOT / "models" / "zoo" / name / str(shipped(name)))


@cache
def golden(name):
    """The inputs of a model's golden sample, and its outputs."""
    found = manifest(name)
    inputs = {spec.name: np.asarray(found.golden.inputs[spec.name], spec.dtype) for spec in found.inputs}
    return inputs, {output: np.asarray(values, np.float32) for output, values in found.golden.outputs.items()}


def tensor(name, array, *, binary):
    described = {"name": name, "shape": list(array.shape), "datatype": NAMES[str(array.dtype)]}
    if binary:
        return described | {"parameters": {"binary_data_size": array.nbytes}}
    return described | {"data": array.ravel().tolist()}


def infer(inputs, *, binary=True, binary_out=None, **content):
    """Body and headers of a request."""
    content["inputs"] = [tensor(name, array, binary=binary) for name, array in inputs.items()]
    if binary_out is not None:
        content["parameters"] = {"binary_data_output": binary_out} | content.get("parameters", {})
    head = json.dumps(content).encode()
    if not binary:
        return {"content": head, "headers": {"Content-Type": "application/json"}}
    tail = b"".join(array.tobytes() for array in inputs.values())
    return {"content": head + tail, "headers": {LENGTH: str(len(head))}}


def outputs(response):
    """The arrays of a response, binary and not, and its JSON."""
    assert response.status_code == 200, response.text
    body, length = response.content, response.headers.get(LENGTH)
    content = json.loads(body if length is None else body[: int(length)])
    at = len(body) if length is None else int(length)
    found = {}
    for each in content["outputs"]:
        size = (each.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.asarray(each["data"], np.float32)
        else:
            array, at = np.frombuffer(body[at : at + size], "<f4"), at + size
        found[each["name"]] = array.reshape(each["shape"])
    assert at == len(body)
    return found, content
