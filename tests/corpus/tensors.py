"""Requests of the Open Inference Protocol over REST, in JSON and with binary tensors, and over gRPC."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tests.corpus import pictures
from tests.corpus.calls import Call, Http, Rpc, both, get, post, send
from tests.server import shipped
from tests.service import oip

DIGIT, TOPIC, SERIES = "digit-cnn", "topic-transformer", "forecast-lstm"
MODELS = (DIGIT, "digit-mlp", TOPIC, "topic-gru", "topic-lstm", "topic-rnn", SERIES, "forecast-gru", "forecast-rnn",
          "forecast-transformer")  # fmt: skip


def pixels(*digits: int) -> dict[str, np.ndarray]:
    """The input of a digit network."""
    return {"pixels": np.stack([pictures.mnist(digit) for digit in digits])}


def inputs_of(model: str) -> dict[str, np.ndarray]:
    """Two rows that a network is asked: drawn digits, or its golden sample."""
    return pixels(4, 7) if model.startswith("digit") else oip.golden(model)[0]


def shifted(inputs: Mapping[str, np.ndarray], by: float) -> dict[str, np.ndarray]:
    """The same readings, all larger."""
    return {name: each + np.float32(by) if each.dtype == np.float32 else each for name, each in inputs.items()}


def requests() -> Iterator[Call]:
    """All of them."""
    for call in (*_rest(), *_wrong()):
        yield from both(call)
    yield from _views()
    yield from _rpc()
    yield from _rpc_wrong()
    yield from _rpc_views()


def _path(model: str, version: int | str | None = None) -> str:
    return f"/v2/models/{model}" + ("" if version is None else f"/versions/{version}") + "/infer"


def _infer(name: str, model: str, inputs: Mapping[str, np.ndarray], version: Any = None, **content: Any) -> Http:
    request = oip.infer(inputs, **content)
    return Http(f"v2 {name}", "POST", _path(model, version), request["headers"], request["content"])


def _rest() -> Iterator[Http]:
    for model in MODELS:
        inputs = inputs_of(model)
        yield _infer(f"JSON to {model}", model, inputs, binary=False)
        yield _infer(f"binary to {model}", model, inputs, binary_out=True)
        yield _infer(f"binary to {model}, answered in JSON", model, inputs)
    digits = pixels(1, 4, 5, 7)
    live = shipped(DIGIT)
    yield _infer("JSON, answered in binary", DIGIT, digits, binary=False, binary_out=True)
    yield _infer("with an id", DIGIT, digits, binary_out=True, id="my request")
    for version in (live, live + 1, live + 2, 99, "x", 0):
        yield _infer(f"of version {version}", DIGIT, digits, version)
    for name, outputs in {
        "one output": [{"name": "probabilities"}],
        "one binary output": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        "three classes": [{"name": "probabilities", "parameters": {"classification": 3}}],
        "unknown output": [{"name": "nothing"}],
        "an output twice": [{"name": "probabilities"}, {"name": "probabilities"}],
        "shared memory": [{"name": "probabilities", "parameters": {"shared_memory_region": "a"}}],
    }.items():
        yield _infer(f"wants {name}", DIGIT, digits, outputs=outputs)
    for name, parameters in {
        "a timeout": {"timeout": 5_000_000}, "a priority": {"priority": 1}, "a text": {"binary_data_output": "yes"},
        "a sequence": {"sequence_id": 7}, "something": {"anything": "goes"},
    }.items():  # fmt: skip
        yield _infer(f"parameters {name}", DIGIT, digits, parameters=parameters)
    yield _infer(
        "warns of no digit", DIGIT, {"pixels": np.stack([pictures.noise(), pictures.mnist(7)])}, binary_out=True
    )
    yield _infer("warns of blank and full", DIGIT, {"pixels": np.stack([np.zeros((28, 28), np.uint8)] * 2)})
    values = inputs_of(SERIES)
    yield _infer("warns of implausible values", SERIES, shifted(values, 60))
    yield _infer("far values", SERIES, shifted(values, 1e6))


def _wrong() -> Iterator[Http]:
    data = pixels(7)["pixels"]
    described = oip.tensor("pixels", data, binary=False)
    for name, content in {
        "no inputs": {}, "empty inputs": {"inputs": []}, "an unknown input": {"inputs": [{**described, "name": "x"}]},
        "another type": {"inputs": [{**described, "datatype": "FP32"}]},
        "another shape": {"inputs": [{**described, "shape": [1, 27, 28]}]},
        "a shape of texts": {"inputs": [{**described, "shape": ["1"]}]},
        "too few data": {"inputs": [{**described, "data": [1]}]},
        "no data": {"inputs": [{name: described[name] for name in ("name", "shape", "datatype")}]},
        "data of texts": {"inputs": [{**described, "data": ["1"] * 784}]},
        "data too large": {"inputs": [{**described, "data": [256] * 784}]},
        "an input twice": {"inputs": [described, described]},
        "zero rows": {"inputs": [{**described, "shape": [0, 28, 28], "data": []}]},
        "both kinds of data": {"inputs": [{**described, "parameters": {"binary_data_size": 784}}]},
        "shared memory": {"inputs": [{**described, "parameters": {"shared_memory_region": "a"}}]},
        "an id of a number": {"id": 7, "inputs": [described]}, "a list": [], "a nested row": {"inputs": [
            {**described, "data": data.tolist()}]},
    }.items():  # fmt: skip
        yield post(f"v2 wrong, {name}", _path(DIGIT), content)
    body = oip.infer(pixels(7))
    for name, length in (("too long", "99999"), ("a text", "x"), ("too short", "10"), ("negative", "-1")):
        yield Http(f"v2 wrong, length {name}", "POST", _path(DIGIT), {oip.LENGTH: length}, body["content"])
    yield Http("v2 wrong, bytes behind", "POST", _path(DIGIT), body["headers"], body["content"] + b"more")
    yield Http("v2 wrong, bytes missing", "POST", _path(DIGIT), body["headers"], body["content"][:-4])
    yield post("v2 wrong, no JSON", _path(DIGIT), b"hello", content_type="application/json")
    yield post("v2 wrong, no body", _path(DIGIT))
    yield post("v2 wrong, unknown model", _path("nobody"), {"inputs": [described]})
    yield _infer("wrong, 257 rows", DIGIT, {"pixels": np.repeat(data, 257, 0)})
    for model, fault in ((TOPIC, -1), (TOPIC, 10**6)):
        inputs = {name: np.full_like(each, fault) for name, each in inputs_of(model).items()}
        yield _infer(f"wrong, ids of {fault}", model, inputs, binary=False)
    nan = {name: np.full_like(each, np.nan) for name, each in inputs_of(SERIES).items() if each.dtype == np.float32}
    yield _infer("wrong, NaN", SERIES, {**inputs_of(SERIES), **nan})


def _views() -> Iterator[Call]:
    yield get("v2 server", "/v2")
    yield get("v2 live", "/v2/health/live")
    yield get("v2 ready", "/v2/health/ready")
    for model in MODELS:
        yield get(f"v2 metadata of {model}", f"/v2/models/{model}")
        yield get(f"v2 configuration of {model}", f"/v2/models/{model}/config")
    for model in (DIGIT, TOPIC, SERIES):
        version = shipped(model)
        for path in ("ready", f"versions/{version}", f"versions/{version}/ready", f"versions/{version}/config",
                     "versions/99", "versions/x/ready"):  # fmt: skip
            yield get(f"v2 {path} of {model}", f"/v2/models/{model}/{path}")
    for path in ("", "/ready", "/config", "/stats"):
        yield get(f"v2 view {path} of nobody", f"/v2/models/nobody{path}")
    yield post("v2 index", "/v2/repository/index")
    yield post("v2 index of the ready", "/v2/repository/index", {"ready": True})
    yield post("v2 index wrong", "/v2/repository/index", {"ready": "yes"})
    for path in ("repository/models/digit-cnn/load", "repository/models/digit-cnn/unload", "trace/setting", "logging",
                 "systemsharedmemory/status", "cudasharedmemory/region/a/register",
                 "models/digit-cnn/generate"):  # fmt: skip
        yield post(f"v2 refuses {path}", f"/v2/{path}", {})
    yield get("v2 nothing", "/v2/nothing")
    yield send("v2 wrong method", "DELETE", "/v2/models/digit-cnn")
    yield get("v2 GET infer", _path(DIGIT))


# ---------------------------------------------------------------------- gRPC


def message(model: str, inputs: Mapping[str, np.ndarray], *, raw: bool = True, **content: Any) -> dict[str, Any]:
    """A ModelInferRequest as the JSON of its fields."""
    fields = {"uint8": "uint_contents", "int64": "int64_contents", "float32": "fp32_contents"}
    told: dict[str, Any] = {"model_name": model, "inputs": [], **content}
    for name, array in inputs.items():
        kind = str(array.dtype)
        tensor = {"name": name, "datatype": oip.NAMES[kind], "shape": list(array.shape)}
        if raw:
            told.setdefault("raw_input_contents", []).append(base64.b64encode(array.tobytes()).decode())
        else:
            tensor["contents"] = {fields[kind]: array.ravel().tolist()}
        told["inputs"].append(tensor)
    return told


def rpc(name: str, method: str, *messages: Mapping[str, Any] | bytes, **metadata: str) -> Rpc:
    """A call of the open service."""
    named = {each.replace("_", "-"): value for each, value in metadata.items()}
    return Rpc(f"grpc {name}", method, messages, named)


def _rpc() -> Iterator[Rpc]:
    for model in MODELS:
        inputs = inputs_of(model)
        yield rpc(f"raw to {model}", "ModelInfer", message(model, inputs))
        yield rpc(f"typed to {model}", "ModelInfer", message(model, inputs, raw=False))
    digits, live = pixels(1, 4, 5, 7), shipped(DIGIT)
    for version in (live, live + 1, live + 2, 99, "x"):
        yield rpc(f"version {version}", "ModelInfer", message(DIGIT, digits, model_version=str(version)))
    yield rpc("an id", "ModelInfer", message(DIGIT, digits, id="my request"), x_request_id="corpus-rpc")
    yield rpc("one output", "ModelInfer", message(DIGIT, digits, outputs=[{"name": "probabilities"}]))
    yield rpc("three classes", "ModelInfer", message(DIGIT, digits, outputs=[
        {"name": "probabilities", "parameters": {"classification": {"int64_param": 3}}}]))  # fmt: skip
    yield rpc("a warning", "ModelInfer", message(DIGIT, {"pixels": np.stack([pictures.noise(), pictures.mnist(7)])}))
    yield rpc("a timeout", "ModelInfer", message(DIGIT, digits, parameters={"timeout": {"int64_param": 5_000_000}}))
    yield rpc("a stream", "ModelStreamInfer", message(DIGIT, pixels(1)), message(TOPIC, inputs_of(TOPIC), id="2"))
    yield rpc("a stream with an error", "ModelStreamInfer", message(DIGIT, pixels(1)), message("nobody", pixels(1)),
              message(DIGIT, pixels(4)))  # fmt: skip
    yield rpc("an empty stream", "ModelStreamInfer")


def _rpc_wrong() -> Iterator[Rpc]:
    good = message(DIGIT, pixels(7))
    tensor = good["inputs"][0]
    for name, content in {
        "unknown model": {"model_name": "nobody"},
        "no model": {"model_name": ""},
        "no inputs": {"inputs": [], "raw_input_contents": []},
        "unknown input": {"inputs": [{**tensor, "name": "x"}]},
        "another type": {"inputs": [{**tensor, "datatype": "FP32"}]},
        "another shape": {"inputs": [{**tensor, "shape": [1, 27, 28]}]},
        "short bytes": {"raw_input_contents": ["AAAA"]},
        "too many bytes": {"raw_input_contents": [*good["raw_input_contents"], "AAAA"]},
        "unknown output": {"outputs": [{"name": "x"}]},
        "shared memory": {"outputs": [{"name": "probabilities", "parameters": {"shared_memory_region": {
            "string_param": "a"}}}]},
    }.items():  # fmt: skip
        yield rpc(f"wrong, {name}", "ModelInfer", {**good, **content})
    yield rpc("wrong, no message", "ModelInfer", b"\xff\xff\xff")
    yield rpc("wrong, 257 rows", "ModelInfer", message(DIGIT, {"pixels": np.repeat(pixels(7)["pixels"], 257, 0)}))
    yield rpc("unknown method", "/inference.GRPCInferenceService/Nothing", b"")
    yield rpc("unknown service", "/other.Service/Nothing", b"")


def _rpc_views() -> Iterator[Rpc]:
    for method in ("ServerLive", "ServerReady", "ServerMetadata", "RepositoryIndex"):
        yield rpc(method, method, {})
    yield rpc("index of the ready", "RepositoryIndex", {"ready": True})
    yield rpc("health", "/grpc.health.v1.Health/Check", {})
    yield rpc("health of a service", "/grpc.health.v1.Health/Check", {"service": "inference.GRPCInferenceService"})
    yield rpc("health of another", "/grpc.health.v1.Health/Check", {"service": "nobody"})
    for model in (*MODELS[:3], SERIES, "nobody"):
        for method in ("ModelReady", "ModelMetadata", "ModelConfig"):
            yield rpc(f"{method} of {model}", method, {"name": model})
    yield rpc("ModelReady of a version", "ModelReady", {"name": DIGIT, "version": "99"})
    yield rpc("statistics of nobody", "ModelStatistics", {"name": "nobody"})


def with_key(call: Rpc, secret: str | None) -> Rpc:
    """The same call of the service with keys."""
    metadata = {**call.metadata, **({} if secret is None else {"authorization": f"Bearer {secret}"})}
    return replace(call, service="keys", metadata=metadata)
