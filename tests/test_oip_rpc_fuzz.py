"""A hundred thousand spoilt messages, byte by byte and field by field: only our own errors come out."""

import random

import pytest
from google.protobuf.message import DecodeError

from service.errors import ServiceError, attempt
from service.oip.rpc import conversion
from tests.service.rpc import FIELDS, Request, parameter, request
from tests.service.test_oip_contract import CONTRACTS
from tests.test_oip_fuzz import COUNT, one_row, spoil_bytes

pytestmark = pytest.mark.slow

TYPES = ["", "BOOL", "INT8", "UINT8", "INT64", "UINT64", "FP16", "BF16", "FP32", "FP64", "BYTES", "\0"]
NAMES = ["", "pixels", "probabilities", "x" * 300, "timeout", "priority", "binary_data_output", "binary_data",
         "binary_data_size", "classification", "shared_memory_region", "mean"]  # fmt: skip
NUMBERS = [-(2**63), -1, 0, 1, 2, 24, 28, 2**31, 2**62, 2**63 - 1]


def seeds():
    """Good requests of every model, small, raw and typed."""
    found = []
    for name in CONTRACTS:
        inputs = one_row(name)
        found += [(name, request(name, inputs, raw=raw, id="a")) for raw in (True, False)]
    return found


def spoil_fields(draw, message):
    """Some field changed for one that a client might send by mistake or in malice."""
    found = Request()
    found.CopyFrom(message)
    tensor = draw.choice(found.inputs)
    match draw.randrange(8):
        case 0:
            tensor.datatype = draw.choice(TYPES)
        case 1:
            tensor.name = draw.choice(NAMES)
        case 2:
            tensor.shape[draw.randrange(len(tensor.shape))] = draw.choice(NUMBERS)
        case 3:
            tensor.shape.append(draw.choice(NUMBERS))
        case 4:
            place = draw.choice([found, tensor, found.outputs.add(name=draw.choice(NAMES))])
            parameter(place, draw.choice(NAMES), draw.choice([*NUMBERS, True, False, "", "x"]))
        case 5:
            getattr(tensor.contents, draw.choice(list(FIELDS.values()))).append(draw.choice([0, 1, 255, 256]))
        case 6:
            found.raw_input_contents.append(bytes(draw.choice([0, 1, 784])))
        case 7:
            tensor.contents.fp32_contents.append(draw.choice([float("nan"), float("inf"), 1e38]))
    return found


def test_of_spoilt_messages_only_our_own_errors_come_out():
    """Each is taken or refused with a sentence; what is taken has the graph's shapes."""
    draw, taken, unread, good = random.Random(9), 0, 0, seeds()
    for turn in range(COUNT):
        name, message = draw.choice(good)
        if turn % 2:
            body, _ = spoil_bytes(draw, message.SerializeToString(), b"")
            try:
                message = attempt(conversion.parsed, body)
            except DecodeError:
                unread += 1
                continue
        else:
            message = spoil_fields(draw, message)
        found = message if isinstance(message, ServiceError) else attempt(check, name, message)
        if isinstance(found, ServiceError):
            assert found.status in {400, 422, 501}
            assert found.detail
            continue
        taken += 1
        for part in found.parts:
            for spec in CONTRACTS[name].manifest.inputs:
                assert part.inputs[spec.name].dtype == spec.dtype
                assert part.inputs[spec.name].ndim == len(spec.shape)
                assert len(part.inputs[spec.name]) == part.rows
    assert 0.01 < taken / COUNT < 0.9
    assert 0.01 < unread / COUNT < 0.5


def check(name, message):
    asked, raw = conversion.asked(message)
    return CONTRACTS[name].check(asked, raw, 0, lambda _: 64)
