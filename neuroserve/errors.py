"""Every error the client raises.

ClientError
├── UsageError             the call itself cannot be right; nothing was sent
├── Unreachable            no answer: refused, reset, cut off
│   └── TimedOut           no answer in time
├── StrangeAnswer          an answer that is not the service's
└── ServiceError           the service refused; `status`, `code`, `detail`, `request_id`, `errors`, `retry_after_s`
    ├── UnreadableBody        400
    ├── Unauthorized          401
    ├── Forbidden             403
    ├── NotFound              404
    ├── RequestTimeout        408
    ├── Conflict              409
    ├── BodyTooLarge          413
    ├── UnsupportedMediaType  415
    ├── InvalidInput          422
    ├── Busy                  429
    ├── InternalError         500
    ├── Unavailable           503
    └── DeadlinePassed        504
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class ClientError(Exception):
    """Whatever keeps a call from its answer."""


class UsageError(ClientError, ValueError):
    """An argument that no service would take; nothing was sent."""


class Unreachable(ClientError):
    """The service gave no answer, after every retry that was allowed."""


class TimedOut(Unreachable):
    """The service did not answer within the timeout."""


class StrangeAnswer(ClientError):
    """Something answered, but not as the service's contract says; the address may be that of another server."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong at one place of the request, as `("body", "values", 3)`."""

    loc: tuple[str | int, ...]
    msg: str


class ServiceError(ClientError):
    """The service refused. `code` is a stable word to switch on; `detail` says what to do.

    `item` is set by the batch methods: the index of the bad item in the list they were given.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], retry_after_s: float | None = None) -> None:
        self.status = status
        self.detail = str(problem.get("detail") or problem.get("title") or f"The service answered {status}.")
        self.code = str(problem.get("code") or f"http_{status}")
        self.request_id = str(problem.get("request_id") or "")
        self.errors = tuple(
            FieldError(tuple(each.get("loc", ())), str(each.get("msg", ""))) for each in problem.get("errors") or ()
        )
        self.retry_after_s = retry_after_s
        self.item: int | None = None
        super().__init__(self.detail)

    def __str__(self) -> str:
        place = "" if self.item is None else f"item {self.item}: "
        mark = f", request {self.request_id}" if self.request_id else ""
        return f"{place}{self.detail} ({self.status} {self.code}{mark})"


class UnreadableBody(ServiceError):
    """400: the bytes are not what their media type says."""


class Unauthorized(ServiceError):
    """401: no key, or none that the service knows."""


class Forbidden(ServiceError):
    """403: the key lacks the scope that this needs."""


class NotFound(ServiceError):
    """404: no such model, version or job."""


class RequestTimeout(ServiceError):
    """408: the request took too long to arrive."""


class Conflict(ServiceError):
    """409: the thing exists but is in the wrong state."""


class BodyTooLarge(ServiceError):
    """413: more bytes than the service takes."""


class UnsupportedMediaType(ServiceError):
    """415: a kind of body that the service does not take."""


class InvalidInput(ServiceError):
    """422: well-formed but invalid; `errors` names the places."""


class Busy(ServiceError):
    """429: a queue is full or a rate limit is reached; `retry_after_s` says when to come back."""


class InternalError(ServiceError):
    """500: the service failed; its log has the reason, under `request_id`."""


class Unavailable(ServiceError):
    """503: not ready, shutting down, or its device is lost."""


class DeadlinePassed(ServiceError):
    """504: the service could not answer within its own deadline."""


_BY_STATUS: dict[int, type[ServiceError]] = {
    400: UnreadableBody,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    408: RequestTimeout,
    409: Conflict,
    413: BodyTooLarge,
    415: UnsupportedMediaType,
    422: InvalidInput,
    429: Busy,
    500: InternalError,
    503: Unavailable,
    504: DeadlinePassed,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> ServiceError:
    """The error of an answer that is not a success; a body that is no problem document is told in few words."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"The server answered {status} without a reason."}
    problem.setdefault("request_id", headers.get("x-request-id", ""))
    return _BY_STATUS.get(status, ServiceError)(status, problem, _seconds(headers.get("retry-after")))


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; the service never sends a date, and a date of another server is not understood."""
    return float(text) if text is not None and text.strip().isdigit() else None
