"""One call: who may make it, how its message is read, how its errors are told, and its place in metrics and the log."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from service.access import AccessLog
from service.errors import Busy, InternalError, RequestTimeout, ServiceError, Unavailable, UnreadableBody
from service.keys import Key
from service.limits import PAUSE_S, Limits
from service.metrics import Metrics
from service.oip import compression
from service.oip.errors import NotOffered
from service.oip.rpc.inference import Caller, Inference
from service.oip.rpc.messages import HEALTH, INFERENCE, ModelStreamInferResponse
from service.oip.rpc.status import status_of
from service.oip.rpc.views import Views, kinds, told
from service.passage import KEY_HEADER
from service.security import Guard
from service.settings import Settings
from service.wire import Header, id_of

log = logging.getLogger(__name__)

INFER, STREAM = f"/{INFERENCE}/ModelInfer", f"/{INFERENCE}/ModelStreamInfer"
_MOST_IN_HAND = 64
"""Requests of one stream."""
_LONGEST_DETAIL = 500
"""Signs of an error's sentence: it travels in a header, and many clients take no more than 8 KiB of those."""
_PACKED = (b"\x1f", b"\x78")
"""How gzip and zlib begin, and none of our messages: as its first tag these are no field of any."""


class Door(NamedTuple):
    """What every call passes: the same as every HTTP request."""

    guard: Guard
    limits: Limits
    metrics: Metrics
    access: AccessLog | None


