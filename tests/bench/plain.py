"""What the fast path is worth: the service's own codec and batcher behind a plain ASGI endpoint under uvicorn.

Nothing else of the service is there: no fast path, no routes, no checks of hosts or keys, no metrics, no ids.
"""

from types import SimpleNamespace

from models.store import Store
from service.answers import explaining_headers
from service.batcher import Batcher
from service.device import choose
from service.errors import ServiceError
from service.exchange import Body, Request
from service.routes.digit import Digit
from service.settings import ZOO, Settings
from service.slot import load_version
from service.wire import dumps, header
from service.workers import threads_for

MODEL = "digit-cnn"


class Plain:
    """An ASGI application that answers every POST with the digit in its body."""

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, headers, content = await self._answer(header(scope, b"content-type") or b"", bytes(body))
        length = (b"content-length", str(len(content)).encode())
        kind = (b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": status, "headers": [*headers, kind, length]})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, content_type, body):
        (found,) = self._endpoint.at_once([Request(content_type, body)])
        if found is None or isinstance(found, ServiceError):
            return 422, [], dumps({"detail": str(found)})
        try:
            (future,) = found.batcher.submit(found.engine, [found.part], timeout_s=self._endpoint.timeout_s)
            answer = await future
        except ServiceError as error:
            return error.status, [], dumps({"detail": error.detail})
        rendered = found.render(answer)
        content = rendered.content if isinstance(rendered, Body) else rendered
        return 200, explaining_headers([answer]), content

    async def _live(self, receive, send):
        """Load the model, say so, and close it at the end."""
        await receive()
        settings, store = Settings(), Store(ZOO)
        loaded = load_version(store, MODEL, store.live(MODEL), choose("cpu", threads_for(settings)))
        batcher = Batcher(
            MODEL,
            max_queue_rows=settings.max_queue_rows,
            max_batch_rows=settings.max_batch_rows,
            max_wait_ms=settings.max_wait_ms,
        )
        registry = SimpleNamespace(at_once=lambda kind: (SimpleNamespace(batcher=batcher), loaded))
        self._endpoint = Digit(registry, settings, None)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await batcher.close()
        loaded.engine.close()
        await send({"type": "lifespan.shutdown.complete"})


app = Plain()
