"""Sends the requests of the corpus and gives each answer as text, as it came."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import grpc
import numpy as np
from google.protobuf import json_format

from service.oip.rpc import messages
from tests.corpus.calls import Call, Http, Rpc, Service
from tests.server import Server, wait_until
from tests.service.rpc import METHODS, address

LENGTH = "inference-header-content-length"
TEXTS = ("json", "text/", "xml", "javascript")
TIMEOUT_S = 10


@dataclass
class Answer:
    """One answer: its first line, its headers in order, its body as text, and float tensors behind it."""

    status: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""
    tensors: list[list[float]] = field(default_factory=list)


class Wire:
    """Connections to the services of one run, kept open between requests; a context manager."""

    def __init__(self, servers: Mapping[Service, Server], known: Mapping[str, str]) -> None:
        self.known = dict(known)
        self.hidden: Mapping[str, str] = {}
        self.addresses = {name: urlsplit(server.url).netloc for name, server in servers.items()}
        self._sockets: dict[Service, socket.socket] = {}
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.primary_user_agent", "corpus")]
        self._channels = {name: grpc.insecure_channel(address(server), options) for name, server in servers.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets.values():
            each.close()
        for channel in self._channels.values():
            channel.close()

    def ask(self, call: Call) -> list[Answer]:
        """The answers to a request; their own ids are kept where it says so."""
        if isinstance(call, Rpc):
            return [self._rpc(call)]
        if call.method == "RAW":
            with self._connect(call.service) as line:
                line.sendall(self._filled(call.raw.decode("latin-1"), call.service).encode("latin-1"))
                return self._answers(line, call.answers)
        answer = self._http(call)
        if call.until:
            answer = wait_until(lambda: call.until in (last := self._http(call)).body and last, TIMEOUT_S)
        if call.keep is not None:
            self.known[call.keep] = json.loads(answer.body)["id"]
        return [answer]

    @staticmethod
    def _answers(line: socket.socket, count: int) -> list[Answer]:
        """So many answers of one connection, and whether it was closed before the last of them."""
        answers: list[Answer] = []
        with line.makefile("rb") as stream:
            while len(answers) < count:
                try:
                    answers.append(_read(_Unclosed(stream), "GET"))
                except (http.client.HTTPException, OSError) as error:
                    return [*answers, Answer(type(error).__name__)]
        return answers

    def _connect(self, service: Service) -> socket.socket:
        host, port = self.addresses[service].rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=TIMEOUT_S)

    def _filled(self, text: str, service: Service) -> str:
        for name, value in {**self.known, "address": self.addresses[service]}.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _http(self, call: Http) -> Answer:
        line = self._sockets.pop(call.service, None) or self._connect(call.service)
        try:
            line.sendall(self._request(call))
            answer = _read(line, call.method)
        except ConnectionError:  # the service has closed an idle connection
            line.close()
            line = self._connect(call.service)
            line.sendall(self._request(call))
            answer = _read(line, call.method)
        if ("connection", "close") in answer.headers:
            line.close()
        else:
            self._sockets[call.service] = line
        return answer

    def _request(self, call: Http) -> bytes:
        headers = {"Host": "{address}", **call.headers}
        body = call.body
        if call.chunked:
            headers["Transfer-Encoding"] = "chunked"
            half = len(body) // 2
            pieces = [piece for piece in (body[:half], body[half:]) if piece]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body or call.method in {"POST", "PUT"}:
            headers["Content-Length"] = str(len(body))
        lines = [f"{call.method} {call.path} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
        head = "\r\n".join([*lines, "", ""])
        return self._filled(head, call.service).encode("latin-1") + body

    def _rpc(self, call: Rpc) -> Answer:
        path = call.method if call.method.startswith("/") else f"/{messages.INFERENCE}/{call.method}"
        metadata = [(name, self._filled(value, call.service)) for name, value in call.metadata.items()]
        channel, streams = self._channels[call.service], call.method == "ModelStreamInfer"
        asked, told = METHODS.get(path, (None, None))
        sent = [each if isinstance(each, bytes) else json_format.ParseDict(each, asked()).SerializeToString()
                for each in call.messages]  # fmt: skip
        try:
            if streams:
                rpc = channel.stream_stream(path)(iter(sent), metadata=metadata, timeout=TIMEOUT_S)
                received = list(rpc)
            else:
                response, rpc = channel.unary_unary(path).with_call(sent[0], metadata=metadata, timeout=TIMEOUT_S)
                received = [response]
        except grpc.RpcError as error:
            return Answer(error.code().name, _metadata(error.trailing_metadata()), error.details())
        answer = Answer("OK", _metadata(rpc.trailing_metadata()))
        found = [
            json_format.MessageToDict(told.FromString(each), preserving_proto_field_name=True) for each in received
        ]
        for each in found:
            answer.tensors += _without_tensors(each.get("infer_response", each))
        answer.body = json.dumps(found if streams else found[0], indent=0, sort_keys=True, ensure_ascii=False)
        return answer


class _Unclosed:
    """A connection of several answers, as one stream that no answer closes."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream

    def makefile(self, _: str) -> Any:
        stream = self._stream

        class View(io.BufferedIOBase):
            read, readline, readinto = stream.read, stream.readline, stream.readinto

        return View()


def _read(line: Any, method: str) -> Answer:
    response = http.client.HTTPResponse(line, method=method)
    try:
        response.begin()
        body = response.read()
    finally:
        response.close()
    headers = [(name.lower(), value) for name, value in response.getheaders()]
    named = dict(headers)
    if body:
        headers = [(name, _length(value, body) if name == "content-length" else value) for name, value in headers]
    answer = Answer(f"{response.status} {response.reason}", headers)
    length = int(named.get(LENGTH, len(body)))
    if named.get("content-encoding"):
        answer.body = f"<{named['content-encoding']}>"
    elif any(kind in named.get("content-type", "") for kind in TEXTS) or length < len(body):
        answer.body = body[:length].decode()
        answer.tensors = _behind(answer.body, body[length:])
    elif body:
        answer.body = "base64:" + base64.b64encode(body).decode()
    return answer


def _length(told: str, body: bytes) -> str:
    """A length that is right needs no comparison of its own: the body is compared."""
    return "<right>" if told == str(len(body)) else told


def _behind(head: str, tail: bytes) -> list[list[float]]:
    """The binary outputs behind the JSON of an answer."""
    tensors = []
    for output in json.loads(head)["outputs"] if tail else []:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        tensors.append(np.frombuffer(tail[:size], "<f4").tolist())
        tail = tail[size:]
    assert not tail, "bytes behind the last output"
    return tensors


def _without_tensors(message: dict[str, Any]) -> list[list[float]]:
    """Take the raw outputs out of a message."""
    raws = message.pop("raw_output_contents", [])
    return [np.frombuffer(base64.b64decode(each), "<f4").tolist() for each in raws]


def _metadata(found: Any) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in found or ()]
