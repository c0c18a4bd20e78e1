"""ASGI messages in and out for the fast routes: bodies within their limit, JSON, and the headers of an answer."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from service.bodies import Held
from service.errors import BodyTooLarge, ServiceError, UnreadableBody

JSON = b"application/json"
PROBLEM = b"application/problem+json"

Header = tuple[bytes, bytes]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some systems put before a text in UTF-8; it is no part of the JSON."""
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class ClientGone(Exception):
    """The client hung up before its request was read; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, limit: int, held: Held) -> bytes:
    """The whole body, counted in `held` while it comes.

    BodyTooLarge over `limit` bytes, before reading where the client says its length; Busy where others hold too many.
    """
    check_announced(scope, limit)
    message = await receive()
    body: bytes = _chunk(message)
    held.grow_to(min(len(body), limit))
    if not message.get("more_body", False) and len(body) <= limit:
        return body
    chunks, size = [body], len(body)
    while message.get("more_body", False) and size <= limit:
        message = await receive()
        chunks.append(_chunk(message))
        size += len(chunks[-1])
        held.grow_to(min(size, limit))
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def check_announced(scope: Scope, limit: int) -> None:
    """BodyTooLarge where the client says itself that its body is over the limit."""
    announced = (header(scope, b"content-length") or b"").lstrip(b"0")
    if announced.isdigit() and (len(announced) > 18 or int(announced) > limit):
        raise _too_large(limit)


class Bounded:
    """The messages of a request until its body is over a limit; then an error that FastAPI's reader lets through."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.inner, self._limit, self._size = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self.inner()
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise HTTPException(413, str(_too_large(self._limit)))
        return message


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    return body


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than the limit of {limit} bytes; send a smaller picture or fewer items.")


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


def id_of(given: bytes | None) -> bytes:
    """The id of a request: the client's own if it sent a sane one."""
    return given if given is not None and _SANE_ID.fullmatch(given) else b"%016x" % random.getrandbits(64)


def media_type(content_type: bytes) -> str:
    """The Content-Type without its parameters, lower case; empty when there is none."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def parse_json(body: bytes) -> Any:
    """The JSON value of a body; UnreadableBody when it is none.

    NaN, Infinity and 1e400 are no JSON numbers, but most clients write them: they are let through, so that validation
    can name their place instead of refusing the whole text.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        reason = str(exc)
    if body.startswith(_BYTE_ORDER_MARK):
        return parse_json(body[len(_BYTE_ORDER_MARK) :])
    if b"NaN" in body or b"Infinity" in body or "infinity" in reason:
        try:
            found = json.loads(body.decode(), parse_int=_number)
            if b"\\ud" in body.lower():  # half of a surrogate pair could not be sent back
                json.dumps(found, ensure_ascii=False).encode()
            return found  # noqa: TRY300
        except UnicodeEncodeError:
            reason = "an escape is half of a surrogate pair"
        except (ValueError, RecursionError) as exc:
            reason = str(exc)
    raise not_utf8(body) or UnreadableBody(f"The body is not valid JSON: {reason}.", code="unreadable_json")


def not_utf8(body: bytes) -> UnreadableBody | None:
    """What is wrong with a JSON body whose bytes are no UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        place = f"byte 0x{body[exc.start]:02x} at position {exc.start}"
        return UnreadableBody(f"The body is not UTF-8: {place}; encode the JSON as UTF-8.", code="unreadable_json")
    return None


def _number(text: str) -> int | float:
    """A whole number as orjson reads it: one beyond 64 bits becomes a float."""
    number = int(text) if len(text) <= 20 else 2**64
    return number if -(2**63) <= number < 2**64 else float(text)


def dumps(content: Any) -> bytes:
    """JSON of `content`, numpy arrays welcome."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


async def send_json(send: Send, status: int, content: Any, headers: list[Header]) -> None:
    """Send `content` as JSON."""
    await send_bytes(send, status, dumps(content), JSON, headers)


async def send_bytes(send: Send, status: int, body: bytes, content_type: bytes, headers: list[Header]) -> None:
    start = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


def problem(error: ServiceError, request_id: str) -> tuple[bytes, list[Header]]:
    """An error as an RFC 9457 body, and its extra headers."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        content["errors"] = error.errors
    headers = list(error.headers)
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return told(content), headers


def told(content: Any) -> bytes:
    """JSON of what is said about a request, which may repeat text of it that is no valid Unicode."""
    try:
        return orjson.dumps(content, default=str)
    except TypeError:
        return json.dumps(content, default=str, ensure_ascii=False).encode("utf-8", "replace")


def leaver(receive: Receive) -> Callable[[], bool]:
    """A cheap test whether the client of a request has hung up.

    uvicorn's request cycle knows it without being asked; waiting on `receive()` instead would cost each request a
    task. Under another server the answer is always no, and a deadline ends the wait.
    """
    cycle = getattr(receive.inner if isinstance(receive, Bounded) else receive, "__self__", None)
    if cycle is None or not hasattr(cycle, "disconnected"):
        return _stays
    return lambda: bool(cycle.disconnected)


def _stays() -> bool:
    return False
