"""gzip and deflate bodies, both ways; what comes in is bounded after it is unpacked."""

from __future__ import annotations

import zlib

from service.errors import BodyTooLarge, UnreadableBody, UnsupportedMediaType

MOST_RATIO = 1032
"""How much longer than its packed form a body can be."""
_GZIP_OR_ZLIB, _GZIP, _ZLIB = 32 + zlib.MAX_WBITS, 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
_WORTH_BYTES = 512
"""Smaller answers are not packed: it costs more than it saves."""


def unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body as it was before its Content-Encoding; never more than `limit` bytes of it are unpacked.

    Raises UnsupportedMediaType for another encoding, UnreadableBody, BodyTooLarge.
    """
    if encoding.strip().lower() not in {b"gzip", b"x-gzip", b"deflate"}:
        shown = encoding[:40].decode("latin-1")
        refused = UnsupportedMediaType(f"Content-Encoding {shown!r} is not taken here; send gzip, deflate or none.")
        refused.headers = ((b"accept-encoding", b"gzip, deflate"),)
        raise refused
    engine = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        found = engine.decompress(body, limit + 1)
    except zlib.error as exc:
        raise UnreadableBody("The body is not what its Content-Encoding says.") from exc
    if len(found) > limit:
        raise BodyTooLarge(f"The body is larger than the limit of {limit} bytes when unpacked; send fewer rows.")
    if not engine.eof or engine.unused_data:
        raise UnreadableBody("The packed body is cut short, or something follows it.")
    return found


def asked_for(accepted: bytes | None) -> bytes | None:
    """The first of gzip and deflate that an Accept-Encoding names, None where it names neither."""
    if not accepted:
        return None
    for each in accepted.lower().split(b","):
        name, _, weight = each.partition(b";")
        if name.strip() in {b"gzip", b"deflate"} and weight.replace(b" ", b"").rstrip(b".0") != b"q=":
            return name.strip()
    return None


def pack(body: bytes, encoding: bytes) -> bytes | None:
    """The body in that encoding, None where that is not worth it."""
    if len(body) < _WORTH_BYTES:
        return None
    engine = zlib.compressobj(1, zlib.DEFLATED, _GZIP if encoding == b"gzip" else _ZLIB)
    return engine.compress(body) + engine.flush()
