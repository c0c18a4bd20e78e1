"""The table of `/predict/…` routes."""

from __future__ import annotations

from starlette.routing import Route

from models.manifest import Kind
from service.decoding import DecodeQueue
from service.exchange import Direct
from service.fork import Fork
from service.registry import Registry
from service.routes.digit import Digit, DigitBatch
from service.routes.endpoint import Endpoint
from service.routes.sequence import SequenceBatch, Sequences
from service.settings import Settings

ENDPOINTS: dict[str, type[Endpoint]] = {
    "/predict/digit": Digit,
    "/predict/digit/batch": DigitBatch,
    "/predict/sequence": Sequences,
    "/predict/sequence/batch": SequenceBatch,
}


_SHORT: dict[str, tuple[Kind, ...]] = {
    "/predict/digit": ("image",),
    "/predict/digit/batch": ("image",),
    "/predict/sequence": ("text", "series"),
}
"""Paths whose small requests need no task, and the kinds of their input: `service.direct`."""


def endpoints(registry: Registry, settings: Settings, decoding: DecodeQueue) -> dict[str, Endpoint]:
    """The endpoint of each path."""
    return {path: endpoint(registry, settings, decoding) for path, endpoint in ENDPOINTS.items()}


def short(table: dict[str, Endpoint]) -> dict[bytes, Direct]:
    """Those that have a short way."""
    return {path.encode(): Fork(table[path], table[path].registry, kinds) for path, kinds in _SHORT.items()}


def routes(table: dict[str, Endpoint]) -> list[Route]:
    """The same for the router: it answers other methods with 405, and names the paths."""
    return [Route(path, endpoint, methods=["POST"]) for path, endpoint in table.items()]
