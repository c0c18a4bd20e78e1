"""The arithmetic of a batch's tensors: which bucket, which shape, how parts become one array."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import TensorSpec

Array = NDArray[Any]
Tensors = dict[str, Array]


def at_least(sizes: list[int], wanted: int) -> int:
    """The smallest size that is not below `wanted`; `wanted` itself above the largest."""
    index = bisect_left(sizes, wanted)
    return sizes[index] if index < len(sizes) else wanted


def has_length(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.shape[1] == "length"


def shape_of(spec: TensorSpec, rows: int, length: int) -> tuple[int, ...]:
    """The tensor's shape in one bucket. ValueError when an axis is dynamic and neither rows nor length."""
    named = {"batch": rows, "length": length}
    sizes = [named.get(axis) if isinstance(axis, str) else axis for axis in spec.shape]
    if None in sizes:
        axis = spec.shape[sizes.index(None)]
        raise ValueError(f"axis {axis!r} of {spec.name} is neither `batch` nor `length`")
    return tuple(size for size in sizes if size is not None)


def pack(spec: TensorSpec, arrays: list[Array], rows: int, length: int) -> Array:
    """All rows of one input in one array, zero-padded at the end of the length axis where there is one."""
    if not has_length(spec):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if len(arrays) == 1 and arrays[0].shape[1] == length:
        return arrays[0]
    packed = np.zeros((rows, length, *arrays[0].shape[2:]), arrays[0].dtype)
    at = 0
    for array in arrays:
        packed[at : at + array.shape[0], : array.shape[1]] = array
        at += array.shape[0]
    return packed


def pack_into(place: Array, spec: TensorSpec, arrays: list[Array]) -> None:
    """As `pack`, but over what `place` held before; places that are left repeat the last row.

    TypeError when an array is not of the tensor's type, ValueError when its shape does not fit.
    """
    with_length = has_length(spec)
    at = 0
    for array in arrays:
        until = at + array.shape[0]
        if until > place.shape[0]:
            raise ValueError(f"{spec.name} has more than the {place.shape[0]} rows of its bucket")
        if with_length:
            steps = array.shape[1]
            np.copyto(place[at:until, :steps], array, casting="no")
            place[at:until, steps:] = 0
        else:
            np.copyto(place[at:until], array, casting="no")
        at = until
    if at < place.shape[0]:
        place[at:] = place[at - 1]


def repeat_last(array: Array, times: int) -> Array:
    return np.concatenate([array, np.repeat(array[-1:], times, axis=0)])


def cut(specs: list[TensorSpec], tensors: Tensors, length: int) -> Tensors:
    """The tensors with at most `length` steps, their `lengths` too where the graph takes them."""
    short = {}
    for spec in specs:
        array = tensors[spec.name]
        if length and has_length(spec):
            short[spec.name] = array[:, :length]
        else:
            short[spec.name] = np.minimum(array, length) if length and spec.name == "lengths" else array
    return short
