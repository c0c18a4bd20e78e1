"""Tensors of a request to arrays: the binary form without a copy, and the lists of JSON, flat or nested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from service.engine import Array
from service.oip.errors import invalid
from service.oip.request import Tensor

NAMES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
"""Datatypes as the protocol writes them, of those that a manifest may name."""
DATATYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in NAMES.items()}
_BOUNDS = {"UINT8": (0, 2**8 - 1), "INT64": (-(2**63), 2**63 - 1)}


def from_bytes(tensor: Tensor, body: bytes, at: int) -> Array:
    """The tensor whose bytes begin at `at` of the body; a view of it, so not to be written to."""
    dtype, count = DATATYPES[tensor.datatype], math.prod(tensor.shape)
    if tensor.size != count * dtype.itemsize:
        raise invalid(
            f"input {tensor.name!r} of shape {list(tensor.shape)} and datatype {tensor.datatype} takes "
            f"{count * dtype.itemsize} bytes, its binary_data_size is {tensor.size}."
        )
    if len(body) - at < tensor.size:
        raise invalid(f"The body ends before the {tensor.size} bytes of input {tensor.name!r}.")
    array = np.frombuffer(body, dtype, count, at).reshape(tensor.shape)
    return array if array.flags.aligned else array.copy()


def from_lists(tensor: Tensor) -> Array:
    """The tensor that JSON holds as one flat list or nested by its shape."""
    items = _flat(tensor.data, tensor.shape, tensor.name)
    count = math.prod(tensor.shape)
    if len(items) != count:
        raise invalid(f"input {tensor.name!r} of shape {list(tensor.shape)} takes {count} values, got {len(items)}.")
    whole = tensor.datatype in _BOUNDS
    if not set(map(type, items)) <= ({int} if whole else {int, float}):
        raise invalid(f"input {tensor.name!r} takes {'whole numbers' if whole else 'numbers'} only.")
    if whole:
        low, high = _BOUNDS[tensor.datatype]
        if items and not (low <= min(items) and max(items) <= high):
            raise invalid(f"input {tensor.name!r} of datatype {tensor.datatype} takes values from {low} to {high}.")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
            return (
                np.array(items, np.float64 if not whole else None, ndmin=1)
                .astype(DATATYPES[tensor.datatype])
                .reshape(tensor.shape)
            )
    except OverflowError:
        raise invalid(f"input {tensor.name!r} holds a number that is too large.") from None


def _flat(data: Any, shape: Sequence[int], name: str) -> list[Any]:
    """The values of nested lists in row-major order; what is nested must be so by the shape."""
    if not isinstance(data, list):
        raise invalid(f"The data of input {name!r} must be a list.")
    level, depth = data, 0
    while level and list in (kinds := set(map(type, level))):
        depth += 1
        if kinds != {list} or depth >= len(shape) or set(map(len, level)) != {shape[depth]}:
            raise invalid(f"The data of input {name!r} must be flat, or nested exactly by its shape {list(shape)}.")
        level = list(chain.from_iterable(level))
    if depth and (depth != len(shape) - 1 or len(data) != shape[0]):
        raise invalid(f"The data of input {name!r} must be flat, or nested exactly by its shape {list(shape)}.")
    return level
