"""Rectangular arrays of numbers in a JSON object, straight from the text into NumPy.

A Python list of every number, as a general parser makes it, costs more than most models take for the row. This reader
knows good bodies only: for everything else it says None, and the general way finds out what is wrong. So it does where
simdjson has no built package (`pyproject.toml` says where it has): the answers are the same, the time is not.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

try:
    import simdjson
except ImportError:
    simdjson: Any = None  # type: ignore[no-redef]

_DTYPES = {"d": np.float64, "u": np.uint64}
_IN_NUMBERS = b"0123456789.+-eE \t\r\n"


class _Parsers(threading.local):
    """One parser a thread: its memory is used again by the next body."""

    def __init__(self) -> None:
        self.parser: Any = simdjson and simdjson.Parser()


_parsers = _Parsers()


def read(body: bytes, key: str, of: Literal["d", "u"]) -> tuple[NDArray[Any], dict[str, Any]] | None:
    """The array under `key` as float64 (`of` "d") or uint64 ("u"), two or three axes, and the other fields.

    None where the body is no such JSON object, and for whole numbers that only a larger type could hold.
    """
    parser = _parsers.parser
    if parser is None or body[:1] != b"{":
        return None
    shape = _shape(body)
    if shape is None:
        return None
    content: Any = None
    try:
        content = parser.parse(body)
        keys: list[str] = list(content)
        if key not in keys or len(set(keys)) != len(keys):
            return None
        flat = np.frombuffer(content[key].as_buffer(of_type=of), _DTYPES[of])
        rest = {other: _plain(content[other]) for other in keys if other != key}
    except (ValueError, TypeError, AttributeError, RuntimeError):  # no JSON, other types, no array, too large a number
        return None
    finally:
        del content  # else the parser refuses the next body
    return (flat.reshape(shape), rest) if flat.size == math.prod(shape) else None  # an empty row has no commas either


def _plain(value: Any) -> Any:
    """Arrays and objects as Python's own."""
    if isinstance(value, simdjson.Array):
        return value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _shape(body: bytes) -> tuple[int, ...] | None:
    """The axes of the one array in a body, by its brackets and commas alone; None if it is not rectangular."""
    start, end = body.find(b"["), body.rfind(b"]") + 1
    skeleton = body[start:end].translate(None, _IN_NUMBERS)
    rows = skeleton.count(b"[")
    inner = skeleton.find(b"]") + 1
    columns = skeleton.count(b",", 0, inner) + 1
    if skeleton[:2] != b"[[" or not columns:
        return None
    if skeleton[2:3] != b"[":
        shape: tuple[int, ...] = (rows - 1, columns)
    else:
        lines = skeleton.find(b"]]") + 1
        height = skeleton.count(b"]", 0, lines)
        if not height or (rows - 1) % (height + 1):
            return None
        shape = ((rows - 1) // (height + 1), height, columns)
    return shape if skeleton == _skeleton(shape) else None


@lru_cache(maxsize=64)
def _skeleton(shape: tuple[int, ...]) -> bytes:
    """The brackets and commas of an array of a shape."""
    text = b"," * (shape[-1] - 1)
    for count in reversed(shape[:-1]):
        text = b",".join([b"[" + text + b"]"] * count)
    return b"[" + text + b"]"
