"""A plain gRPC client of the Open Inference Protocol, on the service's own messages."""

import re

import grpc
import numpy as np

from service.oip.rpc import messages
from tests.service.oip import NAMES

METHODS = {f"/{service}/{name}": kinds for service in (messages.INFERENCE, messages.HEALTH)
           for name, kinds in messages.methods(service).items()}  # fmt: skip
INFER = f"/{messages.INFERENCE}/ModelInfer"
STREAM = f"/{messages.INFERENCE}/ModelStreamInfer"
Request, Response = METHODS[INFER]
FIELDS = {"uint8": "uint_contents", "int64": "int64_contents", "float32": "fp32_contents"}


def address(server):
    """Where a service listens for gRPC, as it says itself."""
    return re.search(r"gRPC\s+(\S+)", server.log).group(1)


class Client:
    """Calls over one connection; a context manager."""

    def __init__(self, server, key=None, **more):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address(server), options)
        headers = {name.replace("_", "-"): value for name, value in more.items()}
        self.metadata = [*headers.items(), *([("authorization", f"Bearer {key}")] if key else [])]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def method(self, name):
        """The method of that name, on messages."""
        path = name if name.startswith("/") else f"/{messages.INFERENCE}/{name}"
        asked, told = METHODS[path]
        kind = self.channel.stream_stream if path == STREAM else self.channel.unary_unary
        return kind(path, asked.SerializeToString, told.FromString), asked

    def call(self, name, /, **content):
        """The answer to a message of that content."""
        call, kind = self.method(name)
        return call(kind(**content), metadata=self.metadata, timeout=20)

    def infer(self, request, **more):
        """The response and its trailing metadata."""
        response, call = self.method("ModelInfer")[0].with_call(
            request, **{"metadata": self.metadata, "timeout": 20} | more
        )
        return response, dict(call.trailing_metadata())

    def stream(self, requests, **more):
        return self.method("ModelStreamInfer")[0](requests, **{"metadata": self.metadata, "timeout": 20} | more)

    def bytes(self, data, path=INFER, **more):
        """Bytes as they are, whether they are a message or not."""
        return self.channel.unary_unary(path)(data, **{"metadata": self.metadata, "timeout": 20} | more)


def request(model, inputs, *, raw=True, **content):
    """A ModelInferRequest with these arrays."""
    found = Request(model_name=model, **content)
    for name, array in inputs.items():
        tensor = found.inputs.add(name=name, datatype=NAMES[str(array.dtype)], shape=array.shape)
        if raw:
            found.raw_input_contents.append(array.tobytes())
        else:
            getattr(tensor.contents, FIELDS[str(array.dtype)]).extend(array.ravel().tolist())
    return found


def parameter(message, name, value):
    """Set a parameter of a request, an input or an output."""
    choice = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
    setattr(message.parameters[name], choice, value)
    return message


def arrays(response):
    """The arrays of a response: all raw, or all typed."""
    found = {}
    raws = response.raw_output_contents
    assert len(raws) in {0, len(response.outputs)}
    for at, output in enumerate(response.outputs):
        assert output.datatype == "FP32"
        assert bool(output.contents.ListFields()) == (not raws)
        array = np.frombuffer(raws[at], "<f4") if raws else np.array(output.contents.fp32_contents, np.float32)
        found[output.name] = array.reshape(list(output.shape))
    return found


def refused(call, *args, **kwargs):
    """What a call is refused with: its status and its sentence."""
    try:
        call(*args, **kwargs)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError("it was not refused")
