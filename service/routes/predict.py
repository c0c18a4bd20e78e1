"""The table of `/predict/…` routes."""

from __future__ import annotations

from starlette.routing import Route

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


SHORT = ("/predict/digit", "/predict/sequence")
"""Paths whose small requests need no task: `service.direct`."""


def endpoints(registry: Registry, settings: Settings) -> dict[str, Endpoint]:
    """The endpoint of each path."""
    return {path: endpoint(registry, settings) for path, endpoint in ENDPOINTS.items()}


def routes(table: dict[str, Endpoint]) -> list[Route]:
    """The same for the router: it answers other methods with 405, and names the paths."""
    return [Route(path, endpoint, methods=["POST"]) for path, endpoint in table.items()]
