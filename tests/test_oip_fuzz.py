"""A hundred thousand spoilt infer requests, byte by byte and field by field: only our own errors come out."""

import json
import random
from copy import deepcopy

import numpy as np
import onnxruntime
import pytest

from service.errors import ServiceError, attempt
from service.oip import compression, request
from tests.server import ROOT, shipped
from tests.service.oip import golden, infer
from tests.service.test_oip_contract import CONTRACTS, DIGIT

pytestmark = pytest.mark.slow

COUNT = 100_000
STRANGE = [None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 1e308, 0.5, "", "x", "BYTES", "FP16", "\ud800", "\0"]
STRANGE += [[], {}, [[]], [0], [-1], [1, 28, 28], [2**40, 2**40], ["a"], {"binary_data_size": 784}]
STRANGE += [{"binary_data_size": -1}, {"classification": 3}, {"shared_memory_region": "x"}]
PIECES = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\0", b"\xff", b"NaN", b"1e999", b"null", b"-", b'"data"']


def one_row(name):
    """The tensors of one short row that a model takes."""
    if name == DIGIT:
        return {"pixels": np.zeros((1, 28, 28), np.uint8)}
    return {field: array[:1, :24] if array.ndim > 1 else array[:1] for field, array in golden(name)[0].items()}


def seeds():
    """Good requests of every model, small, in both forms: JSON and what follows it."""
    found = []
    for name in CONTRACTS:
        inputs = one_row(name)
        for binary in (True, False):
            asked = infer(inputs, binary=binary, id="a", parameters={"timeout": 5})
            length = int(asked["headers"].get("Inference-Header-Content-Length", len(asked["content"])))
            found.append((name, asked["content"][:length], asked["content"][length:]))
    return found


def spoil_bytes(draw, head, tail):
    """Some bytes changed, cut out, doubled or put in."""
    body = bytearray(head + tail)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(body) + 1)
        match draw.randrange(4):
            case 0:
                body[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                del body[at : at + draw.randint(1, 40)]
            case 2:
                body[at:at] = body[at : at + 40]
            case 3:
                body[at:at] = draw.choice(PIECES)
    return bytes(body), len(head) if draw.random() < 0.7 else draw.randrange(len(body) + 2)


def spoil_fields(draw, head, tail):
    """Some field of the JSON, at any depth, with a strange value, without its key, or with another's."""
    content = json.loads(head)
    for _ in range(draw.randint(1, 3)):
        place = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(place[key], dict | list) and draw.random() < 0.6:
                place = place[key]
                continue
            if isinstance(place, dict) and draw.random() < 0.3:
                del place[key]
            else:
                place[key] = deepcopy(draw.choice(STRANGE))
            break
    spoilt = json.dumps(content).encode()
    return spoilt + tail, len(spoilt)


def test_of_spoilt_requests_only_our_own_errors_come_out():
    """Each is taken or refused with a sentence; what is taken has the graph's shapes, which answers with numbers."""
    draw, taken, good = random.Random(7), 0, seeds()
    graphs = {name: onnxruntime.InferenceSession(model_of(name)) for name in CONTRACTS}
    for turn in range(COUNT):
        name, head, tail = draw.choice(good)
        body, length = (spoil_bytes if turn % 2 else spoil_fields)(draw, head, tail)
        found = attempt(check, name, body, length)
        if isinstance(found, ServiceError):
            assert found.status in {400, 422, 501}
            assert found.detail
            continue
        taken += 1
        for part in found.parts:
            for spec in CONTRACTS[name].manifest.inputs:
                array = part.inputs[spec.name]
                assert array.dtype == spec.dtype
                assert array.ndim == len(spec.shape)
                assert len(array) == part.rows
            if taken % 20 == 0:
                for output in graphs[name].run(None, part.inputs):
                    assert np.isfinite(output).all()
    assert 0.01 < taken / COUNT < 0.9


def model_of(name):
    return ROOT / "models" / "zoo" / name / str(shipped(name)) / "model.onnx"


def check(name, body, length):
    end = request.split(body, str(length).encode())
    return CONTRACTS[name].check(request.read(body[:end]), body, end, lambda _: 64)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_of_spoilt_packed_bodies_only_our_own_errors_come_out(encoding):
    """And never more than the limit."""
    draw = random.Random(8)
    packed = compression.pack(bytes(range(256)) * 40, encoding)
    for _ in range(COUNT // 10):
        body, _ = spoil_bytes(draw, packed, b"")
        found = attempt(compression.unpack, body, encoding, 5_000 if draw.random() < 0.2 else 2**20)
        if isinstance(found, ServiceError):
            assert found.status in {400, 413}
        else:
            assert len(found) <= 2**20
