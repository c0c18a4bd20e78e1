"""`GET /models/{name}/drift`: whether what a model is asked today is like what it was made from."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from models.drift import Drift, Signal
from models.manifest import Manifest
from models.store import StoreError
from service.drift import HALF_LIFE_ROWS, LEAST_ROWS
from service.errors import Conflict, NotFound, Unavailable
from service.metrics import Metrics
from service.openapi import problem_responses
from service.registry import Registry

router = APIRouter(prefix="/models", tags=["models"])
_MOVED, _SHIFTED = 0.1, 0.25


class DriftBin(BaseModel):
    """Values from `at_least` to `below`; null is open."""

    at_least: float | None
    below: float | None
    training: Annotated[float, Field(description="share of the rows in training")]
    now: Annotated[float | None, Field(description="share of the rows now; null without any")]


class DriftSignal(BaseModel):
    psi: Annotated[float | None, Field(description=f"population stability index; null below {LEAST_ROWS} rows")]
    state: Literal["too_few_rows", "rests", "moved", "shifted"]
    bins: list[DriftBin]


class DriftReport(BaseModel):
    """Every signal of a model's live version beside its training data; totals of all workers."""

    model: str
    version: int
    rows: Annotated[float, Field(description="rows that count now: old ones fade")]
    half_life_rows: Annotated[
        int, Field(description="after so many newer rows of a worker half of a row's weight is left")
    ]
    training_rows: int
    signals: dict[str, DriftSignal]


@router.get(
    "/{name}/drift", summary="Drift of a model's inputs and answers", responses=problem_responses(404, 409, 503)
)
async def drift(name: str, request: Request) -> DriftReport:
    """The population stability index of each signal: below 0.1 it rests, from 0.25 on it has shifted."""
    registry: Registry = request.app.state.registry
    metrics: Metrics = request.app.state.metrics
    manifest = await _live(registry, name)
    if manifest.drift is None:
        raise Conflict(
            f"{name} version {manifest.version} was published without a reference of its training data; train it "
            f"again, or publish it anew with `python -m training drift {name}`.",
            code="no_drift_reference",
        )
    counts = metrics.drifted(name, manifest.version)
    return _report(name, manifest.version, manifest.drift, counts)


async def _live(registry: Registry, name: str) -> Manifest:
    """The manifest of the version that answers, or would: nothing is loaded for this."""
    slot = registry.loaded(name)
    if slot is not None and slot.live is not None:
        return slot.live.manifest
    if name not in (names := await registry.names()):
        raise NotFound(f"There is no model {name!r}; there are: {', '.join(names)}.", code="model_not_found")
    try:
        version = await registry.in_store(registry.store.live, name)
        if version is not None:
            return await registry.in_store(registry.store.manifest, name, version)
    except StoreError as exc:
        raise Unavailable.store(exc, registry.store.root, "model_unavailable") from None
    raise Unavailable(f"No version of {name} is live.", code="model_unavailable")


def _report(name: str, version: int, reference: Drift, counts: dict[str, list[float]]) -> DriftReport:
    signals = {each: _signal(signal, counts.get(each, [])) for each, signal in reference.signals.items()}
    return DriftReport(
        model=name,
        version=version,
        rows=round(sum(counts.get("confidence", [])), 1),
        half_life_rows=HALF_LIFE_ROWS,
        training_rows=reference.rows,
        signals=signals,
    )


def _signal(signal: Signal, counts: list[float]) -> DriftSignal:
    now, before = sum(counts), sum(signal.counts)
    psi = signal.psi(counts) if now >= LEAST_ROWS else None
    shares = [count / now for count in counts] if now else [None] * len(signal.counts)
    ends = [None, *signal.edges, None]
    bins = [
        DriftBin(at_least=low, below=high, training=then / before, now=share)
        for (low, high), then, share in zip(pairwise(ends), signal.counts, shares, strict=True)
    ]
    return DriftSignal(psi=psi, state=_state(psi), bins=bins)


def _state(psi: float | None) -> Literal["too_few_rows", "rests", "moved", "shifted"]:
    if psi is None:
        return "too_few_rows"
    return "rests" if psi < _MOVED else "moved" if psi < _SHIFTED else "shifted"
