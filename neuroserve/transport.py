"""What both clients do with httpx: where the service is, the key, and httpx's errors as ours."""

from __future__ import annotations

import importlib.util
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
from neuroserve.proxies import proxy_for, shown
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


def sync_client(url: str | None, api_key: str | None, timeout_s: float, concurrency: int) -> Any:
    """httpx's client for this service; UsageError for an address, a key or a proxy that cannot be."""
    httpx = load()
    base = _base(url)
    with _made(base):
        transport = httpx.HTTPTransport(**_wire(httpx, base, concurrency))
        return httpx.Client(transport=transport, **_options(httpx, base, api_key, timeout_s))


def async_client(url: str | None, api_key: str | None, timeout_s: float, concurrency: int) -> Any:
    """The same, asynchronous."""
    httpx = load()
    base = _base(url)
    with _made(base):
        transport = httpx.AsyncHTTPTransport(**_wire(httpx, base, concurrency))
        return httpx.AsyncClient(transport=transport, **_options(httpx, base, api_key, timeout_s))


@contextmanager
def _made(base: str) -> Iterator[None]:
    """The errors of making a client as ours."""
    with translated(base):
        try:
            yield
        except OSError as exc:  # SSL_CERT_FILE and SSL_CERT_DIR are read
            raise UsageError(f"The certificates that {base} is checked by cannot be read: {_why(exc)}.") from exc


def _base(url: str | None) -> str:
    base = url or os.environ.get(URL) or HERE
    if not base.startswith(("http://", "https://")):
        raise UsageError(f"The address must begin with http:// or https://, and is {base!r}.")
    return base


def _options(httpx: Any, base: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    key = api_key or os.environ.get(KEY)
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError("An API key has printable ASCII characters only.")
    return {
        "base_url": base,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
    }


def _wire(httpx: Any, base: str, concurrency: int) -> dict[str, Any]:
    """The arguments of a transport; with one of its own a client reads no proxy variables itself."""
    try:
        proxy = proxy_for(base)
    except ValueError as exc:
        raise UsageError(f"{base} is not an address: {exc}.") from None
    if proxy is not None:
        _check(httpx, proxy)
    limits = httpx.Limits(max_connections=concurrency + 4, max_keepalive_connections=concurrency)
    return {"limits": limits, "proxy": proxy}


def _check(httpx: Any, proxy: str) -> None:
    """UsageError for a proxy that cannot be used."""
    way_out = "or name the service's host in NO_PROXY"
    try:
        scheme = httpx.Proxy(proxy).url.scheme
    except (httpx.InvalidURL, ValueError) as exc:
        raise UsageError(
            f"The proxy {shown(proxy)} of the environment cannot be used: {exc}. Mend HTTP_PROXY, HTTPS_PROXY or "
            f"ALL_PROXY, {way_out}."
        ) from None
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UsageError(
            f"The proxy {shown(proxy)} of the environment needs one more package: pip install 'httpx[socks]', "
            f"{way_out}."
        )


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
