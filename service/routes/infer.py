"""`POST /v2/models/…/infer`: rows of tensors into the same queue as `/predict`'s."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.manifest import Kind
from service.answers import explaining_headers
from service.batch import Answer
from service.bodies import Held
from service.caller import Caller, arrived, never_gone
from service.decoding import DecodeQueue
from service.errors import ServiceError, attempt
from service.exchange import Body, Decoded, Direct, Ready, Request
from service.metrics import Metrics
from service.middleware import answer_with
from service.oip import compression
from service.oip.door import Door, Framing, framing, version_of
from service.passage import Passage, key_of
from service.registry import Registry
from service.routes.endpoint import Endpoint
from service.settings import Settings
from service.slot import Loaded, Place, Slot
from service.wire import ClientGone, leaver, read_body, send_bytes

_ON_LOOP_BYTES = 65_536
"""Larger bodies of JSON are read on a thread, and so are packed ones that may grow as large."""
_MOST_SHORT_BYTES = 262_144
"""Tensors in their binary form are taken as they are, however large; this is 256 pictures."""
_PATH, _SHORT_BEFORE, _SHORT_AFTER = "/v2/models/{name}", "/v2/models/", "/infer"


class _Asked(NamedTuple):
    """A request that was read: for which model and version, its kind, its body unpacked."""

    name: str
    version: int | None
    kind: Kind
    frame: Framing
    body: bytes

    @property
    def json_bytes(self) -> int:
        return self.frame.json_bytes(self.body)


class Infer(Endpoint):
    """Infer requests for any model and version."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, decoding: DecodeQueue) -> None:
        super().__init__(registry, settings, decoding)
        self.door = Door(registry, settings, metrics)
        self._of_models: dict[str, ModelInfer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = scope["path_params"]
        await self.serve(named["name"], named.get("version"), scope, receive, send)

    async def serve(self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a model, and for the version that its path names, if it names one."""
        with self.decoding.bodies.hold() as held:
            await self._serve_named(name, version, scope, receive, send, held)

    async def _serve_named(
        self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send, held: Held
    ) -> None:
        started, loaded = perf_counter(), None
        passage: Passage | None = None
        try:
            number = version_of(version, name)
            loaded = await (await self.registry.slot(name)).get(number)
            frame = framing(scope["headers"])
            body = await read_body(scope, receive, self.settings.max_body_bytes, held)
            caller = arrived(leaver(receive), self.timeout_s)
            body = await self._unpacked(frame, body, held, caller)
            asked = _Asked(name, number, loaded.manifest.kind, frame, body)
            told = functools.partial(self._told, asked, caller)
            if number is None and name in self.registry.trials:
                passage = Passage(key_of(scope))
                answer, answers = await passage.run(told)
            else:
                answer, answers = await told()
        except ServiceError as error:
            if loaded is not None:
                self.door.count(loaded, error, perf_counter() - started)
            await answer_with(error, scope, send)
        except ClientGone:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if loaded is None or (task is not None and task.cancelling()):
                raise
            self.door.count(loaded, None, perf_counter() - started)  # its place went to others
        else:
            self.registry.metrics.warned(answer.warned)
            headers = [*explaining_headers(answers), *answer.headers, *(passage.headers if passage is not None else ())]
            await send_bytes(send, 200, answer.content, answer.content_type, headers)
            if passage is not None:
                passage.afterwards(lambda: self._told(asked, arrived(never_gone, self.timeout_s)))

    def of_model(self, path: str) -> ModelInfer | None:
        """The endpoint of a path that names a model which is open here, and no version."""
        if not (path.startswith(_SHORT_BEFORE) and path.endswith(_SHORT_AFTER)):
            return None
        name = path[len(_SHORT_BEFORE) : -len(_SHORT_AFTER)]
        found = self._of_models.get(name)
        if found is None and self.registry.loaded(name) is not None:
            found = self._of_models[name] = ModelInfer(self, name)
        return found

    async def _unpacked(self, frame: Framing, body: bytes, held: Held, caller: Caller) -> bytes:
        if frame.packed is None:
            return body
        limit = self.settings.max_body_bytes
        with self.decoding.admit(min(limit, compression.MOST_RATIO * len(body)), caller) as admission:
            unpacked = await admission.run(compression.unpack, body, frame.packed, limit)
        held.grow_to(len(body) + len(unpacked))
        return unpacked

    async def _told(self, asked: _Asked, caller: Caller) -> tuple[Body, Sequence[Answer]]:
        """The response, and the answers in it."""
        place, loaded = await self._place(asked)
        check = functools.partial(self.door.query, loaded, asked.body, asked.frame.json_length)
        if asked.json_bytes <= _ON_LOOP_BYTES:
            query = check(place.batcher.most_rows)
        else:
            query = await self.decoding.run(asked.json_bytes, caller, check, place.batcher.most_rows)
            place, now = await self._place(asked)
            if now is not loaded:  # it was swapped out meanwhile, and may be closed
                loaded = now
                query = self.door.query(now, asked.body, asked.frame.json_length, place.batcher.most_rows)
        timeout_s = min(self.door.timeout_s(query), caller.left_s())
        futures = place.batcher.submit(loaded.engine, query.parts, timeout_s=timeout_s, gone=caller.gone)
        answers = [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)
        return self.door.reply(loaded, query, asked.frame.takes, answers), answers

    async def _place(self, asked: _Asked) -> tuple[Place, Loaded]:
        return await self.registry.model(asked.kind, asked.name, asked.version)


class ModelInfer:
    """The same for the live version of one model that is open: it has a short way for small requests."""

    most_short_bytes = _MOST_SHORT_BYTES

    def __init__(self, infer: Infer, name: str) -> None:
        self.timeout_s = infer.timeout_s
        self._infer = infer
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._infer.serve(self._name, None, scope, receive, send)

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        slot = self._infer.registry.loaded(self._name)
        if slot is None or slot.live is None or slot.fault is not None or self._name in self._infer.registry.trials:
            return [None] * len(requests)
        return [attempt(self._ready, slot, slot.live, request) for request in requests]

    def _ready(self, slot: Slot, loaded: Loaded, asked: Request) -> Ready | None:
        """A request for one batch; None for others, for packed ones and for those with much JSON."""
        door = self._infer.door
        frame = framing(asked.headers)
        if frame.packed is not None or frame.json_bytes(asked.body) > _ON_LOOP_BYTES:
            return None
        query = door.query(loaded, asked.body, frame.json_length, slot.batcher.most_rows)
        if len(query.parts) > 1:
            return None
        render: functools.partial[Body] = door.renderer(loaded, query, frame.takes)
        missed = functools.partial(door.count, loaded)
        return Ready(slot.batcher, loaded.engine, query.parts[0], render, door.timeout_s(query), missed)


class Fast(Mapping[str, ASGIApp]):
    """Paths whose endpoint needs no router: the fixed ones, and those of the models that are open."""

    def __init__(self, fixed: Mapping[str, Endpoint], infer: Infer) -> None:
        self._fixed = fixed
        self._infer = infer

    def __getitem__(self, path: str) -> ASGIApp:
        found = self._fixed.get(path) or self._infer.of_model(path)
        if found is None:
            raise KeyError(path)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._fixed)

    def __len__(self) -> int:
        return len(self._fixed)


class Short(Mapping[bytes, Direct]):
    """The same, of those that have a short way."""

    def __init__(self, fixed: Mapping[bytes, Direct], infer: Infer) -> None:
        self._fixed = fixed
        self._infer = infer

    def __getitem__(self, url: bytes) -> Direct:
        found = self._fixed.get(url) or self._infer.of_model(url.decode("latin-1"))
        if found is None:
            raise KeyError(url)
        return found

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._fixed)

    def __len__(self) -> int:
        return len(self._fixed)


def routes(infer: Infer) -> list[Route]:
    """The routes of the protocol's infer requests."""
    return [Route(f"{path}/infer", infer, methods=["POST"]) for path in (_PATH, f"{_PATH}/versions/{{version}}")]
