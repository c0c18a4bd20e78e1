"""What a request of the corpus is, and short ways to write one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Service = Literal["open", "keys"]
View = Literal["all", "page", "names"]
"""How much of an answer is recorded: all, a page without its text, or only the names of metrics."""

JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Http:
    """One HTTP request; `{job}` and `{address}` in its path and headers stand for what a run knows.

    `keep` names what the `id` of the answer is called from then on. A request with `until` is repeated until its answer
    holds that text. A `raw` request is sent byte for byte and gets
    `answers` answers.
    """

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    chunked: bool = False
    keep: str | None = None
    view: View = "all"
    raw: bytes = b""
    answers: int = 1
    until: str = ""
    service: Service = "open"


@dataclass(frozen=True)
class Rpc:
    """One gRPC call: messages of these fields, or bytes as they are."""

    name: str
    method: str
    messages: Sequence[Mapping[str, Any] | bytes]
    metadata: Mapping[str, str]
    service: Service = "open"


Call = Http | Rpc


def door(call: Call) -> str:
    """The first part of a request's name: the tests report by it."""
    return call.name.split(" ")[0]


def get(name: str, path: str, **headers: str) -> Http:
    """A GET; an argument `x_canary_key` becomes that header."""
    return Http(name, "GET", path, named(headers))


def post(name: str, path: str, content: Any = None, /, **headers: str) -> Http:
    """A POST of JSON, or of bytes with the headers given."""
    if isinstance(content, bytes):
        return Http(name, "POST", path, named(headers), content)
    body = b"" if content is None else json.dumps(content).encode()
    return Http(name, "POST", path, {**JSON, **named(headers)}, body)


def send(name: str, method: str, path: str, **headers: str) -> Http:
    """A request without a body."""
    return Http(name, method, path, named(headers))


def raw(name: str, data: bytes, answers: int = 1) -> Http:
    """Bytes for a connection of their own."""
    return Http(name, "RAW", "", {}, raw=data, answers=answers)


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers named as Python names them, in the wire's spelling."""
    return {name.replace("_", "-").title(): value for name, value in headers.items()}


def both(call: Http) -> Iterator[Http]:
    """A request on the fast path, and in chunks, which only the application takes."""
    yield replace(call, name=f"fast {call.name}")
    yield replace(call, name=f"asgi {call.name}", chunked=True)


def form(*parts: tuple[str, str | None, str | None, bytes], edge: str = "edge") -> tuple[bytes, str]:
    """A multipart form of (field, file name, media type, content): its body and its media type."""
    lines = b""
    for field, file, kind, content in parts:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{field}"'
        head += f'; filename="{file}"' if file is not None else ""
        head += f"\r\nContent-Type: {kind}" if kind is not None else ""
        lines += head.encode() + b"\r\n\r\n" + content + b"\r\n"
    return lines + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
