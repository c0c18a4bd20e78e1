"""What both clients do with httpx: where the service is, the key, and httpx's errors as ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from neuroserve.calls import Call, Part
from neuroserve.errors import (
    ClientError,
    FieldError,
    ServiceError,
    StrangeAnswer,
    TimedOut,
    Unreachable,
    UsageError,
    refusal,
)
from neuroserve.retries import Unsent

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
URL, KEY = "NEUROSERVE_URL", "NEUROSERVE_API_KEY"
HERE = "http://127.0.0.1:8000"
CONNECT_S = 5.0


def load() -> Any:
    """The module httpx; UsageError says what to install."""
    try:
        import httpx
    except ImportError:
        raise UsageError("The client needs httpx: pip install 'neuroserve[client]'") from None
    return httpx


def options(url: str | None, api_key: str | None, timeout_s: float, concurrency: int) -> dict[str, Any]:
    """The keyword arguments of httpx's clients; UsageError for an address or key that cannot be."""
    httpx = load()
    base = url or os.environ.get(URL) or HERE
    if not base.startswith(("http://", "https://")):
        raise UsageError(f"The address must begin with http:// or https://, and is {base!r}.")
    key = api_key or os.environ.get(KEY)
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError("An API key has printable ASCII characters only.")
    return {
        "base_url": base,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
        "limits": httpx.Limits(max_connections=concurrency + 4, max_keepalive_connections=concurrency),
    }


def arguments(call: Call[Any]) -> dict[str, Any]:
    """The keyword arguments of `request`."""
    return {
        "method": call.method,
        "url": call.path,
        "content": call.content,
        "headers": call.headers,
        "params": call.params,
    }


def answer(call: Call[T], response: httpx.Response) -> T:
    """What a response says; ServiceError when it is a refusal, StrangeAnswer when it is none of the service's."""
    check(response.status_code, response.headers, response.content)
    try:
        data = json.loads(response.content)
    except ValueError:
        raise StrangeAnswer(f"{call.path} gave no JSON; is this a neuroserve service?") from None
    return call.read(data)


def check(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise what a status that is no success means."""
    if 300 <= status < 400:
        raise StrangeAnswer(f"The address leads elsewhere ({status}): give {headers.get('location')!r} as the URL.")
    if not 200 <= status < 300:
        raise refusal(status, headers, body)


@contextmanager
def translated(base: object) -> Iterator[None]:
    """httpx's errors as ours."""
    httpx = load()
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
        raise Unsent(f"No service answers at {base}: {_why(exc)}.") from exc
    except httpx.TimeoutException as exc:
        raise TimedOut(f"{base} did not answer in time.") from exc
    except httpx.TransportError as exc:
        raise Unreachable(f"The connection to {base} was lost: {_why(exc)}.") from exc
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise UsageError(f"{base} is not an address: {exc}.") from exc


def located(error: ClientError, part: Part[Any]) -> ClientError:
    """The error of one request of a batch, its places those of the list that was given."""
    if not isinstance(error, ServiceError):
        return error
    moved = []
    for each in error.errors:
        loc = list(each.loc)
        if len(loc) > 2 and isinstance(loc[2], int) and 0 <= loc[2] < len(part.places):
            loc[2] = part.places[loc[2]]
            error.item = loc[2] if error.item is None else error.item
        moved.append(FieldError(tuple(loc), each.msg))
    error.errors = tuple(moved)
    return error


def _why(exc: Exception) -> str:
    return str(exc).rstrip(".") or type(exc).__name__
