"""One request on the short way, and the desk where those read in one turn of the loop are decoded together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.answers import explaining_headers
from service.batch import Answer, Entrance, Part
from service.engine import Runner
from service.errors import InternalError, ServiceError
from service.oip.errors import refusal
from service.warnings import Warned, found_in
from service.warnings import headers as warning_headers
from service.wire import JSON, Header, dumps, id_of

log = logging.getLogger(__name__)

MOST_SHORT_BYTES = 65_536
"""Larger bodies of one row take long enough to read and decode that the way does not matter."""


class Body(NamedTuple):
    """What a response holds: JSON, if nothing else is said; `warned` are the warnings in it, to be counted."""

    content: bytes
    content_type: bytes = JSON
    headers: Sequence[Header] = ()
    warned: Sequence[Warned] = ()


def body_of(content: dict[str, Any]) -> bytes | Body:
    """The JSON body of an answer, with a header where it carries warnings."""
    warned = found_in(content)
    return Body(dumps(content), headers=warning_headers(warned), warned=warned) if warned else dumps(content)


class Ready(NamedTuple):
    """A decoded request: the queue it goes to, its rows, and how its answer becomes a body.

    `timeout_s` is the request's own deadline, if it has one that is shorter than its endpoint's; `missed` is told why
    there was no answer (None: the client had left) and after how many seconds.
    """

    batcher: Entrance
    engine: Runner
    part: Part
    render: Callable[[Answer], bytes | Body]
    timeout_s: float | None = None
    missed: Callable[[ServiceError | None, float], None] | None = None


class Request(NamedTuple):
    """A POST without a query, wholly read."""

    content_type: bytes
    body: bytes
    headers: Sequence[Header] = ()
    request_id: bytes = b""


Decoded = Ready | ServiceError | None


class Direct(Protocol):
    """An endpoint with a short way."""

    timeout_s: float
    most_short_bytes: int
    """Larger bodies take the long way."""

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        """Each request decoded, or what is wrong with it, or None where it needs the event loop."""


class Head(NamedTuple):
    """The head of a request that takes the short way."""

    endpoint: Direct
    path: str
    headers: list[Header]
    content_type: bytes
    given_id: bytes | None
    length: int
    keep_alive: bool


class Line(Protocol):
    """The connection a request came by."""

    def default_headers(self) -> list[Header]:
        """What every response has."""

    def finish(self, exchange: Exchange, status: int, response: bytes) -> None:
        """Write an exchange's response, and let the connection go on."""

    def count_warnings(self, warned: Sequence[Warned]) -> None:
        """Count the warnings of an answer that was sent."""

    def take_the_long_way(self, exchange: Exchange) -> None:
        """Give a request that was read already to the application."""


class Exchange:
    """One request and its response. uvicorn sees its request cycle in it, the batcher the future of its answer."""

    __slots__ = (
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "line",
        "message_event",
        "missed",
        "render",
        "request_id",
        "response_complete",
        "started",
    )

    def __init__(self, line: Line, head: Head, body: bytes = b"") -> None:
        self.started = perf_counter()
        self.line = line
        self.head = head
        self.body = body
        self.request_id = id_of(head.given_id)
        self.keep_alive = head.keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS
        self.render: Callable[[Answer], bytes | Body] | None = None
        self.missed: Callable[[ServiceError | None, float], None] | None = None

    # ------------------------------------------------------------------ what the batcher calls

    def done(self) -> bool:
        return self.response_complete

    def gone(self) -> bool:
        return self.disconnected

    def cancel(self) -> None:
        """The batcher gave up the place of a client who had left: nobody is to be told but who counts."""
        if self.missed is not None:
            self.missed(None, perf_counter() - self.started)

    def set_result(self, answer: Answer) -> None:
        if self.disconnected:
            return
        try:
            body = self.render(answer) if self.render is not None else b""
        except Exception as error:
            self.fail(error)
            return
        headers = explaining_headers([answer])
        if isinstance(body, Body):
            self._send(200, body.content_type, body.content, [*headers, *body.headers])
            if body.warned:
                self.line.count_warnings(body.warned)
        else:
            self._send(200, JSON, body, headers)

    def set_exception(self, error: ServiceError) -> None:
        if self.disconnected:
            return
        if self.missed is not None:
            self.missed(error, perf_counter() - self.started)
        told = refusal(error, self.head.path, self.request_id.decode())
        self._send(told.status, told.content_type, told.body, told.headers)

    # ------------------------------------------------------------------ what the desk calls

    def fail(self, error: Exception) -> None:
        """Tell the client what is wrong; what was not foreseen is for the log alone."""
        if not isinstance(error, ServiceError):
            log.error("request %s failed", self.request_id.decode(), exc_info=error)
            error = InternalError()
        self.set_exception(error)

    def go_on(self, decoded: Decoded) -> None:
        """Queue the request, refuse it, or let it take the long way."""
        if decoded is None:
            self.line.take_the_long_way(self)
            return
        if isinstance(decoded, ServiceError):
            self.set_exception(decoded)
            return
        batcher, engine, part, self.render, timeout_s, self.missed = decoded
        try:
            batcher.admit(engine, part, self, timeout_s=timeout_s or self.head.endpoint.timeout_s, gone=self.gone)
        except ServiceError as error:
            self.set_exception(error)

    # ------------------------------------------------------------------ inside

    def _send(self, status: int, content_type: bytes, body: bytes, headers: list[Header]) -> None:
        self.response_complete = True
        if not self.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        headers = [*self.line.default_headers(), *headers]
        self.line.finish(self, status, response(status, content_type, body, headers, self.request_id))


def response(status: int, content_type: bytes, body: bytes, headers: list[Header], request_id: bytes) -> bytes:
    """An HTTP/1.1 response as it goes over the wire."""
    lines = [STATUS_LINE[status]]
    for name, value in headers:
        lines += (name, b": ", value, b"\r\n")
    lines.append(
        b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (content_type, len(body), request_id)
    )
    lines.append(body)
    return b"".join(lines)


class Desk:
    """Gathers the requests read in one turn of the loop: they are decoded faster one behind the other."""

    def __init__(self) -> None:
        self._waiting: dict[Direct, list[Exchange]] = {}
        self._loop = asyncio.get_running_loop()

    def take(self, exchange: Exchange) -> None:
        """A request whose body has been read."""
        if not self._waiting:
            self._loop.call_soon(self._serve)
        self._waiting.setdefault(exchange.head.endpoint, []).append(exchange)

    def _serve(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for endpoint, exchanges in waiting.items():
            there = [exchange for exchange in exchanges if not exchange.disconnected]
            try:
                decoded = endpoint.at_once(
                    [Request(each.head.content_type, each.body, each.head.headers, each.request_id) for each in there]
                )
            except Exception as error:
                for exchange in there:
                    exchange.fail(error)
                continue
            for exchange, found in zip(there, decoded, strict=True):
                try:
                    exchange.go_on(found)
                except Exception as error:  # the others that were read in the same turn must not wait for ever
                    exchange.fail(error)


class _NoEvent:
    """In the place of a cycle's event: on the short way nothing waits for the request's body or its end."""

    def set(self) -> None:
        """Nothing to wake."""


_NOBODY_WAITS = _NoEvent()