class Call:
    """One call as its handler sees it."""

    def __init__(self, path: str, headers: list[Header], context: Any) -> None:
        self.path = path
        self.headers = headers
        self.context = context
        given = dict(headers)
        self.id = id_of(given.get(b"x-request-id"))
        self.caller = Caller(given.get(KEY_HEADER) or self.id, context.time_remaining)
        self.trailing: list[Header] = [(b"x-request-id", self.id)]

    @property
    def peer(self) -> str | None:
        """The address of the client: of `ipv4:127.0.0.1:50000` the middle."""
        kind, _, rest = self.context.peer().partition(":")
        return rest.rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "") if kind != "unix" else None

    def tell(self) -> None:
        """Put the headers that explain the answer behind it."""
        self.context.set_trailing_metadata(tuple((name.decode(), value.decode()) for name, value in self.trailing))


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call. Messages are read and written as bytes: nothing of one is read before its key."""

    def __init__(self, door: Door, inference: Inference, views: Views, settings: Settings) -> None:
        self._door = door
        self._inference = inference
        self._views = views.all()
        self._kinds = kinds()
        self._read_timeout_s = settings.read_timeout_s
        self._keep_alive_s = settings.keep_alive_s
        self._most_bytes = settings.max_body_bytes
        self._reading: set[asyncio.Task[None]] = set()
        self._closed = False

    def service(self, details: Any) -> Any:
        headers = [(name.encode(), value if isinstance(value, bytes) else value.encode())
                   for name, value in details.invocation_metadata]  # fmt: skip
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(functools.partial(self._stream, headers))
        path = details.method
        if path not in self._kinds and not path.startswith(f"/{INFERENCE}/"):
            return None
        return grpc.stream_unary_rpc_method_handler(functools.partial(self._unary, path, headers))

    def close(self) -> None:
        """Let streams end behind the answers they still wait for."""
        self._closed = True
        for task in self._reading:
            task.cancel()

    # ------------------------------------------------------------------ calls with one message

    async def _unary(self, path: str, headers: list[Header], _: Any, context: Any) -> bytes:
        call = Call(path, headers, context)
        answer: bytes = await self._guarded(call, functools.partial(self._one, call))
        return answer

    async def _one(self, call: Call) -> bytes:
        key = self._check(call)
        if call.path not in self._kinds:
            raise NotOffered(f"{call.path.rpartition('/')[2][:100]} is not offered here; see README for what is.")
        place = await self._enter(key)
        try:
            with self._inference.decoding.bodies.hold() as held:
                message = await self._read(call.context)
                held.grow_to(len(message))
                return await self._answer(call, message)
        finally:
            self._leave(place)

    async def _answer(self, call: Call, message: bytes) -> bytes:
        if call.path != INFER:
            kind, answered = self._kinds[call.path]
            with _legible(call.path):
                asked = kind.FromString(message)
            return told(await self._views[call.path](asked), answered)
        with _legible(INFER):
            asked = await self._inference.read(message)
        response, headers = await self._inference.answer(asked, call.caller)
        call.trailing.extend(headers)
        answer: bytes = response.SerializeToString()
        return answer

    # ------------------------------------------------------------------ streams

    async def _stream(self, headers: list[Header], _: Any, context: Any) -> None:
        call = Call(STREAM, headers, context)
        await self._guarded(call, functools.partial(self._many, call))

    async def _many(self, call: Call) -> None:
        """Answer the requests of a stream in their order; many of them may be in hand at once."""
        self._check(call)
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_MOST_IN_HAND)
        begun: set[asyncio.Task[bytes]] = set()
        reading = asyncio.create_task(self._read_on(call, answers, begun), name="rpc-stream")
        self._reading.add(reading)
        try:
            while (task := await self._next(answers)) is not None:
                await call.context.write(await task)
            if self._closed:
                raise Unavailable("The service is shutting down; go on at another replica.")
        finally:
            self._reading.discard(reading)
            for each in (reading, *begun):
                each.cancel()

    async def _next(self, answers: asyncio.Queue[asyncio.Task[bytes] | None]) -> asyncio.Task[bytes] | None:
        """The next answer to come; a stream on which nothing is asked waits no longer than a connection of HTTP."""
        try:
            async with asyncio.timeout(self._keep_alive_s):
                return await answers.get()
        except TimeoutError:
            detail = f"No request came within {self._keep_alive_s:g} s; open another stream for the next one."
            raise RequestTimeout(detail) from None

    async def _read_on(
        self, call: Call, answers: asyncio.Queue[asyncio.Task[bytes] | None], begun: set[asyncio.Task[bytes]]
    ) -> None:
        """Begin an answer for each message until the stream ends, or the service does."""
        try:
            while not self._closed and (message := await call.context.read()) is not grpc.aio.EOF:
                task = asyncio.create_task(self._one_of_many(call, message))
                begun.add(task)
                task.add_done_callback(begun.discard)
                await answers.put(task)
        finally:
            if not asyncio.current_task().cancelling() or self._closed:  # type: ignore[union-attr]
                await asyncio.shield(answers.put(None))

    async def _one_of_many(self, call: Call, message: bytes) -> bytes:
        """The answer to one request of a stream; what is wrong with it ends it alone, unless the key is."""
        key = self._check(call)
        answer, asked = ModelStreamInferResponse(), None
        try:
            place = await self._enter(key)
            try:
                with self._inference.decoding.bodies.hold() as held:
                    held.grow_to(len(message))
                    with _legible(STREAM):
                        asked = await self._inference.read(await self._unpacked(message))
                    response, _ = await self._inference.answer(asked, call.caller)
                answer.infer_response.CopyFrom(response)
            finally:
                self._leave(place)
        except ServiceError as error:
            answer.error_message = error.detail[:_LONGEST_DETAIL]
            answer.infer_response.id = asked.id if asked is not None else ""
        told: bytes = answer.SerializeToString()
        return told

    # ------------------------------------------------------------------ what all share

    def _check(self, call: Call) -> Key | None:
        """The key of a call, which needs the same scope as its HTTP twin; probes need none."""
        path = "/v2" if self._is_asked(call.path) else "/v2/health/"
        return self._door.guard.check("POST", path, call.headers)

    @staticmethod
    def _is_asked(path: str) -> bool:
        """Whether a call is more than a probe."""
        return not (path.startswith(f"/{HEALTH}/") or path.endswith(("/ServerLive", "/ServerReady")))

    async def _enter(self, key: Key | None) -> int | None:
        limits = self._door.limits
        if key is None or not limits.any:
            return None
        try:
            return limits.enter(key)
        except Busy:
            await asyncio.sleep(PAUSE_S)
            raise

    def _leave(self, place: int | None) -> None:
        if place is not None:
            self._door.limits.leave(place)

    async def _read(self, context: Any) -> bytes:
        """The one message of a call, unpacked; its sender has so much time as for the body of an HTTP request."""
        try:
            async with asyncio.timeout(self._read_timeout_s):
                message = await context.read()
        except TimeoutError:
            raise RequestTimeout(f"The message did not come within {self._read_timeout_s:g} s.") from None
        if message is grpc.aio.EOF:
            raise UnreadableBody("The call ended without a message.")
        return await self._unpacked(message)

    async def _unpacked(self, message: bytes) -> bytes:
        """The message as it was before its client packed it; gRPC itself would unpack it to any size."""
        if not message.startswith(_PACKED):
            return message
        longest = min(self._most_bytes, compression.MOST_RATIO * len(message))
        return await self._inference.off_loop(longest, compression.unpack, message, b"gzip", self._most_bytes)

    async def _guarded(self, call: Call, answer: Callable[[], Awaitable[Any]]) -> Any:
        """The answer, or the error in gRPC's form; counted and logged like an HTTP request."""
        started, status = perf_counter(), 499
        try:
            with self._traced(call):
                found = await answer()
        except ServiceError as error:
            status = error.status
            await self._abort(call, error)
        except Exception:
            log.exception("call %s failed", call.id.decode())
            status = 500
            await self._abort(call, InternalError())
        else:
            status = 200
            call.tell()
            return found
        finally:
            self._count(call, status, perf_counter() - started)

    def _traced(self, call: Call) -> AbstractContextManager[None]:
        """The span of a call, where calls are traced."""
        spans = self._door.metrics.spans
        if spans is None or not self._is_asked(call.path):
            return nullcontext()
        return spans.call(call.path, call.headers, call.id.decode())

    @staticmethod
    async def _abort(call: Call, error: ServiceError) -> None:
        if error.retry_after_s is not None:
            call.trailing.append((b"retry-after", b"%d" % error.retry_after_s))
        call.tell()
        await call.context.abort(status_of(error), error.detail[:_LONGEST_DETAIL])

    def _count(self, call: Call, status: int, seconds: float) -> None:
        route = call.path if call.path in self._kinds else "unmatched"
        self._door.metrics.request(route, status, seconds)
        if self._door.access is not None:
            key = self._door.guard.name_of(call.headers)
            self._door.access.write(
                call.id, "POST", call.path, route=route, status=status, seconds=seconds, key=key, client=call.peer
            )


@contextmanager
def _legible(path: str) -> Iterator[None]:
    """Tell a client whose bytes are no message so."""
    try:
        yield
    except DecodeError:
        raise UnreadableBody(f"The message is none that {path} takes.") from None
