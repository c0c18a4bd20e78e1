"""What the service answers beside infer requests: who it is, what it has, whether it is ready, what it has done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.json_format import ParseDict

from service.errors import NotFound, Unavailable
from service.metrics import Metrics
from service.oip import views
from service.oip.door import version_of
from service.oip.rpc.messages import HEALTH, INFERENCE, methods
from service.oip.statistics import of_all, of_model
from service.registry import Registry
from service.settings import Settings

View = Callable[[Any], Awaitable[dict[str, Any]]]


class Views:
    """Each answers a message with the content of another."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, version: str) -> None:
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._version = version

    async def server_live(self, _: Any) -> dict[str, Any]:
        return {"live": True}

    async def server_ready(self, _: Any) -> dict[str, Any]:
        return {"ready": not self._registry.problems()}

    async def model_ready(self, asked: Any) -> dict[str, Any]:
        """Whether it can answer; it is loaded for that if it was not. What is not there is not ready."""
        try:
            slot = await self._registry.slot(asked.name)
            await slot.get(_version(asked))
        except (NotFound, Unavailable):
            return {"ready": False}
        return {"ready": True}

    async def server_metadata(self, _: Any) -> dict[str, Any]:
        told = views.server(self._version)
        return {**told, "extensions": [each for each in told["extensions"] if each != "binary_tensor_data"]}

    async def model_metadata(self, asked: Any) -> dict[str, Any]:
        return views.metadata(*await views.manifest_of(self._registry, asked.name, _version(asked)))

    async def model_config(self, asked: Any) -> dict[str, Any]:
        of = self._settings
        manifest, _ = await views.manifest_of(self._registry, asked.name, _version(asked))
        return {"config": views.config(manifest, of.max_batch_items, of.max_batch_rows, of.max_wait_ms)}

    async def model_statistics(self, asked: Any) -> dict[str, Any]:
        if not asked.name:
            return of_all(self._metrics.totals())
        version = _version(asked)
        manifest, versions = await views.manifest_of(self._registry, asked.name, version)
        return of_model(self._metrics.totals(), manifest, versions if version is None else [])

    async def repository_index(self, asked: Any) -> dict[str, Any]:
        return {"models": await views.index(self._registry, only_ready=asked.ready)}

    async def health(self, asked: Any) -> dict[str, Any]:
        """gRPC's own check, of the whole server and of its one service."""
        if asked.service not in {"", INFERENCE}:
            raise NotFound(f"There is no service {asked.service[:256]!r}; there is {INFERENCE}.")
        return {"status": "NOT_SERVING" if self._registry.problems() else "SERVING"}

    def all(self) -> dict[str, View]:
        """The view of every method that is answered by one, by its path."""
        named = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
        }
        return {f"/{INFERENCE}/{name}": view for name, view in named.items()} | {f"/{HEALTH}/Check": self.health}


def told(content: dict[str, Any], kind: Any) -> bytes:
    """The message of that class with this content."""
    found: bytes = ParseDict(content, kind()).SerializeToString()
    return found


def kinds() -> dict[str, tuple[Any, Any]]:
    """The classes of request and answer of every method, by its path."""
    return {f"/{of}/{name}": pair for of in (INFERENCE, HEALTH) for name, pair in methods(of).items()}


def _version(asked: Any) -> int | None:
    return version_of(asked.version or None, asked.name[:256])
