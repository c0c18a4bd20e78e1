"""What the service answers, as frozen records. Fields that a newer service adds are ignored."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

from neuroserve.errors import StrangeAnswer

T = TypeVar("T")
ENDED = frozenset({"succeeded", "rejected", "failed", "cancelled"})


@dataclass(frozen=True)
class ModelRef:
    """The model and version that answered."""

    name: str
    version: int


@dataclass(frozen=True)
class Warning:  # noqa: A001 (the contract's word)
    """Something that makes an answer less reliable: a stable `code`, and a sentence for people."""

    code: str
    detail: str


@dataclass(frozen=True)
class DigitExplanation:
    """`saliency`: 28 rows of 28 weights 0..1; `input`: base64 of the 28x28 grey PNG that the model saw."""

    saliency: tuple[tuple[float, ...], ...]
    input: str


@dataclass(frozen=True)
class Digit:
    """One picture's answer; ten probabilities in the order of the digits."""

    digit: int
    confidence: float
    probabilities: tuple[float, ...]
    model: ModelRef
    explanation: DigitExplanation | None = None
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True)
class WordWeight:
    """A word, its place in the text in characters, and its weight 0..1."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class TopicExplanation:
    """Which words the answer rests on."""

    words: tuple[WordWeight, ...]


@dataclass(frozen=True)
class Topic:
    """One text's answer; a probability for each label."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    model: ModelRef
    explanation: TopicExplanation | None = None
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True)
class ForecastExplanation:
    """A row of weights 0..1 for each step that was sent, in the order of `columns`."""

    columns: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Forecast:
    """The next `horizon` steps of `target`; `lower` to `upper` holds the share `level` of them."""

    target: str
    horizon: int
    times: tuple[datetime, ...]
    mean: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    level: float
    model: ModelRef
    explanation: ForecastExplanation | None = None
    warnings: tuple[Warning, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a training is: `step` of `steps` in `epoch` of `epochs`, and the seconds it still needs."""

    epoch: int
    epochs: int
    step: int
    steps: int
    eta_s: float | None = None


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave."""

    epoch: int
    train_loss: float
    val_loss: float
    val_metric: float
    seconds: float


@dataclass(frozen=True)
class TrainedModel:
    """The version that a training published."""

    name: str
    version: int
    live: bool


@dataclass(frozen=True)
class GateCheck:
    """One rule of the gate: whether the training passed it, a sentence, and the measured value beside its limit."""

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Gate:
    """The quality gate's verdict: a check for each rule, failed ones first, and their sentences as `reasons`.

    `compared_with` is the reference version: the best one that was ever live.
    """

    passed: bool
    reasons: tuple[str, ...]
    checks: tuple[GateCheck, ...] = ()
    compared_with: int | None = None


@dataclass(frozen=True)
class Result:
    """What a training came to; no model when the gate refused it."""

    model: TrainedModel | None
    metrics: dict[str, Any]
    gate: Gate


@dataclass(frozen=True)
class Job:
    """A training job: `queued`, `running`, `cancelling`, then `succeeded`, `rejected`, `failed` or `cancelled`.

    `warnings` tell what keeps it waiting, such as `no_worker`.
    """

    id: str
    status: str
    spec: dict[str, Any]
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    history: tuple[Epoch, ...] = ()
    result: Result | None = None
    error: str | None = None
    warnings: tuple[Warning, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDED

    @property
    def succeeded(self) -> bool:
        """Whether a version is in the store."""
        return self.status == "succeeded"


@dataclass(frozen=True)
class Version:
    """One version in the store."""

    version: int
    live: bool
    network: str | None = None
    created_at: datetime | None = None
    metrics: dict[str, Any] | None = None
    bytes: int = 0
    problem: str | None = None


@dataclass(frozen=True)
class Model:
    """One model: what is live, what rollback goes to, what runs it."""

    name: str
    task: str | None
    kind: str | None
    default: bool
    live: int | None
    previous: int | None
    serving: int | None
    provider: str | None
    problem: str | None
    versions: tuple[Version, ...]


def read(kind: type[T], data: Any) -> T:
    """JSON as a record of `kind`; StrangeAnswer names the field that does not fit."""
    found: T = _read(kind, data, kind.__name__)
    return found


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, data: Any, place: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in {types.UnionType, typing.Union}:
        return None if data is None else _read(next(part for part in parts if part is not type(None)), data, place)
    if kind is Any:
        return data
    if is_dataclass(kind) and isinstance(data, Mapping):
        return _record(kind, data, place)
    if origin is tuple and isinstance(data, list):
        return tuple(_read(parts[0], each, f"{place}[{index}]") for index, each in enumerate(data))
    if origin is dict and isinstance(data, dict):
        return {key: _read(parts[1], value, f"{place}.{key}") for key, value in data.items()}
    return _plain(kind, data, place)


def _record(kind: Any, data: Mapping[str, Any], place: str) -> Any:
    values = {}
    for field in fields(kind):
        if field.name in data:
            values[field.name] = _read(_hints(kind)[field.name], data[field.name], f"{place}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise StrangeAnswer(f"The answer lacks {place}.{field.name}; is this a neuroserve service?")
    return kind(**values)


def _plain(kind: Any, data: Any, place: str) -> Any:
    if kind is float and type(data) is int:
        return float(data)
    if kind is datetime and isinstance(data, str):
        try:
            return datetime.fromisoformat(data)
        except ValueError:
            raise StrangeAnswer(f"{place} is not a time: {data!r}.") from None
    if isinstance(kind, type) and type(data) is kind:
        return data
    raise StrangeAnswer(f"{place} is not what the contract says; is this a neuroserve service?")
