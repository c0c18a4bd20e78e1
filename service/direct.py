"""The short way from a socket to a batch and back: no task, no future, no ASGI messages for a request.

uvicorn's protocol reads and parses every request. Those that a fast endpoint can decode on the spot go straight into
their model's queue, and the batch that answers them writes the responses. All others - other routes, queries, large
bodies, pipelined requests - take uvicorn's own way through the application. A client sees no difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.answers import explaining_headers
from service.batch import Answer, Part
from service.batcher import Batcher
from service.engine import Runner
from service.errors import InternalError, ServiceError
from service.metrics import Metrics
from service.wire import JSON, PROBLEM, Header, id_of, problem

log = logging.getLogger(__name__)

_MOST_BODY_BYTES = 65_536
"""Larger bodies take long enough to read and decode that the way does not matter."""


class Ready(NamedTuple):
    """A decoded request: the queue it goes to, its rows, and how its answer becomes a JSON body."""

    batcher: Batcher
    engine: Runner
    part: Part
    render: Callable[[Answer], bytes]


class Request(NamedTuple):
    """A POST without a query, wholly read."""

    content_type: bytes
    body: bytes


Decoded = Ready | ServiceError | None


class Direct(Protocol):
    """An endpoint with a short way."""

    timeout_s: float

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        """Each request decoded, or what is wrong with it, or None where it needs the event loop."""


class Exchange:
    """One request on the short way. uvicorn sees its request cycle in it, the batcher the future of its answer."""

    __slots__ = (
        "body",
        "content_type",
        "disconnected",
        "endpoint",
        "keep_alive",
        "message_event",
        "path",
        "protocol",
        "render",
        "request_id",
        "response_complete",
        "scope",
        "started",
    )

    def __init__(
        self, protocol: DirectProtocol, endpoint: Direct, content_type: bytes, given_id: bytes | None, *, keep: bool
    ) -> None:
        self.started = perf_counter()
        self.protocol = protocol
        self.path = protocol.url.decode("latin-1")
        self.scope: Any = protocol.scope
        self.endpoint = endpoint
        self.content_type = content_type
        self.request_id = id_of(given_id)
        self.keep_alive = keep
        self.body = b""
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS
        self.render: Callable[[Answer], bytes] | None = None

    # ------------------------------------------------------------------ what the batcher calls

    def done(self) -> bool:
        return self.response_complete or self.disconnected

    def gone(self) -> bool:
        return self.disconnected

    def cancel(self) -> None:
        """The batcher gave up the place of a client who had left: nobody is to be told."""

    def set_result(self, answer: Answer) -> None:
        try:
            body = self.render(answer) if self.render is not None else b""
        except Exception as error:
            self.fail(error)
            return
        self._send(200, JSON, body, explaining_headers([answer]))

    def set_exception(self, error: ServiceError) -> None:
        body, headers = problem(error, self.request_id.decode())
        self._send(error.status, PROBLEM, body, headers)

    # ------------------------------------------------------------------ what the desk calls

    def fail(self, error: Exception) -> None:
        """Tell the client what is wrong; what was not foreseen is for the log alone."""
        if not isinstance(error, ServiceError):
            log.error("request %s failed", self.request_id.decode(), exc_info=error)
            error = InternalError("Something failed on our side; the log has the reason.")
        self.set_exception(error)

    def admit(self, ready: Ready) -> None:
        """Queue the decoded request."""
        self.render = ready.render
        try:
            ready.batcher.admit(ready.engine, ready.part, self, timeout_s=self.endpoint.timeout_s, gone=self.gone)
        except ServiceError as error:
            self.set_exception(error)

    # ------------------------------------------------------------------ inside

    def _send(self, status: int, content_type: bytes, body: bytes, headers: list[Header]) -> None:
        self.response_complete = True
        lines = [STATUS_LINE[status]]
        for name, value in (*self.protocol.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        lines.append(
            b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n"
            % (content_type, len(body), self.request_id, b"" if self.keep_alive else b"connection: close\r\n")
        )
        lines.append(body)
        self.protocol.finish(self, status, b"".join(lines))


class Desk:
    """Gathers what was read in one turn of the loop: many requests are decoded faster one behind the other."""

    def __init__(self) -> None:
        self._waiting: dict[Direct, list[Exchange]] = {}
        self._loop = asyncio.get_running_loop()

    def take(self, exchange: Exchange) -> None:
        """A request whose body has been read."""
        if not self._waiting:
            self._loop.call_soon(self._serve)
        self._waiting.setdefault(exchange.endpoint, []).append(exchange)

    def _serve(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for endpoint, exchanges in waiting.items():
            there = [exchange for exchange in exchanges if not exchange.disconnected]
            try:
                decoded = endpoint.at_once([Request(exchange.content_type, exchange.body) for exchange in there])
            except Exception as error:
                for exchange in there:
                    exchange.fail(error)
                continue
            for exchange, ready in zip(there, decoded, strict=True):
                if ready is None:
                    exchange.protocol.take_the_long_way(exchange)
                elif isinstance(ready, ServiceError):
                    exchange.set_exception(ready)
                else:
                    exchange.admit(ready)


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a short way for the paths of `table`."""

    table: Mapping[bytes, Direct] = {}
    metrics: Metrics
    desk: Desk

    cycle: Any  # uvicorn's own, or an Exchange

    def on_headers_complete(self) -> None:
        exchange = self._exchange()
        if exchange is None:
            super().on_headers_complete()
        else:
            self.cycle = exchange

    def on_body(self, body: bytes) -> None:
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self.cycle.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self.desk.take(self.cycle)
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.cycle
        super().connection_lost(exc)
        if type(exchange) is Exchange and not exchange.response_complete:
            self._count(exchange, 499)

    def finish(self, exchange: Exchange, status: int, response: bytes) -> None:
        """Write an exchange's response, and let the connection go on."""
        self._count(exchange, status)
        if exchange.disconnected:
            return
        self.transport.write(response)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def take_the_long_way(self, exchange: Exchange) -> None:
        """Give a request that was read already to the application, as uvicorn would have."""
        path = exchange.path
        exchange.scope |= {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
        cycle = RequestResponseCycle(
            scope=exchange.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=exchange.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.body += exchange.body
        cycle.more_body = False
        cycle.message_event.set()
        if self.cycle is exchange:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    # ------------------------------------------------------------------ inside

    def _exchange(self) -> Exchange | None:
        """An exchange for the request whose head was just read, if it may take the short way."""
        endpoint = self.table.get(self.url)
        if (
            endpoint is None
            or self.parser.get_method() != b"POST"
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.parser.get_http_version() != "1.1"
            or self.flow.write_paused
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            return None
        length, content_type, given_id = 0, None, None
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)  # the parser has refused what is no number
            elif name == b"content-type" and content_type is None:
                content_type = value
            elif name == b"x-request-id" and given_id is None:
                given_id = value
        if not 0 < length <= _MOST_BODY_BYTES:
            return None
        return Exchange(self, endpoint, content_type or b"", given_id, keep=self.parser.should_keep_alive())

    def _count(self, exchange: Exchange, status: int) -> None:
        self.metrics.request(exchange.path, status, perf_counter() - exchange.started)


class _NoEvent:
    """In the place of a cycle's event: on the short way nothing waits for the request's body or its end."""

    def set(self) -> None:
        """Nothing to wake."""


_NOBODY_WAITS = _NoEvent()
