"""`POST /v2/models/…/infer`: rows of tensors into the same queue as `/predict`'s."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answers import explaining_headers
from service.batch import Answer
from service.errors import ServiceError, attempt
from service.exchange import Body, Decoded, Direct, Ready, Request
from service.metrics import Metrics
from service.middleware import answer_with
from service.oip import compression
from service.oip.contract import Query
from service.oip.door import Door, Framing, framing, version_of
from service.registry import Registry
from service.routes.endpoint import Endpoint
from service.settings import Settings
from service.slot import Loaded, Slot
from service.wire import ClientGone, leaver, read_body, send_bytes

_ON_LOOP_BYTES = 65_536
"""Larger bodies of JSON are read on a thread, and so are packed ones that may grow as large."""
_PATH, _SHORT_BEFORE, _SHORT_AFTER = "/v2/models/{name}", "/v2/models/", "/infer"


class Infer(Endpoint):
    """Infer requests for any model and version."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        super().__init__(registry, settings)
        self.door = Door(registry, settings, metrics)
        self._of_models: dict[str, ModelInfer] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = scope["path_params"]
        await self.serve(named["name"], named.get("version"), scope, receive, send)

    async def serve(self, name: str, version: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a model, and for the version that its path names, if it names one."""
        started, loaded = perf_counter(), None
        try:
            slot = await self.registry.slot(name)
            loaded = await slot.get(version_of(version, name))
            frame = framing(scope["headers"])
            query = await self._query(slot, loaded, frame, scope, receive)
            answers = await self._answers(slot, loaded, query, receive)
            body = self.door.reply(loaded, query, frame.takes, answers)
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
            headers = [*explaining_headers(answers), *body.headers]
            await send_bytes(send, 200, body.content, body.content_type, headers)

    def of_model(self, path: str) -> ModelInfer | None:
        """The endpoint of a path that names a model which is open here, and no version."""
        if not (path.startswith(_SHORT_BEFORE) and path.endswith(_SHORT_AFTER)):
            return None
        name = path[len(_SHORT_BEFORE) : -len(_SHORT_AFTER)]
        found = self._of_models.get(name)
        if found is None and self.registry.loaded(name) is not None:
            found = self._of_models[name] = ModelInfer(self, name)
        return found

    async def _query(self, slot: Slot, loaded: Loaded, frame: Framing, scope: Scope, receive: Receive) -> Query:
        limit = self.settings.max_body_bytes
        body = await read_body(scope, receive, limit)
        if frame.packed is not None:
            body = await self.off_loop(compression.unpack, body, frame.packed, limit)
        check = functools.partial(self.door.query, slot, loaded, body, frame.json_length)
        said = frame.json_length
        json_bytes = int(said) if said is not None and said.isdigit() and len(said) < 10 else len(body)
        return check() if json_bytes <= _ON_LOOP_BYTES else await self.off_loop(check)

    async def _answers(self, slot: Slot, loaded: Loaded, query: Query, receive: Receive) -> Sequence[Answer]:
        timeout_s, gone = self.door.timeout_s(query), leaver(receive)
        futures = slot.batcher.submit(loaded.engine, query.parts, timeout_s=timeout_s, gone=gone)
        return [await futures[0]] if len(futures) == 1 else await asyncio.gather(*futures)


class ModelInfer:
    """The same for the live version of one model that is open: it has a short way for small requests."""

    most_short_bytes = _ON_LOOP_BYTES

    def __init__(self, infer: Infer, name: str) -> None:
        self.timeout_s = infer.timeout_s
        self._infer = infer
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._infer.serve(self._name, None, scope, receive, send)

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        slot = self._infer.registry.loaded(self._name)
        if slot is None or slot.live is None or slot.fault is not None:
            return [None] * len(requests)
        return [attempt(self._ready, slot, slot.live, request) for request in requests]

    def _ready(self, slot: Slot, loaded: Loaded, asked: Request) -> Ready | None:
        """A request for one batch; None for others, and for packed ones."""
        door = self._infer.door
        frame = framing(asked.headers)
        if frame.packed is not None:
            return None
        query = door.query(slot, loaded, asked.body, frame.json_length)
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
