"""What every predict route shares: a body within its limit, errors in their wire form, headers that explain."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import Receive, Scope, Send

from service.answers import explaining_headers
from service.batch import Answer
from service.bodies import Held
from service.caller import Caller, arrived, never_gone
from service.decoding import DecodeQueue
from service.errors import ServiceError, UnsupportedMediaType
from service.exchange import MOST_SHORT_BYTES, Decoded, Request
from service.explain.prober import Prober
from service.middleware import answer_with
from service.passage import Passage, key_of
from service.registry import Registry
from service.settings import Settings
from service.slot import Loaded, Place
from service.warnings import found_in
from service.warnings import headers as warning_headers
from service.wire import ClientGone, header, leaver, read_body, send_json

ON_LOOP_BYTES = 65_536
"""Longer JSON and forms are read on a thread."""


class Endpoint:
    """A plain ASGI endpoint: FastAPI's own request machinery costs more than these models do.

    `service.openapi` puts these routes into `/docs`.
    """

    most_short_bytes = MOST_SHORT_BYTES

    def __init__(self, registry: Registry, settings: Settings, decoding: DecodeQueue) -> None:
        self.registry = registry
        self.settings = settings
        self.timeout_s = settings.deadline_ms / 1000
        self.decoding = decoding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.decoding.bodies.hold() as held:
            await self._serve(scope, receive, send, held)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, held: Held) -> None:
        passage: Passage | None = None
        try:
            _check_coding(scope)
            body = await read_body(scope, receive, self.settings.max_body_bytes, held)
            caller = arrived(leaver(receive), self.timeout_s)
            if self.registry.trials:
                passage = Passage(key_of(scope))
                content, answers = await passage.run(functools.partial(self.answer, scope, body, caller))
            else:
                content, answers = await self.answer(scope, body, caller)
        except ServiceError as error:
            await answer_with(error, scope, send)
        except ClientGone:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return  # the batcher gave the place of a client who had left to others
        else:
            warned = found_in(content)
            headers = [*explaining_headers(answers), *warning_headers(warned)]
            self.registry.metrics.warned(warned)
            if passage is None:
                await send_json(send, 200, content, headers)
            else:
                await send_json(send, 200, content, [*headers, *passage.headers])
                passage.afterwards(lambda: self.answer(scope, body, arrived(never_gone, self.timeout_s)))

    async def parsed(self, body: bytes, caller: Caller, parse: Callable[[bytes], Any]) -> Any:
        """The JSON of a body; a long one is parsed on a thread."""
        return parse(body) if len(body) <= ON_LOOP_BYTES else await self.decoding.run(len(body), caller, parse, body)

    def prober(self, slot: Place, loaded: Loaded, caller: Caller) -> Prober:
        """What explains this request's answers; made before they are asked for, as one deadline covers both."""
        return Prober(slot.batcher, loaded, deadline=caller.deadline, gone=caller.gone)

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        """The short way: each request decoded, or what is wrong with it, or None where it needs the event loop."""
        raise NotImplementedError

    async def answer(self, scope: Scope, body: bytes, caller: Caller) -> tuple[Any, Sequence[Answer]]:
        """The JSON content of the answer and the batches it came from."""
        raise NotImplementedError


def _check_coding(scope: Scope) -> None:
    coding = header(scope, b"content-encoding")
    if coding not in {None, b"identity"}:
        raise UnsupportedMediaType(
            "Content-Encoding is not taken here; send the body as it is.", code="content_encoding"
        )
