"""`multipart/form-data` bodies that are in memory already: the files of one field, without temporary files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidInput, UnreadableBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 1024
_PLAIN_HEAD = re.compile(
    rb'\r\nContent-Disposition: form-data; name="([^"\\\r\n]*)"(?:; filename="[^"\\\r\n]*")?'
    rb"(?:\r\nContent-Type: [^\r\n]*)?(?:\r\nContent-Length: [0-9]+)?",
    re.IGNORECASE,
)


def files(body: bytes, content_type: bytes, field: str) -> list[bytes]:
    """The contents of every part named `field`, in order.

    UnreadableBody when the body is no multipart body, InvalidInput when a part has another name or there is none.
    """
    collector = _Collector()
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise UnreadableBody("The Content-Type has no boundary; let your HTTP client make it.", code="unreadable_form")
    plain = _plain_files(body, boundary, field)
    if plain is not None:
        return plain
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise UnreadableBody(f"The multipart body cannot be read: {exc}.", code="unreadable_form") from None
    if not collector.complete:
        raise UnreadableBody("The multipart body ends before its last boundary.", code="unreadable_form")
    strange = next((name for name, _ in collector.parts if name != field), None)
    if strange is not None:
        raise InvalidInput(
            f"The form field {strange!r} is not known here; send pictures as {field!r}.",
            errors=[(("body", strange), "unknown field")],
        )
    if not collector.parts:
        raise InvalidInput(f"The form has no field {field!r}.", errors=[(("body", field), "missing")])
    return [bytes(content) for _, content in collector.parts]


def _plain_files(body: bytes, boundary: bytes, field: str) -> list[bytes] | None:
    """The same by splitting, for the form that nearly every client makes; None for any other, right or wrong."""
    mark = b"\r\n--" + boundary
    whole = b"\r\n" + body
    parts = whole.split(mark)
    if parts[0] or parts.pop() not in {b"--\r\n", b"--"} or not 2 <= len(parts) <= _MAX_PARTS:
        return None
    found = []
    for part in parts[1:]:
        head, gap, content = part.partition(b"\r\n\r\n")
        named = _PLAIN_HEAD.fullmatch(head)
        if not gap or named is None or named[1] != field.encode():
            return None
        found.append(content)
    return found


class _Collector:
    """Gathers the parts that the parser reports."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytearray]] = []
        self.complete = False
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise InvalidInput(f"The form has more than {_MAX_PARTS} parts.", code="too_many_items")
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self.parts.append((options.get(b"name", b"").decode("utf-8", "replace"), bytearray()))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1][1].extend(data[start:end])

    def _end(self) -> None:
        self.complete = True
