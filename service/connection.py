"""One HTTP/1.1 connection: which of its bytes are a request, when the next one is read, and how it ends.

uvicorn's protocol parses. Here bytes reach its parser piece by piece, a piece ending where a request does, so that
while a request is in hand those behind it wait as bytes, a bounded number of them. An offer to change the protocol is
declined by reading the same request without it.
"""

from __future__ import annotations

import asyncio
import sys
from time import monotonic
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.access import AccessLog
from service.errors import HeadTooLarge, RequestTimeout, ServiceError, UnreadableBody
from service.exchange import response
from service.metrics import Metrics
from service.wire import PROBLEM, id_of, problem

if sys.platform != "win32":
    import fcntl
    import termios

HEAD_END = b"\r\n\r\n"
_LARGEST_HEAD_BYTES = 65_536
"""The largest head of a request, with its trailers and whatever else is not body; nothing else would end it."""
_MOST_HELD_BYTES = 65_536
"""Bytes behind the request in hand; over that reading stops until it is answered."""
_MOST_WRITTEN_BYTES = 65_536
"""The largest piece of an answer that is given to the transport at once."""
_OFFER = frozenset({b"upgrade", b"http2-settings"})
"""Headers, and tokens of `Connection`, that offer another protocol."""
_LINGER_S, _LINGER_SILENT_S = 30.0, 5.0
"""How long an ended connection reads on in all, and while nothing comes."""
_LINGER_BODIES = 10
"""How much it reads then: so many of the largest bodies."""
_FIRST_REQUEST_S, _NEXT_REQUEST_S = 1.0, 0.05
"""At shutdown: the time that a connection has for its first request, which may be on its way, or for another one."""


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, bounded in what it keeps and in the time it waits.

    A subclass that answers some requests itself overrides `take_head`, `take_body` and `take_end`.
    """

    most_body_bytes: int
    metrics: Metrics
    access: AccessLog | None = None
    draining = False
    """Whether every answer ends its connection, because the service is about to stop."""

    cycle: Any  # a request and its response
    waiting_since = 0.0
    """When this connection was opened, its present request began to arrive, or its last answer was written."""
    _in_message = _in_head = _ending = False
    _held = b""
    _piece = _fed = _body = _chunk = _framing = _left = 0  # bytes: see `_parse`
    _unread = _unsent = 0
    _progress = _ends_by = _heard = 0.0
    _linger_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.waiting_since = self._progress = monotonic()
        self._outlet = _Outlet(self)

    def data_received(self, data: bytes) -> None:
        self.feed(data)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    # ------------------------------------------------------------------ bytes in

    def feed(self, data: bytes) -> None:
        """Give the parser what came, and hold back what is behind a request that is not answered yet."""
        at = 0
        while at < len(data):
            if self._ending or self.transport.is_closing():
                self._discard(len(data) - at)
                return
            if not self._in_message and not self.is_free():
                self._hold(data[at:])
                return
            end = self._end_of_piece(data, at)
            if not self._parse(data[at:end]):
                return
            at = end

    def is_free(self) -> bool:
        """Whether a request that came now could be answered next, at once."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Where the present request, its head or its body may end; never behind the end of the request."""
        if self._in_message and self._left > 0:
            return min(len(data), at + self._left)
        found = data.find(HEAD_END, at)
        return len(data) if found < 0 else found + len(HEAD_END)

    def _parse(self, piece: bytes) -> bool:
        """Whether the connection goes on. Of a message count all bytes that are neither body nor a chunk's frame."""
        if (self._in_head and self._excess() + len(piece) > _LARGEST_HEAD_BYTES) or (
            not self._in_message and len(piece) > _LARGEST_HEAD_BYTES
        ):
            return self._refuse_head()
        self._piece = len(piece)
        self._fed += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            return self._decline(piece[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
            return False
        if self._in_message and self._excess() > _LARGEST_HEAD_BYTES:
            return self._refuse_head()
        return True

    def _excess(self) -> int:
        return self._fed - self._body - self._framing

    def _refuse_head(self) -> bool:
        error = HeadTooLarge(f"The request's head is larger than {_LARGEST_HEAD_BYTES} bytes.")
        self.hang_up(error, still_sends=True)
        return False

    def _decline(self, rest: bytes) -> bool:
        """Read a request again without its offer of another protocol: what follows is its body, not that protocol."""
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("CONNECT is not possible here.")
            return False
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in _without_offer(self.headers)]
        head = b"\r\n".join([*lines, b"", b""])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if not self._parse(head):
            return False
        self.feed(rest)
        return not self._ending

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _MOST_HELD_BYTES:
            self.flow.pause_reading()

    def _go_on(self) -> None:
        """Read what was held back, once it may be."""
        if self._held and self.is_free():
            held, self._held = self._held, b""
            self.flow.resume_reading()
            self.feed(held)

    def _discard(self, size: int) -> None:
        self._heard = monotonic()
        self._linger_bytes -= size
        if self._linger_bytes < 0:
            self.transport.abort()

    # ------------------------------------------------------------------ what the parser calls

    def on_message_begin(self) -> None:
        self._in_message = self._in_head = True
        self._fed, self._body, self._chunk, self._framing, self._left = self._piece, 0, 0, 0, 0
        self.waiting_since = monotonic()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer: who sent it was judged by the head
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        for name, value in self.headers:
            if name == b"content-length":
                self._left = int(value) if len(value) < 20 else 0  # the parser has refused what is no number
        self.take_head()
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        size = len(body)
        self._body += size
        self._chunk += size
        self._left -= size
        self.take_body(body)

    def on_chunk_header(self) -> None:
        self._chunk = 0

    def on_chunk_complete(self) -> None:
        self._framing += len(b"%x" % self._chunk) + 4

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        if self._excess() > _LARGEST_HEAD_BYTES:
            self._refuse_head()
            return
        self._in_message = False
        self.take_end()

    # ------------------------------------------------------------------ a request

    def take_head(self) -> None:
        """Start the application on a request whose head has come, or put it behind the one in hand."""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope.update(
            {
                "http_version": version,
                "method": method.decode("ascii"),
                "path": self.root_path + (unquote(path) if "%" in path else path),
                "raw_path": self.root_path.encode("ascii") + url.path,
                "query_string": url.query or b"",
            }
        )
        free = self.is_free()
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self.cycle = cycle = self.new_cycle(self.scope, keep_alive=keep_alive, expects=self.expect_100_continue)
        cycle.is_short = 0 <= self._left <= self.most_body_bytes and not self._is_chunked()
        if free:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def take_body(self, body: bytes) -> None:
        """Give the application a piece of the body."""
        super().on_body(body)

    def take_end(self) -> None:
        """Tell the application that the body is complete."""
        super().on_message_complete()

    def new_cycle(self, scope: Any, *, keep_alive: bool, expects: bool = False) -> Cycle:
        """A request on its way through the application."""
        return Cycle(
            scope=scope,
            transport=self._outlet,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive and not self.draining,
            on_response=self.on_response_complete,
        )

    def on_response_complete(self) -> None:
        """Wait for the next request, or read what came of it already."""
        self.server_state.total_requests += 1
        if not self._in_message:
            self.waiting_since = monotonic()
        if self._ending or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._held:
            self._go_on()

    def _is_chunked(self) -> bool:
        return any(name == b"transfer-encoding" for name, _ in self.headers)

    # ------------------------------------------------------------------ the end

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says to bytes that are no HTTP request, as every other error is told."""
        detail = f"{msg} It must be HTTP/1.1, with a known method, and no control characters in its head."
        self.hang_up(UnreadableBody(detail, code="unreadable_request"), still_sends=True)

    def hang_up(self, error: ServiceError, *, still_sends: bool = False) -> None:
        """Say why, unless an answer has begun already, and end the connection."""
        if self.is_ending():
            return
        if self._may_answer():
            request_id = id_of(None)
            body, headers = problem(error, request_id.decode())
            headers = [*self.server_state.default_headers, *headers, (b"connection", b"close")]
            self.transport.write(response(error.status, PROBLEM, body, headers, request_id))
            self._count_refusal(error, request_id)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
        self.end(still_sends=still_sends)

    def _may_answer(self) -> bool:
        """Whether nothing was said yet to the request that arrives, and everything to the one before."""
        if self.cycle is None:
            return True
        if self._in_message and not self._in_head:
            return not (self.cycle.response_complete or getattr(self.cycle, "response_started", False))
        return bool(self.cycle.response_complete)

    def _count_refusal(self, error: ServiceError, request_id: bytes) -> None:
        seconds = monotonic() - self.waiting_since
        self.metrics.request("unmatched", error.status, seconds)
        if self.access is not None:
            peer = self.client[0] if self.client else None
            self.access.write(request_id, "-", "", route="unmatched", status=error.status, seconds=seconds, client=peer)

    def is_ending(self) -> bool:
        """Whether nothing more is to be written."""
        return self._ending or self.transport.is_closing()

    def end(self, *, still_sends: bool = False) -> None:
        """Close the connection, but read on for a while where the client may still be sending.

        To close on bytes that nobody has read resets the connection, and the client would lose the answer to it.
        """
        if self.is_ending():
            return
        if not (still_sends or self._in_message or self._held):
            self.transport.close()
            return
        self._ending = self._in_message = True
        self._in_head, self._held = False, b""
        self._heard = monotonic()
        self._ends_by = self._heard + _LINGER_S
        self._linger_bytes = _LINGER_BODIES * self.most_body_bytes
        self.transport.write_eof()
        self.flow.resume_reading()

    def drain(self) -> None:
        """Let the answer in hand be the last."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close what has no request; one that is on its way may still come and is answered."""
        self.drain()
        if self._ending:
            self.transport.close()
        elif not self._in_message:
            self.loop.call_later(_FIRST_REQUEST_S if self.cycle is None else _NEXT_REQUEST_S, self.close_idle)

    # ------------------------------------------------------------------ what the doorkeeper calls

    @property
    def is_receiving(self) -> bool:
        """Whether the next thing to happen is the client's to do: no request has come yet, or not all of it."""
        return (self._in_message and not self._ending) or self.cycle is None

    @property
    def is_idle(self) -> bool:
        """Whether all requests are answered, as far as it is known, and no further one has begun."""
        if self._in_message or self._unread or self._held:
            return False
        return self.cycle is not None and self.cycle.response_complete

    def time_out(self, limit_s: float) -> None:
        """Hang up on a client that did not send its request in time."""
        self.hang_up(RequestTimeout(f"The request did not arrive within {limit_s:g} seconds."))

    def close_idle(self) -> None:
        """Close a connection that no request is on."""
        if not self._in_message and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()

    def is_stuck(self, now: float, limit_s: float) -> bool:
        """Whether the client has taken nothing of an answer for so long, or an ended connection had its time."""
        unread = self.transport.get_write_buffer_size()
        if not unread:
            self._progress, self._unread = now, 0
            return self._ending and (now > self._ends_by or now - self._heard > _LINGER_SILENT_S)
        unsent = _unsent(self.transport)
        if unread < self._unread or unsent != self._unsent:
            self._progress = self.waiting_since = now
        self._unread, self._unsent = unread, unsent
        return now - self._progress > limit_s

    def abort(self) -> None:
        """Drop the connection and whatever was still to be written."""
        self.transport.abort()


class Cycle(RequestResponseCycle):
    """uvicorn's request and response; an answer that comes before the end of a long body ends the connection."""

    is_short = True
    """Whether what is left of the body is worth reading, for the next request behind it."""

    async def send(self, message: Any) -> None:
        if not self.response_started and self.more_body and (self.waiting_for_100_continue or not self.is_short):
            self.keep_alive = False
        body = message.get("body", b"")
        if len(body) > _MOST_WRITTEN_BYTES:  # what the client does not take waits once, not again in the transport
            starts, view = range(0, len(body), _MOST_WRITTEN_BYTES), memoryview(body)
            *pieces, last = (view[at : at + _MOST_WRITTEN_BYTES] for at in starts)
            for piece in pieces:
                part: Any = {"type": "http.response.body", "body": piece, "more_body": True}
                await super().send(part)
            message = {**message, "body": last}
        await super().send(message)


class _Outlet:
    """What a request cycle sees of its connection's transport."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, connection: Connection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.is_ending
        self.close = connection.end


def _without_offer(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """A request's headers but for those that offer another protocol."""
    return [
        (name, _without_tokens(value) if name == b"connection" else value)
        for name, value in headers
        if name not in _OFFER
    ]


def _without_tokens(connection: bytes) -> bytes:
    tokens = [token.strip() for token in connection.split(b",")]
    return b", ".join(token for token in tokens if token.lower() not in _OFFER)


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the system holds for a connection because its other end has not taken them."""
    if sys.platform == "win32":
        return 0
    try:
        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError):
        return 0
    return int.from_bytes(told, sys.byteorder)
