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


def routes(registry: Registry, settings: Settings) -> list[Route]:
    return [Route(path, endpoint(registry, settings), methods=["POST"]) for path, endpoint in ENDPOINTS.items()]
