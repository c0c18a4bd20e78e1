"""The short way from a socket to a batch and back: no task, no future, no ASGI messages for a request.

uvicorn's protocol reads and parses every request. Those that a fast endpoint can decode on the spot go straight into
their model's queue, and the batch that answers them writes the responses. All others - other routes, queries, large
bodies, pipelined requests - take uvicorn's own way through the application. A client sees no difference.

A client's next request mostly has the very head of one before. Such a head is not parsed again, byte for byte the same
as it is: what the parser made of it is kept, until the keys change that some of them show.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.access import AccessLog
from service.errors import HeadTooLarge, RequestTimeout, ServiceError, UnreadableBody
from service.exchange import Desk, Direct, Exchange, Head, response
from service.metrics import Metrics
from service.security import Guard
from service.warnings import Warned
from service.wire import PROBLEM, Header, id_of, problem

_MOST_HEADS, _MOST_HEAD_BYTES = 1_024, 2_048
_LARGEST_HEAD_BYTES = 65_536
"""A head that is longer is refused; nothing else would end it."""
_HEAD_END = b"\r\n\r\n"


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a short way for the paths of `table`; `heads` are those known already."""

    table: Mapping[bytes, Direct] = {}
    most_body_bytes: int
    heads: dict[bytes, Head]
    guard: Guard
    metrics: Metrics
    desk: Desk
    access: AccessLog | None = None

    cycle: Any  # uvicorn's own, or an Exchange
    waiting_since = 0.0
    """When this connection was opened, or its present request began to arrive."""
    _data = b""
    _in_message = _in_head = False
    _head_bytes = 0
    _chunks: list[bytes]

    def connection_made(self, transport: Any) -> None:
        self.waiting_since = monotonic()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self._in_message and self._is_free():
            end = data.find(_HEAD_END)
            head = self.heads.get(data[:end]) if end > 0 else None
            if head is not None and len(data) == end + len(_HEAD_END) + head.length:
                self._unset_keepalive_if_required()
                self.cycle = Exchange(self, head, data[end + len(_HEAD_END) :])
                self.desk.take(self.cycle)
                return
            self._data = data
        super().data_received(data)
        self._data = b""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _LARGEST_HEAD_BYTES:
                self._hang_up(HeadTooLarge(f"The request's head is larger than {_LARGEST_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._head_bytes = 0
        self.waiting_since = monotonic()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        head = self._head()
        if head is None:
            super().on_headers_complete()
        else:
            self._learn(head)
            self.cycle = Exchange(self, head)
            self._chunks = []

    def on_body(self, body: bytes) -> None:
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self._chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self.cycle.body = b"".join(self._chunks)
            self._chunks.clear()
            self.desk.take(self.cycle)
        else:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.cycle
        super().connection_lost(exc)
        if type(exchange) is Exchange and not exchange.response_complete:
            self._count(exchange, 499)

    # ------------------------------------------------------------------ what the doorkeeper calls

    @property
    def is_receiving(self) -> bool:
        """Whether the next thing to happen is the client's to do: no request has come yet, or not all of it."""
        return self._in_message or self.cycle is None

    def time_out(self, limit_s: float) -> None:
        """Hang up on a client that did not send its request in time."""
        self._hang_up(RequestTimeout(f"The request did not arrive within {limit_s:g} seconds."))

    # ------------------------------------------------------------------ what an exchange calls

    def default_headers(self) -> list[Header]:
        return self.server_state.default_headers

    def finish(self, exchange: Exchange, status: int, response: bytes) -> None:
        """Write an exchange's response, and let the connection go on."""
        self._count(exchange, status)
        if exchange.disconnected:
            return
        self.transport.write(response)
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def count_warnings(self, warned: Sequence[Warned]) -> None:
        """Count the warnings of an answer that was sent."""
        self.metrics.warned(warned)

    def take_the_long_way(self, exchange: Exchange) -> None:
        """Give a request that was read already to the application, as uvicorn would have."""
        path = exchange.head.path
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [  # its id stays the same, for it decides where a canary's request goes
                *(each for each in exchange.head.headers if each[0] != b"x-request-id"),
                (b"x-request-id", exchange.request_id),
            ],
            "state": self.app_state.copy(),
        }
        cycle = RequestResponseCycle(
            scope=scope,
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

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to bytes that are no HTTP request, as every other error is told."""
        detail = f"{msg} It must be HTTP/1.1, with a known method, and no control characters in its head."
        self._hang_up(UnreadableBody(detail, code="unreadable_request"))

    def _hang_up(self, error: ServiceError) -> None:
        """Say why, unless an answer has begun already, and close the connection."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not getattr(self.cycle, "response_started", False):
            request_id = id_of(None)
            body, headers = problem(error, request_id.decode())
            headers = [*self.default_headers(), *headers, (b"connection", b"close")]
            self.transport.write(response(error.status, PROBLEM, body, headers, request_id))
            seconds = monotonic() - self.waiting_since
            self.metrics.request("unmatched", error.status, seconds)
            if self.access is not None:
                peer = self.client[0] if self.client else None
                self.access.write(
                    request_id, "-", "", route="unmatched", status=error.status, seconds=seconds, client=peer
                )
        if type(self.cycle) is Exchange:
            self.cycle.response_complete = True
        self._in_head = False
        self.transport.close()

    def _is_free(self) -> bool:
        """Whether a request that came now could be answered next, at once."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _head(self) -> Head | None:
        """The head that was just parsed, if its request may take the short way."""
        endpoint = self.table.get(self.url)
        if (
            endpoint is None
            or self.parser.get_method() != b"POST"
            or self.expect_100_continue
            or self.parser.should_upgrade()
            or self.parser.get_http_version() != "1.1"
            or not self._is_free()
            or not self.guard.lets_in("POST", self.url.decode("latin-1"), self.headers)
        ):
            return None
        length, content_type, given_id = 0, None, None
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value) if len(value) < 20 else 0  # the parser has refused what is no number
            elif name == b"content-type" and content_type is None:
                content_type = value
            elif name == b"x-request-id" and given_id is None:
                given_id = value
            elif name == b"content-encoding":
                return None
        if not 0 < length <= min(endpoint.most_short_bytes, self.most_body_bytes):
            return None
        keep = self.parser.should_keep_alive()
        return Head(endpoint, self.url.decode("latin-1"), self.headers, content_type or b"", given_id, length, keep)

    def _learn(self, head: Head) -> None:
        """Keep a head that may come again, if its request is all that was received."""
        end = self._data.find(_HEAD_END)
        if (
            head.given_id is not None
            or not 0 < end <= _MOST_HEAD_BYTES
            or len(self._data) != end + len(_HEAD_END) + head.length
            or not self._data.startswith(b"POST ")
        ):
            return
        if len(self.heads) >= _MOST_HEADS:
            self.heads.clear()
        self.heads[self._data[:end]] = head

    def _count(self, exchange: Exchange, status: int) -> None:
        head, seconds = exchange.head, perf_counter() - exchange.started
        self.metrics.request(head.path, status, seconds)
        if self.access is not None:
            self.access.write(
                exchange.request_id,
                "POST",
                head.path,
                route=head.path,
                status=status,
                seconds=seconds,
                key=self.guard.name_of(head.headers),
                client=self.access.client(self.client, head.headers),
            )
