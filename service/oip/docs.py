"""What `/docs` says of `/v2`: the infer routes, which are plain ASGI, and examples of everything."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import (
    BodyTooLarge,
    Busy,
    Forbidden,
    InternalError,
    InvalidInput,
    NotFound,
    ServiceError,
    Unauthorized,
    UnsupportedMediaType,
)
from service.oip import schemas
from service.oip.answer import LENGTH_HEADER, OCTETS
from service.oip.errors import NotOffered, is_open_inference, refusal

_REF = "#/components/schemas/{model}"
_MEANING = {
    400: "The request is not as the protocol or the model wants it",
    401: "No bearer key, or one that is not known",
    403: "The key has not the scope this needs",
    404: "No such model or version",
    413: "The body is over the limit, packed or unpacked",
    415: "A Content-Encoding that is not taken",
    500: "The model failed; the log has the reason",
    501: "Not offered here",
    503: "Not ready, too many rows wait, or the deadline passed",
}
_SHOWN: tuple[ServiceError, ...] = (
    InvalidInput("input 'pixels' takes UINT8, not FP32."),
    Unauthorized("Send a key: Authorization: Bearer KEY."),
    Forbidden("This key has not the scope predict."),
    NotFound("There is no model 'digits'; there are: digit-cnn, digit-mlp."),
    BodyTooLarge("The body is larger than the limit of 10485760 bytes when unpacked; send fewer rows."),
    UnsupportedMediaType("Content-Encoding 'br' is not taken here; send gzip, deflate or none."),
    InternalError("The model failed on this input; the log has the reason."),
    NotOffered("Shared memory is not offered here; send the tensors in the request."),
    Busy("digit-cnn has 2048 rows waiting, the limit is 2048; try again"),
)
_ERRORS = {told.status: json.loads(told.body) for told in (refusal(error, "/v2", "") for error in _SHOWN)}
_PIXELS = [255 if 4 <= row < 24 and 13 <= column < 16 else 0 for row in range(28) for column in range(28)]
"""A 1, so that the answer shown carries no warning."""
_PROBABILITIES = [0.01, 0.91, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]
_INPUT = {"name": "pixels", "shape": [1, 28, 28], "datatype": "UINT8"}
_REQUESTS = {
    "json": {"id": "7", "inputs": [{**_INPUT, "data": _PIXELS}]},
    "best_two": {
        "inputs": [{**_INPUT, "data": _PIXELS}],
        "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
    },
}
_OUTPUT = {"name": "probabilities", "datatype": "FP32", "shape": [1, 10], "data": _PROBABILITIES}
_OUTLIER = {"name": "outlier", "datatype": "FP32", "shape": [1], "data": [0.001]}
_BEST = {"name": "probabilities", "datatype": "BYTES", "shape": [1, 2], "data": ["0.910000:1:1", "0.010000:0:0"]}
_FROM = {"model_name": "digit-cnn", "model_version": "4"}
_RESPONSES = {"json": {**_FROM, "id": "7", "outputs": [_OUTPUT, _OUTLIER]}, "best_two": {**_FROM, "outputs": [_BEST]}}
_DESCRIPTION = (
    "The tensors are the graph's own, see the model's metadata. Binary tensors follow the JSON in their order, little-"
    "endian; the header then tells the length of the JSON. A length of 0 stands for a body that is nothing but the "
    "bytes of one row of the one input. Bodies may be packed with gzip or deflate; so are answers, if asked for. "
    "Tensors are never changed or refused for their content: where a row is unlike the training data or implausible, "
    "the response parameter `warnings` says so."
)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route of `/v2` for these error statuses."""
    schema = {"$ref": _REF.format(model="OpenInferenceError")}
    return {
        status: {
            "description": _MEANING[status],
            "content": {"application/json": {"schema": schema, "example": _ERRORS[status]}},
        }
        for status in statuses
    }


def complete(document: dict[str, Any], headers: dict[str, str]) -> None:
    """Add the infer operations to the OpenAPI; `headers` are those that every prediction's answer has."""
    document["components"]["schemas"].update(_components())
    document["paths"].update(_paths(headers))
    for path, operations in document["paths"].items():
        for operation in operations.values() if is_open_inference(path) else ():
            operation["responses"].pop("422", None)  # FastAPI's own: such a request is a 400 here


def _components() -> dict[str, Any]:
    classes: list[type[BaseModel]] = [schemas.InferRequest, schemas.InferResponse, schemas.OpenInferenceError]
    _, document = models_json_schema([(each, "validation") for each in classes], ref_template=_REF)
    definitions: dict[str, Any] = document["$defs"]
    return definitions


def _paths(headers: dict[str, str]) -> dict[str, Any]:
    return {
        "/v2/models/{name}/infer": {"post": _infer(headers, "infer", ["name"])},
        "/v2/models/{name}/versions/{version}/infer": {
            "post": _infer(headers, "infer_by_version", ["name", "version"])
        },
    }


def _infer(headers: dict[str, str], operation: str, parameters: list[str]) -> dict[str, Any]:
    length = {
        "schema": {"type": "string", "pattern": "^[0-9]{1,12}$"},
        "description": "bytes of JSON at the body's beginning",
    }
    length_header = LENGTH_HEADER.decode().title()
    shown = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {
        "tags": ["open inference"],
        "summary": "Run rows of tensors" + (" through one version" if "version" in parameters else ""),
        "description": _DESCRIPTION,
        "operationId": operation,
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters),
            {"name": length_header, "in": "header", "required": False, **length},
        ],
        "requestBody": {"required": True, "content": _content("InferRequest", _REQUESTS)},
        "responses": {
            "200": {
                "description": "The outputs",
                "headers": {**shown, length_header: length},
                "content": _content("InferResponse", _RESPONSES),
            },
            **{str(code): each for code, each in error_responses(400, 404, 413, 415, 500, 501, 503).items()},
        },
    }


def _content(model: str, examples: dict[str, Any]) -> dict[str, Any]:
    return {
        "application/json": {
            "schema": {"$ref": _REF.format(model=model)},
            "examples": {name: {"value": value} for name, value in examples.items()},
        },
        OCTETS.decode(): {"schema": {"type": "string", "format": "binary"}},
    }
