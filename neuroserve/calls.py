"""Each method of the client as a request to send and a way to read its answer; no network here."""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from neuroserve import answers
from neuroserve.answers import Digit, Forecast, Job, Model, Topic
from neuroserve.errors import StrangeAnswer, UsageError
from neuroserve.pictures import Picture, PictureFile, Pixels, picture

T = TypeVar("T")
_PER_ITEM_BYTES = 16  # commas, and what is around a text in its JSON


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, what reads the JSON of its answer, and whether it does no harm when it is sent twice."""

    method: str
    path: str
    read: Callable[[Any], T]
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    repeatable: bool = True


@dataclass(frozen=True)
class Part(Generic[T]):
    """One request of a batch, and the places of its items in the list that was given."""

    call: Call[list[T]]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Limits:
    """What one batch request may hold: items, and bytes of body."""

    items: int
    bytes: int


def _json(method: str, path: str, body: Any, read: Callable[[Any], T], **options: Any) -> Call[T]:
    try:
        content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise UsageError(f"This cannot be sent as JSON: {exc}.") from None
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return Call(method, path, read, content, headers, **options)


def _chosen(model: str | None, version: int | None, explain: bool = False) -> dict[str, Any]:
    given = {"model": model, "version": version, "explain": explain or None}
    return {name: value for name, value in given.items() if value is not None}


def _query(chosen: dict[str, Any]) -> dict[str, str]:
    return {name: str(value).lower() if value is True else str(value) for name, value in chosen.items()}


def _reader(kind: type[T]) -> Callable[[Any], T]:
    return lambda data: answers.read(kind, data)


# ---------------------------------------------------------------------- predictions


def digit(given: Picture, model: str | None, version: int | None, explain: bool) -> Call[Digit]:
    """One picture."""
    params = _query(_chosen(model, version, explain))
    found = picture(given)
    if isinstance(found, Pixels):
        return _json("POST", "/predict/digit", {"pixels": found.rows}, _reader(Digit), params=params)
    return Call("POST", "/predict/digit", _reader(Digit), found.data, {"Content-Type": found.type}, params)


def digits(given: Sequence[Picture], model: str | None, version: int | None, limits: Limits) -> Iterator[Part[Digit]]:
    """Many pictures; files and pixels go in requests of their own."""
    params = _query(_chosen(model, version))
    files: list[tuple[int, Any]] = []
    pixels: list[tuple[int, Any]] = []
    for place, each in enumerate(given):
        found = picture(each)
        if isinstance(found, PictureFile):
            files.append((place, base64.b64encode(found.data).decode()))
        else:
            pixels.append((place, found.rows))
    for key, items in (("images", files), ("pixels", pixels)):
        for group in _groups(items, limits, lambda item: len(item) if isinstance(item, str) else 28 * 28 * 4 + 84):
            body = {key: [item for _, item in group]}
            call = _json("POST", "/predict/digit/batch", body, _digits(len(group)), params=params)
            yield Part(call, tuple(place for place, _ in group))


def _digits(count: int) -> Callable[[Any], list[Digit]]:
    def read(data: Any) -> list[Digit]:
        rows = _rows(data, count)
        model = data.get("model")
        return [answers.read(Digit, {**row, "model": model}) for row in rows]

    return read


def text(given: str, model: str | None, version: int | None, explain: bool) -> Call[Topic]:
    """One text."""
    return _json("POST", "/predict/sequence", {"text": given, **_chosen(model, version, explain)}, _reader(Topic))


def forecast(
    values: Any,
    start: datetime | str,
    model: str | None,
    version: int | None,
    explain: bool,
    accept_implausible: bool = False,
) -> Call[Forecast]:
    """One series; None and NaN are missing readings."""
    body = {**_series(values, start, accept_implausible), **_chosen(model, version, explain)}
    return _json("POST", "/predict/sequence", body, _reader(Forecast))


def texts(given: Sequence[str], model: str | None, version: int | None, limits: Limits) -> Iterator[Part[Topic]]:
    """Many texts."""
    items = [{"text": each, **_chosen(model, version)} for each in given]
    return _sequences(items, Topic, limits)


def forecasts(
    given: Sequence[tuple[Any, datetime | str]],
    model: str | None,
    version: int | None,
    limits: Limits,
    accept_implausible: bool = False,
) -> Iterator[Part[Forecast]]:
    """Many series, each with its start."""
    items = [{**_series(values, start, accept_implausible), **_chosen(model, version)} for values, start in given]
    return _sequences(items, Forecast, limits)


def _series(values: Any, start: datetime | str, accept_implausible: bool) -> dict[str, Any]:
    rows = values.tolist() if hasattr(values, "tolist") else [list(row) for row in values]
    content = {
        "values": [[None if _is_nan(value) else value for value in row] for row in rows],
        "start": start.isoformat() if isinstance(start, datetime) else start,
    }
    return content | ({"accept_implausible": True} if accept_implausible else {})


def _is_nan(value: Any) -> bool:
    """Whether a reading is missing, as floating-point arrays say it."""
    return isinstance(value, float) and math.isnan(value)


def _sequences(items: list[dict[str, Any]], kind: type[T], limits: Limits) -> Iterator[Part[T]]:
    for group in _groups(list(enumerate(items)), limits, lambda item: len(json.dumps(item, separators=(",", ":")))):
        count = len(group)

        def read(data: Any, count: int = count) -> list[T]:
            return [answers.read(kind, row) for row in _rows(data, count)]

        call = _json("POST", "/predict/sequence/batch", {"inputs": [item for _, item in group]}, read)
        yield Part(call, tuple(place for place, _ in group))


def _rows(data: Any, count: int) -> list[Any]:
    rows = data.get("predictions") if isinstance(data, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        raise StrangeAnswer(f"{count} predictions were asked for, and the answer does not hold as many.")
    return rows


def _groups(items: list[tuple[int, T]], limits: Limits, size: Callable[[T], int]) -> Iterator[list[tuple[int, T]]]:
    """Runs of items within the limits; an item that is too large by itself goes alone, for the service to refuse."""
    group: list[tuple[int, T]] = []
    used = 0
    for place, item in items:
        needed = size(item) + _PER_ITEM_BYTES
        if group and (len(group) == limits.items or used + needed > limits.bytes):
            yield group
            group, used = [], 0
        group.append((place, item))
        used += needed
    if group:
        yield group


# ---------------------------------------------------------------------- training


def train(order: dict[str, Any], key: str | None) -> Call[Job]:
    """Queue a job; the key makes a second sending harmless."""
    body = {name: value for name, value in order.items() if value is not None}
    return _json("POST", "/train", body, _reader(Job), headers={"Idempotency-Key": key or str(uuid.uuid4())})


def job(job_id: str) -> Call[Job]:
    """One job."""
    return Call("GET", f"/train/{quote(job_id, safe='')}", _reader(Job))


def jobs(status: str | None, task: str | None, limit: int) -> Call[list[Job]]:
    """The newest jobs."""
    given = {"status": status, "task": task, "limit": limit}
    params = {name: str(value) for name, value in given.items() if value is not None}
    return Call("GET", "/train", lambda data: _list(data, "jobs", Job), params=params)


def cancel(job_id: str) -> Call[Job]:
    """Stop a job."""
    return Call("DELETE", f"/train/{quote(job_id, safe='')}", _reader(Job), repeatable=False)


# ---------------------------------------------------------------------- models


def models() -> Call[list[Model]]:
    """Every model."""
    return Call("GET", "/models", lambda data: _list(data, "models", Model))


def model(name: str) -> Call[Model]:
    """One model."""
    return Call("GET", f"/models/{quote(name, safe='')}", _reader(Model))


def promote(name: str, version: int) -> Call[Model]:
    """Make a version live; twice is as good as once."""
    return _json("POST", f"/models/{quote(name, safe='')}/promote", {"version": version}, _reader(Model))


def rollback(name: str) -> Call[Model]:
    """One step back; twice would be two steps."""
    return Call("POST", f"/models/{quote(name, safe='')}/rollback", _reader(Model), repeatable=False)


def _list(data: Any, key: str, kind: type[T]) -> list[T]:
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise StrangeAnswer(f"The answer lacks {key!r}; is this a neuroserve service?")
    return [answers.read(kind, each) for each in found]
