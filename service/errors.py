"""Every error a client can see, and its one wire form (RFC 9457 problem+json).

ServiceError
├── UnreadableBody        400
├── Unauthorized          401, WWW-Authenticate
├── Forbidden             403
├── NotFound              404
├── RequestTimeout        408
├── Conflict              409
├── BodyTooLarge          413
├── UnsupportedMediaType  415
├── InvalidInput          422
├── Busy                  429, Retry-After
├── HeadTooLarge          431
├── InternalError         500
├── Unavailable           503, Retry-After
└── DeadlinePassed        504

A class fixes the status; `code` is the stable word a client may switch on; `detail` says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

Location = Sequence[str | int]
P = ParamSpec("P")
R = TypeVar("R")


class ServiceError(Exception):
    """An error with a status and a code; `errors` lists (location, message) of bad fields."""

    status = 500
    title = "Internal error"
    code = "internal_error"
    retry_after_s: int | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        errors: Sequence[tuple[Location, str]] = (),
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s
        self.errors = [{"loc": list(loc), "msg": msg} for loc, msg in errors]


class UnreadableBody(ServiceError):
    """The bytes are not what their media type says."""

    status, title, code = 400, "Unreadable body", "unreadable_body"


class Unauthorized(ServiceError):
    """No key, or none that is known."""

    status, title, code = 401, "Unauthorized", "unauthorized"
    headers = ((b"www-authenticate", b'Bearer realm="neuroserve"'),)


class Forbidden(ServiceError):
    """A known key without the scope this needs."""

    status, title, code = 403, "Forbidden", "forbidden"


class NotFound(ServiceError):
    """No such model, version, job, task or page."""

    status, title, code = 404, "Not found", "not_found"


class RequestTimeout(ServiceError):
    """The client took too long to send its request."""

    status, title, code = 408, "Request timeout", "request_timeout"


class Conflict(ServiceError):
    """The thing exists but is in the wrong state for this request."""

    status, title, code = 409, "Wrong state", "conflict"


class BodyTooLarge(ServiceError):
    """More bytes than the limit."""

    status, title, code = 413, "Body too large", "body_too_large"


class UnsupportedMediaType(ServiceError):
    """A Content-Type this route does not take."""

    status, title, code = 415, "Unsupported media type", "unsupported_media_type"


class InvalidInput(ServiceError):
    """Well-formed but invalid; `errors` names the places."""

    status, title, code = 422, "Invalid input", "invalid_input"


class Busy(ServiceError):
    """A queue is full; the client should come back."""

    status, title, code, retry_after_s = 429, "Too many requests", "queue_full", 1


class HeadTooLarge(ServiceError):
    """More header bytes than the limit."""

    status, title, code = 431, "Request header fields too large", "head_too_large"


class InternalError(ServiceError):
    """Our fault; the log has the rest."""

    def __init__(self, detail: str = "Something failed on our side; the log has the reason.") -> None:
        super().__init__(detail)


class Unavailable(ServiceError):
    """Not ready, shutting down, or the device is lost."""

    status, title, code, retry_after_s = 503, "Service unavailable", "unavailable", 1

    @classmethod
    def store(cls, cause: Exception, root: Path, code: str = "store_unavailable") -> Unavailable:
        """What the model store at `root` does not allow now, told without saying where the store lies."""
        said = str(cause).replace(f"{root}/", "").replace(str(root), "the model store")
        return cls(f"{said}.", code=code)


class DeadlinePassed(ServiceError):
    """The request's deadline passed before its answer was ready."""

    status, title, code = 504, "Deadline passed", "deadline_passed"


def attempt(call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | ServiceError:
    """The result of a call, or what it refused: for one of many whose errors are not those of the others."""
    try:
        return call(*args, **kwargs)
    except ServiceError as error:
        return error
