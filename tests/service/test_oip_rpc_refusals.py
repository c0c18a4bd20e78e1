"""What the Open Inference Protocol over gRPC refuses: with Triton's status, a sentence, and without being held up."""

import gzip
import time
import zlib

import grpc
import numpy as np
import pytest

from tests.server import Server
from tests.service.oip import golden
from tests.service.rpc import Client, Request, arrays, parameter, refused, request

DIGIT, MOST_BYTES = "digit-cnn", 2_000_000


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rpc")
    with Server(folder, grpc_port=0, max_body_bytes=MOST_BYTES) as server, Client(server) as client:
        yield client


def broken(**changes):
    """A request for one picture, with what is to be wrong with it."""
    found = request(DIGIT, {"pixels": np.zeros((1, 28, 28), np.uint8)}, raw=changes.pop("raw", True))
    for name, value in changes.items():
        setattr(found.inputs[0], name, value)
    return found


def shaped(*shape):
    found = broken()
    found.inputs[0].ClearField("shape")
    found.inputs[0].shape.extend(shape)
    return found


def twice():
    found = broken()
    found.raw_input_contents.append(b"")
    return found


def both():
    found = broken(raw=False)
    found.raw_input_contents.append(b"\0" * 784)
    return found


def large():
    found = broken(raw=False)
    found.inputs[0].contents.uint_contents[5] = 256
    return found


def elsewhere():
    found = broken(raw=False)
    found.inputs[0].contents.ClearField("uint_contents")
    found.inputs[0].contents.int_contents.extend([0] * 784)
    return found


def wanting(name):
    found = broken()
    found.outputs.add(name=name)
    return found


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (broken(name="other"), "INVALID_ARGUMENT", "has no input 'other'"),
        (broken(datatype="FP32"), "INVALID_ARGUMENT", "takes UINT8, not FP32"),
        (broken(datatype="NONE", raw=False), "INVALID_ARGUMENT", "takes UINT8, not NONE"),
        (broken(datatype="FP16", raw=False), "INVALID_ARGUMENT", "send it by raw_input_contents"),
        (shaped(1, 28, 27), "INVALID_ARGUMENT", "takes the shape [batch, 28, 28], got [1, 28, 27]"),
        (shaped(-1, 28, 28), "INVALID_ARGUMENT", "needs its `shape`"),
        (shaped(2, 28, 28), "INVALID_ARGUMENT", "takes 1568 bytes, its binary_data_size is 784"),
        (twice(), "INVALID_ARGUMENT", "There are 1 inputs and 2 raw_input_contents"),
        (both(), "INVALID_ARGUMENT", "has contents beside the raw_input_contents"),
        (large(), "INVALID_ARGUMENT", "takes values from 0 to 255"),
        (elsewhere(), "INVALID_ARGUMENT", "has its values in int_contents, not in uint_contents"),
        (wanting("other"), "INVALID_ARGUMENT", "has no output 'other'"),
        (Request(model_name=DIGIT), "INVALID_ARGUMENT", "`inputs` must be a list of one or more"),
        (Request(model_name="none"), "NOT_FOUND", "no model 'none'"),
        (Request(model_name="n\u00f6" * 9_000), "NOT_FOUND", "There is no model"),
        (parameter(broken(), "timeout", "soon"), "INVALID_ARGUMENT", "timeout must be a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_a_reason(client, asked, status, words):
    """With Triton's status, and the sentence that HTTP gives."""
    code, said = refused(client.infer, asked)
    assert code == status
    assert words in said


def test_every_datatype_has_its_place_in_typed_contents(client):
    """What the model does not take is refused by the name of its type, read from its own field."""
    fields = {"BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT16": "uint",
              "UINT32": "uint", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}  # fmt: skip
    for datatype, field in fields.items():
        asked = broken(datatype=datatype)
        asked.ClearField("raw_input_contents")
        values = [{"BOOL": True, "BYTES": b"7"}.get(datatype, 1)] * 784
        getattr(asked.inputs[0].contents, f"{field}_contents").extend(values)
        assert refused(client.infer, asked) == (
            "INVALID_ARGUMENT", f"input 'pixels' takes UINT8, not {datatype}.",
        )  # fmt: skip


def test_shared_memory_and_other_methods_are_not_offered(client):
    """UNIMPLEMENTED, in words."""
    asked = broken()
    asked.ClearField("raw_input_contents")
    parameter(asked.inputs[0], "shared_memory_region", "mine")
    code, said = refused(client.infer, asked)
    assert (code, "not offered here" in said) == ("UNIMPLEMENTED", True)
    for name in ("RepositoryModelLoad", "SystemSharedMemoryStatus", "TraceSetting", "Whatever"):
        code, said = refused(client.bytes, b"", f"/inference.GRPCInferenceService/{name}")
        assert (code, said.startswith(f"{name} is not offered here")) == ("UNIMPLEMENTED", True)
    assert refused(client.bytes, b"", "/other.Service/Method")[0] == "UNIMPLEMENTED"


def test_packed_messages_are_taken_and_bombs_are_not(client):
    """gzip and deflate; a message is bounded as it comes and after it is unpacked."""
    many = {"pixels": np.resize(golden(DIGIT)[0]["pixels"], (256, 28, 28))}
    for packing in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        found = arrays(client.infer(request(DIGIT, many), compression=packing)[0])
        assert found["probabilities"].shape == (256, 10)
    too_large = request(DIGIT, {"pixels": np.zeros((1, MOST_BYTES), np.uint8)})
    code, said = refused(client.infer, too_large)
    assert (code, "larger than max" in said) == ("RESOURCE_EXHAUSTED", True)
    bomb = request(DIGIT, {"pixels": np.zeros((1, 200_000_000), np.uint8)})
    for packing in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        code, said = refused(client.infer, bomb, compression=packing)
        assert (code, "larger than the limit of 2000000 bytes when unpacked" in said) == ("RESOURCE_EXHAUSTED", True)
    for garbage in (gzip.compress(b"\xff")[:-3], zlib.compress(b"1234")[:-2], b"\xff\xff", b"\x0a\xff"):
        assert refused(client.bytes, garbage)[0] == "INVALID_ARGUMENT", garbage
    assert len(arrays(client.infer(request(DIGIT, golden(DIGIT)[0]))[0])["probabilities"]) == 3


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (b"\x2a\x00", "64 inputs at most, here are 950000"),
        (b"\x32\x00", "64 outputs at most, here are 950000"),
        (b"\x3a\x00", "0 inputs and 950000 raw_input_contents"),
        (b"\x2a\x02\x18\x01", "64 inputs at most, here are 475000"),
    ],
)
def test_a_message_of_a_million_small_parts_is_refused_soon(client, entry, words):
    """It would cost a hundred times its bytes."""
    body = Request(model_name=DIGIT).SerializeToString() + entry * (1_900_000 // len(entry))
    began = time.perf_counter()
    code, said = refused(client.bytes, body)
    assert (code, words in said) == ("INVALID_ARGUMENT", True), said
    assert time.perf_counter() - began < 3


def test_long_shapes_and_many_parameters_are_refused(client):
    """No tensor has them."""
    assert "16 sizes at most" in refused(client.infer, shaped(*[1] * 17))[1]
    many = broken()
    for number in range(65):
        parameter(many.inputs[0], str(number), number)
    assert "64 parameters at most" in refused(client.infer, many)[1]
