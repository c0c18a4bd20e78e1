"""Errors in the form of their path: `{"error": …}` with Triton's status codes under `/v2`, problem+json elsewhere."""

from __future__ import annotations

from typing import NamedTuple

from service.errors import Busy, InvalidInput, ServiceError
from service.wire import JSON, PROBLEM, Header, problem, told

_STATUS = {409: 400, 422: 400, 504: 503}
"""Triton knows invalid (400), not found (404), unsupported (501), unavailable (503) and internal (500)."""


class NotOffered(ServiceError):
    """An extension of the protocol that this service does not have."""

    status, title, code = 501, "Not implemented", "not_offered"


class Refusal(NamedTuple):
    """An error as it goes to the client."""

    status: int
    content_type: bytes
    body: bytes
    headers: list[Header]


def is_open_inference(path: str) -> bool:
    """Whether a path belongs to the protocol."""
    return path.startswith("/v2/") or path == "/v2"


def refusal(error: ServiceError, path: str, request_id: str) -> Refusal:
    """The error as a client of that path expects it."""
    body, headers = problem(error, request_id)
    if not is_open_inference(path):
        return Refusal(error.status, PROBLEM, body, headers)
    status = 503 if error.code == Busy.code else _STATUS.get(error.status, error.status)
    return Refusal(status, JSON, told({"error": error.detail}), headers)


def invalid(detail: str) -> InvalidInput:
    """A request that cannot be taken as it is, and why."""
    return InvalidInput(detail, code="invalid_tensor")
