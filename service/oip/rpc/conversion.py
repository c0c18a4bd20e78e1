"""Infer messages to what the JSON of a request would say, and answers to messages; tensors typed or raw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.manifest import Manifest
from service.batch import Answer
from service.oip import answer, request
from service.oip.contract import Query
from service.oip.errors import invalid
from service.oip.request import Asked
from service.oip.rpc.messages import ModelInferRequest, ModelInferResponse
from service.warnings import PARAMETER, as_parameter

_FIELDS = {"BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
           "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
           "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
           "BYTES": "bytes_contents"}  # fmt: skip
"""Where the values of a datatype lie; FP16 and BF16 have no place there."""
_MOST_TENSORS, _MOST_PARAMETERS, _MOST_AXES = 64, 64, 16
_SIZE, _BINARY_OUT = "binary_data_size", "binary_data_output"


def parsed(body: bytes) -> Any:
    """The ModelInferRequest of these bytes, if no list of it is longer than makes sense: each entry costs a hundred
    times its bytes. Raises InvalidInput, google.protobuf's DecodeError.
    """
    message = ModelInferRequest.FromString(body)
    for what, entries in (("inputs", message.inputs), ("outputs", message.outputs)):
        if len(entries) > _MOST_TENSORS:
            raise invalid(f"A request has {_MOST_TENSORS} {what} at most, here are {len(entries)}.")
    for holder in (message, *message.inputs, *message.outputs):
        if len(holder.parameters) > _MOST_PARAMETERS:
            raise invalid(f"There are {_MOST_PARAMETERS} parameters at most, here are {len(holder.parameters)}.")
    for tensor in message.inputs:
        if len(tensor.shape) > _MOST_AXES:
            raise invalid(f"A shape has {_MOST_AXES} sizes at most, here are {len(tensor.shape)}.")
    return message


def asked(message: Any) -> tuple[Asked, bytes]:
    """What a ModelInferRequest asks for, and the bytes of its raw tensors, one behind the other.

    Answers are raw, as Triton's are, unless `binary_data_output` or all the outputs' `binary_data` are false.
    Raises InvalidInput, NotOffered.
    """
    raws: Sequence[bytes] = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise invalid(
            f"There are {len(message.inputs)} inputs and {len(raws)} raw_input_contents; "
            "send one for each input, in the order of the inputs, or none at all."
        )
    content: dict[str, Any] = {
        "inputs": [_input(each, raws[index] if raws else None) for index, each in enumerate(message.inputs)],
        "outputs": [{"name": each.name, "parameters": _parameters(each.parameters)} for each in message.outputs],
        "parameters": {_BINARY_OUT: True, **_parameters(message.parameters)},
        "id": message.id or None,
    }
    return request.asked_for(content), raws[0] if len(raws) == 1 else b"".join(raws)


def response(manifest: Manifest, query: Query, answers: Sequence[Answer], codes: Sequence[Sequence[str]] = ()) -> Any:
    """The ModelInferResponse to a request whose parts have these answers; all outputs raw, or all typed.

    `codes` are the warnings of its rows.
    """
    raw = any(output.wanted.binary for output in query.outputs)
    outputs = [output._replace(wanted=output.wanted._replace(binary=raw)) for output in query.outputs]
    found = ModelInferResponse(model_name=manifest.name, model_version=str(answers[0].version), id=query.asked.id or "")
    if codes:
        found.parameters[PARAMETER].string_param = as_parameter(codes)
    for tensor, data in answer.tensors(manifest, query._replace(outputs=outputs), answers):
        output = found.outputs.add(**tensor)
        if isinstance(data, bytes):
            found.raw_output_contents.append(data)
        else:
            values = [each.encode() for each in data] if isinstance(data, list) else data.tolist()
            getattr(output.contents, _FIELDS[tensor["datatype"]]).extend(values)
    return found


def _input(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    """An input as JSON announces it: with the size of its bytes, or with its values."""
    parameters = _parameters(tensor.parameters)
    parameters.pop(_SIZE, None)  # here the message itself says it
    found: dict[str, Any] = {
        "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": parameters,
    }  # fmt: skip
    given = [field.name for field, _ in tensor.contents.ListFields()]
    place = f"input {tensor.name[:256]!r}"
    if raw is not None:
        if given:
            raise invalid(f"{place} has contents beside the raw_input_contents; send one of them.")
        parameters[_SIZE] = len(raw)
        return found
    if tensor.datatype in {"FP16", "BF16"}:
        raise invalid(f"{place} is {tensor.datatype}, which has no contents; send it by raw_input_contents.")
    field = _FIELDS.get(tensor.datatype)
    found["data"] = []
    if field is not None and "shared_memory_region" not in parameters:
        found["data"] = _values(tensor, field, given, place)
    return found


def _values(tensor: Any, field: str, given: list[str], place: str) -> list[Any]:
    """The typed values of an input, as many as its shape says."""
    if given not in ([], [field]):
        raise invalid(f"{place} of datatype {tensor.datatype} has its values in {', '.join(given)}, not in {field}.")
    values = getattr(tensor.contents, field)
    if len(values) != (count := math.prod(tensor.shape)):
        raise invalid(
            f"{place} of shape {list(tensor.shape)} takes {count} values, {field} has {len(values)}; "
            "send them there, or all inputs by raw_input_contents."
        )
    return list(values)


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON has them; one without a value says nothing."""
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in found.items())
    return {name: getattr(value, choice) for name, value, choice in chosen if choice is not None}
