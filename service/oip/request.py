"""What an infer request says: which tensors come, which are wanted back and how. Knows no model."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from service.errors import UnreadableBody
from service.oip.errors import NotOffered, invalid
from service.wire import parse_json

_KEPT_BYTES = 1_024
_TYPE_NAMES = {int: "a whole number", bool: "true or false", str: "a string", dict: "an object", list: "a list"}


class Tensor(NamedTuple):
    """An input as it is announced: `size` bytes of it follow the JSON, or `data` holds it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    data: Any


class Wanted(NamedTuple):
    """An output that is asked for; with `classes` above 0 as the texts of its best classes."""

    name: str
    binary: bool
    classes: int


class Asked(NamedTuple):
    """An infer request; `outputs` None asks for all of them, `timeout_s` None for the service's own deadline."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...] | None
    binary: bool
    timeout_s: float | None


def split(body: bytes, announced: bytes | None) -> int:
    """Where the JSON of a body ends, by the Inference-Header-Content-Length; without one, at the body's end."""
    if announced is None:
        return len(body)
    if not announced.isdigit() or len(announced) > 12:
        raise invalid("Inference-Header-Content-Length must be a whole number, the length of the JSON in bytes.")
    end = int(announced)
    if end > len(body):
        raise invalid(f"Inference-Header-Content-Length is {end}, but the body has {len(body)} bytes.")
    return end


def read(head: bytes) -> Asked:
    """What the JSON of a request asks for. UnreadableBody when it is none, InvalidInput, NotOffered."""
    return _kept(head) if len(head) <= _KEPT_BYTES and b'"data"' not in head else _read(head)


@lru_cache(maxsize=1_024)
def _kept(head: bytes) -> Asked:
    """The same for a short one without data: a client's next request mostly has the very same."""
    return _read(head)


def _read(head: bytes) -> Asked:
    content = parse_json(head)
    if not isinstance(content, dict):
        raise UnreadableBody("The request must be a JSON object with `inputs`.", code="unreadable_json")
    return asked_for(content)


def asked_for(content: dict[str, Any]) -> Asked:
    """What a request asks for, given as the object that its JSON is. InvalidInput, NotOffered."""
    parameters = _parameters(content, "the request")
    binary = _typed(parameters.get("binary_data_output", False), bool, "binary_data_output")
    outputs = _objects(content, "outputs") if content.get("outputs") else None
    _typed(parameters.get("priority", 0), int, "priority")  # with one level of priority all are alike
    return Asked(
        id=_typed(content["id"], str, "id") if content.get("id") is not None else None,
        inputs=tuple(map(_tensor, _objects(content, "inputs"))),
        outputs=None if outputs is None else tuple(_wanted(each, binary=binary) for each in outputs),
        binary=binary,
        timeout_s=_timeout(parameters),
    )


def _tensor(content: dict[str, Any]) -> Tensor:
    name = _name(content, "input")
    place = f"input {name!r}"
    parameters = _parameters(content, place)
    _no_shared_memory(parameters, place)
    size = parameters.get("binary_data_size")
    if size is not None:
        _typed(size, int, f"binary_data_size of {place}")
        if "data" in content:
            raise invalid(f"{place} has both `data` and a binary_data_size; give one of them.")
    elif "data" not in content:
        raise invalid(f"{place} has no data: give `data`, or parameters.binary_data_size and its bytes after the JSON.")
    shape = content.get("shape")
    if not isinstance(shape, list) or not all(type(each) is int and each >= 0 for each in shape):
        raise invalid(f"{place} needs its `shape`, a list of whole numbers.")
    datatype = _typed(content.get("datatype"), str, f"datatype of {place}")
    return Tensor(name, datatype, tuple(shape), size, content.get("data"))


def _wanted(content: dict[str, Any], *, binary: bool) -> Wanted:
    name = _name(content, "output")
    place = f"output {name!r}"
    parameters = _parameters(content, place)
    _no_shared_memory(parameters, place)
    flag = _typed(parameters.get("binary_data", binary), bool, f"binary_data of {place}")
    return Wanted(name, flag, _typed(parameters.get("classification", 0), int, f"classification of {place}"))


def _timeout(parameters: dict[str, Any]) -> float | None:
    """Seconds from the microseconds that a request gives itself; 0 stands for the service's own deadline."""
    return _typed(parameters.get("timeout", 0), int, "timeout") / 1_000_000 or None


def _no_shared_memory(parameters: dict[str, Any], place: str) -> None:
    if "shared_memory_region" in parameters:
        raise NotOffered(f"{place} lies in shared memory, which is not offered here; send its bytes in the request.")


def _objects(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise invalid(f"`{key}` must be a list of one or more objects.")
    return found


def _name(content: dict[str, Any], what: str) -> str:
    name = content.get("name")
    if not isinstance(name, str):
        raise invalid(f"Every {what} needs its `name`, a string.")
    return name[:256]


def _parameters(content: dict[str, Any], place: str) -> dict[str, Any]:
    found = content.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise invalid(f"The parameters of {place} must be an object.")
    return found


def _typed(value: Any, kind: type[Any], place: str) -> Any:
    """The value, if it is of that very type; a whole number from 0 on where one is expected."""
    if type(value) is not kind or (kind is int and value < 0):
        raise invalid(f"{place} must be {_TYPE_NAMES[kind]}{' from 0 on' if kind is int else ''}.")
    return value
