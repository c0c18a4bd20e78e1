"""The short way from a socket to a batch and back: no task, no future, no ASGI messages for a request.

uvicorn's protocol reads and parses every request. Those that a fast endpoint can decode on the spot go straight into
their model's queue, and the batch that answers them writes the responses. All others - other routes, queries, large
bodies, pipelined requests - take uvicorn's own way through the application. A client sees no difference.

A client's next request mostly has the very head of one before. Such a head is not parsed again, byte for byte the same
as it is: what the parser made of it is kept, until the keys change that some of them show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from service.connection import HEAD_END, Connection
from service.exchange import Desk, Direct, Exchange, Head
from service.security import Guard
from service.warnings import Warned
from service.wire import Header

_MOST_HEADS, _MOST_HEAD_BYTES = 1_024, 2_048


class DirectProtocol(Connection):
    """A connection with a short way for the paths of `table`; `heads` are those known already."""

    table: Mapping[bytes, Direct] = {}
    heads: dict[bytes, Head]
    guard: Guard
    desk: Desk

    _data = b""
    _chunks: list[bytes]

    def data_received(self, data: bytes) -> None:
        if not self._in_message and self.is_free():
            end = data.find(HEAD_END)
            head = self.heads.get(data[:end]) if end > 0 else None
            if head is not None and len(data) == end + len(HEAD_END) + head.length:
                self.cycle = Exchange(self, head, data[end + len(HEAD_END) :])
                self.desk.take(self.cycle)
                return
            self._data = data
        self.feed(data)
        self._data = b""

    def take_head(self) -> None:
        head = self._head()
        if head is None:
            super().take_head()
        else:
            self._learn(head)
            self.cycle = Exchange(self, head)
            self._chunks = []

    def take_body(self, body: bytes) -> None:
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self._chunks.append(body)
        else:
            super().take_body(body)

    def take_end(self) -> None:
        if type(self.cycle) is Exchange and not self.cycle.response_complete:
            self.cycle.body = b"".join(self._chunks)
            self._chunks.clear()
            self.desk.take(self.cycle)
        else:
            super().take_end()

    def connection_lost(self, exc: Exception | None) -> None:
        exchange = self.cycle
        super().connection_lost(exc)
        if type(exchange) is Exchange and not exchange.response_complete:
            self._count(exchange, 499)

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
            self.end()
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
        cycle = self.new_cycle(scope, keep_alive=exchange.keep_alive)
        cycle.body += exchange.body
        cycle.more_body = False
        cycle.message_event.set()
        if self.cycle is exchange:
            self.cycle = cycle
        self._start_asgi_task(cycle, self.app)

    # ------------------------------------------------------------------ inside

    def _head(self) -> Head | None:
        """The head that was just parsed, if its request may take the short way."""
        endpoint = self.table.get(self.url)
        if (
            endpoint is None
            or self.parser.get_method() != b"POST"
            or self.expect_100_continue
            or self.parser.get_http_version() != "1.1"
            or not self.is_free()
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
        keep = self.parser.should_keep_alive() and not self.draining
        return Head(endpoint, self.url.decode("latin-1"), self.headers, content_type or b"", given_id, length, keep)

    def _learn(self, head: Head) -> None:
        """Keep a head that may come again, if its request is all that was received."""
        end = self._data.find(HEAD_END)
        if (
            self.draining
            or head.given_id is not None
            or not 0 < end <= _MOST_HEAD_BYTES
            or len(self._data) != end + len(HEAD_END) + head.length
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
