"""The outer shape of a request: its media type, the keys of its JSON, the model and version it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Scope

from service.errors import InvalidInput, Location, UnsupportedMediaType
from service.wire import media_type

MAX_EXPLAINED = 16
"""Items of one batch request that may be explained: each costs some hundred rows."""
LARGEST_VERSION = 2**31 - 1


def is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def require_json(content_type: bytes) -> None:
    """UnsupportedMediaType unless the body is said to be JSON."""
    kind = media_type(content_type)
    if not is_json(kind):
        raise unsupported(kind, ["application/json"])


def unsupported(kind: str, taken: Sequence[str]) -> UnsupportedMediaType:
    said = f"Content-Type {kind!r} is not taken here" if kind else "The request has no Content-Type"
    return UnsupportedMediaType(f"{said}; send one of: {', '.join(taken)}.")


def json_object(value: Any, loc: Location) -> dict[str, Any]:
    """The value as an object; InvalidInput when it is something else."""
    if not isinstance(value, dict):
        raise invalid("A JSON object is expected.", loc)
    return value


def one_of(value: dict[str, Any], keys: Sequence[str], others: Sequence[str], loc: Location) -> str:
    """Which one of `keys` the object has; InvalidInput for none, several, or a key that is not in `others` either."""
    strange = next((key for key in value if key not in keys and key not in others), None)
    if strange is not None:
        taken = ", ".join([*keys, *others])
        raise invalid(f"The field {strange!r} is not known here; known are: {taken}.", (*loc, strange))
    found = [key for key in keys if key in value]
    if len(found) != 1:
        wanted = " or ".join(repr(key) for key in keys)
        raise invalid(f"Give {wanted}{', one of them' if found else ''}.", loc)
    return found[0]


def items_of(value: Any, loc: Location, most: int) -> list[Any]:
    """A list of 1 to `most` items."""
    if not isinstance(value, list):
        raise invalid("A list is expected.", loc)
    check_count(len(value), loc, most)
    return value


def check_count(count: int, loc: Location, most: int) -> None:
    if count == 0:
        raise invalid("The list is empty; give at least one item.", loc)
    if count > most:
        raise invalid(f"{count} items are too many for one request; the limit is {most}.", loc, "too_many_items")


def text_of(value: Any, loc: Location) -> str:
    if not isinstance(value, str):
        raise invalid("A string is expected.", loc)
    return value


class Asked(NamedTuple):
    """What a request asks for beside its input."""

    model: str | None = None
    version: int | None = None
    explain: bool = False


def asked_in_body(value: dict[str, Any], loc: Location) -> Asked:
    """The optional `model`, `version` and `explain` of a JSON body."""
    name, version = value.get("model"), value.get("version")
    if name is not None:
        text_of(name, (*loc, "model"))
    if version is not None and (type(version) is not int or not 1 <= version <= LARGEST_VERSION):
        raise invalid("A version is a whole number from 1.", (*loc, "version"))
    return Asked(name, version, flag_of(value, "explain", loc))


def flag_of(value: dict[str, Any], key: str, loc: Location) -> bool:
    """An optional boolean of a JSON body; false where it is not given."""
    flag = value.get(key, False)
    if type(flag) is not bool:
        raise invalid("true or false is expected.", (*loc, key))
    return flag


def asked_in_query(scope: Scope) -> Asked:
    """The optional `model`, `version` and `explain` of the query string."""
    if not scope["query_string"]:
        return _NOTHING
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    version = query.get("version")
    if version is not None and not (
        version.isascii() and version.isdigit() and len(version) <= 11 and 1 <= int(version) <= LARGEST_VERSION
    ):
        raise invalid("A version is a whole number from 1.", ("query", "version"))
    explain = query.get("explain", "false").lower()
    if explain not in {"true", "false", "1", "0"}:
        raise invalid("true or false is expected.", ("query", "explain"))
    return Asked(query.get("model") or None, int(version) if version is not None else None, explain in {"true", "1"})


def check_explained(count: int, loc: Location) -> None:
    """InvalidInput when a batch asks for more explanations than one request may."""
    if count > MAX_EXPLAINED:
        raise invalid(
            f"{count} explained items are too many for one request; the limit is {MAX_EXPLAINED}. Ask without "
            "`explain`, or in several requests.",
            loc,
            "too_many_items",
        )


_NOTHING = Asked()


def invalid(detail: str, loc: Location, code: str | None = None) -> InvalidInput:
    """A 422 for one place."""
    return InvalidInput(detail, code=code, errors=[(loc, detail)])
