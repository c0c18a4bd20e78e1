"""Infer messages into the same queue as all other requests, and the answers back."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, NamedTuple, ParamSpec, TypeVar

from models.manifest import Kind
from service.answers import explaining_headers
from service.batch import Answer
from service.caller import arrived, never_gone
from service.decoding import DecodeQueue
from service.errors import ServiceError
from service.metrics import Metrics
from service.oip.contract import MostRows, Query
from service.oip.door import Door, version_of
from service.oip.request import Asked
from service.oip.rpc import conversion
from service.passage import Passage
from service.registry import Registry
from service.settings import Settings
from service.slot import Loaded, Place
from service.warnings import Warned
from service.warnings import headers as warning_headers
from service.wire import Header

P = ParamSpec("P")
R = TypeVar("R")

_ON_LOOP_BYTES = 262_144
"""Larger messages are read on a thread: this is 256 pictures, raw."""
_ON_LOOP_TYPED_BYTES = 65_536
"""The same for those whose values must be looked at one by one."""


class Caller(NamedTuple):
    """Who asks: the key of a canary's side, and the seconds until the call's own deadline, None where it has none."""

    key: bytes
    time_remaining: Callable[[], float | None]


class _Request(NamedTuple):
    """A request that was read: for which model and version, its kind, its raw tensors."""

    name: str
    version: int | None
    kind: Kind
    asked: Asked
    raw: bytes
    is_long: bool


class _Response(NamedTuple):
    """A ModelInferResponse, and the warnings in it."""

    message: Any
    warned: Sequence[Warned]


class Inference:
    """Infer requests for any model and version."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, decoding: DecodeQueue) -> None:
        self.decoding = decoding
        self._registry = registry
        self._door = Door(registry, settings, metrics)
        self._timeout_s = settings.deadline_ms / 1000

    async def read(self, body: bytes) -> Any:
        """The ModelInferRequest of these bytes. InvalidInput, google.protobuf's DecodeError."""
        if len(body) <= _ON_LOOP_BYTES:
            return conversion.parsed(body)
        return await self.off_loop(len(body), conversion.parsed, body)

    async def answer(self, message: Any, caller: Caller) -> tuple[Any, list[Header]]:
        """The ModelInferResponse to a ModelInferRequest, and the headers that explain it. Raises ServiceError."""
        started, loaded = perf_counter(), None
        name: str = message.model_name
        try:
            version = version_of(message.model_version or None, name)
            loaded = await (await self._registry.slot(name)).get(version)
            is_long = message.ByteSize() > (_ON_LOOP_BYTES if message.raw_input_contents else _ON_LOOP_TYPED_BYTES)
            convert = functools.partial(conversion.asked, message)
            asked, raw = await self.off_loop(message.ByteSize(), convert) if is_long else convert()
            request = _Request(name, version, loaded.manifest.kind, asked, raw, is_long)
            return await self._passed(request, caller)
        except ServiceError as error:
            if loaded is not None:
                self._door.count(loaded, error, perf_counter() - started)
            raise
        except asyncio.CancelledError:
            if loaded is not None:
                self._door.count(loaded, None, perf_counter() - started)
            raise

    async def off_loop(self, length: int, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a call on so many bytes, that would hold the event loop too long. Busy, DeadlinePassed.

        gRPC cancels the task of a caller who leaves; what has not been begun then is not.
        """
        return await self.decoding.run(length, arrived(never_gone, self._timeout_s), call, *args, **kwargs)

    async def _passed(self, request: _Request, caller: Caller) -> tuple[Any, list[Header]]:
        """The answer, by way of the canary where one runs."""
        told = functools.partial(self._told, request, caller.time_remaining)
        if request.version is not None or request.name not in self._registry.trials:
            response, answers = await told()
            return response.message, [*explaining_headers(answers), *self._count_warnings(response.warned)]
        passage = Passage(caller.key)
        response, answers = await passage.run(told)
        again = functools.partial(self._told, request, _for_ever)
        asyncio.get_running_loop().call_soon(passage.afterwards, again)
        warnings = self._count_warnings(response.warned)
        return response.message, [*explaining_headers(answers), *warnings, *passage.headers]

    def _count_warnings(self, warned: Sequence[Warned]) -> list[Header]:
        """Count the warnings of an answer; the header that names them."""
        self._registry.metrics.warned(warned)
        return warning_headers(warned)

    async def _told(
        self, request: _Request, time_remaining: Callable[[], float | None]
    ) -> tuple[_Response, Sequence[Answer]]:
        """The response, and the answers in it."""
        place, loaded = await self._place(request)
        if request.is_long:
            length = len(request.raw) or _ON_LOOP_BYTES
            query = await self.off_loop(length, self._query, loaded, request, place.batcher.most_rows)
            place, now = await self._place(request)
            if now is not loaded:  # it was swapped out meanwhile, and may be closed
                loaded = now
                query = self._query(now, request, place.batcher.most_rows)
        else:
            query = self._query(loaded, request, place.batcher.most_rows)
        timeout_s, remaining = self._door.timeout_s(query), time_remaining()
        if remaining is not None:
            timeout_s = min(timeout_s, remaining)
        futures = place.batcher.submit(loaded.engine, query.parts, timeout_s=timeout_s)
        answers = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        codes = self._door.codes(loaded, query, answers)
        message = conversion.response(loaded.manifest, query, answers, codes)
        return _Response(message, self._door.warned(loaded, codes)), answers

    def _query(self, loaded: Loaded, request: _Request, most_rows: MostRows) -> Query:
        return self._door.contract(loaded).check(request.asked, request.raw, 0, most_rows)

    async def _place(self, request: _Request) -> tuple[Place, Loaded]:
        return await self._registry.model(request.kind, request.name, request.version)


def _for_ever() -> None:
    """For what is done for nobody: no deadline of theirs."""
