"""`/models/{name}/canary`: a version on trial beside the live one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response

from models.canary import CanaryError, CanaryRunsError
from models.store import StoreError, StoreReadError, VersionNotFoundError
from service.canary import NotLiveError, OtherContractError, verdict_of
from service.canary_schemas import CanaryInfo, EndedCanary, NewCanary, RunningCanary, rule_of
from service.device import DeviceError
from service.engine import EngineError
from service.errors import Conflict, InvalidInput, NotFound, Unavailable
from service.openapi import problem_responses
from service.registry import Registry
from service.routes.models import TheRegistry

router = APIRouter(prefix="/models", tags=["canary"])

_RULE = {"min_rows": 500, "min_agreement": 0.99, "max_error_rate": 0.01, "on_pass": "promote"}
_ORDERS: dict[str, Any] = {
    "split": {
        "summary": "10 % of the requests are answered by version 4",
        "value": {"version": 4, "percent": 10, "mode": "split"},
    },
    "shadow": {
        "summary": "Version 4 runs all requests too, and its answers are compared",
        "value": {"version": 4, "percent": 100, "mode": "shadow"},
    },
    "rule": {
        "summary": "The same, and it goes live by itself when 99 % of 500 rows agree",
        "value": {"version": 4, "percent": 100, "mode": "shadow", "rule": _RULE},
    },
}


def _side(failed: int, confidence: float) -> dict[str, Any]:
    return {
        "requests": 412,
        "failed_requests": failed,
        "rows": 412,
        "failed_rows": failed,
        "error_rate": round(failed / 412, 6),
        "latency_ms_mean": 0.412,
        "latency_ms_p50": 0.371,
        "latency_ms_p99": 1.204,
        "queue_ms_mean": 0.093,
        "run_ms_per_row": 0.184,
        "mean_confidence": confidence,
        "mean_interval_width": None,
    }


_FIGURES = {
    "live": _side(0, 0.9912),
    "candidate": _side(0, 0.9931),
    "confidence_difference": 0.0019,
    "fallbacks": 0,
    "dropped_rows": 3,
    "compared_rows": 412,
    "agreement": 0.9951,
    "confidence_shift": 0.0017,
    "mean_abs_difference": None,
}
_ORDER = {"version": 4, "against": 3, "percent": 100.0, "mode": "shadow", "started_at": "2026-03-01T12:00:00Z"}
_RUNNING = {
    "model": "digit-cnn",
    "running": {
        "number": 2,
        **_ORDER,
        "rule": _RULE,
        "figures": _FIGURES,
        "verdict": {"state": "waiting", "reason": "412 of 500 rows"},
    },
    "last": {
        "number": 1,
        **_ORDER,
        "rule": None,
        "ended_at": "2026-03-01T12:10:00Z",
        "outcome": "ended",
        "reason": "ended by DELETE",
        "figures": _FIGURES,
    },
}
_ENDED = {**_RUNNING, "running": None}


def _shows(status: int, description: str, example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": description, "content": {"application/json": {"example": example}}}}


@router.post(
    "/{name}/canary",
    status_code=201,
    summary="Try a version on a share of the requests",
    response_model=CanaryInfo,
    responses={
        **_shows(201, "It runs; every process follows within two seconds", {**_RUNNING, "last": None}),
        **problem_responses(400, 404, 409, 413, 422, 503),
    },
)
async def start_canary(
    name: str, body: Annotated[NewCanary, Body(openapi_examples=_ORDERS)], registry: TheRegistry, response: Response
) -> CanaryInfo:
    """Verify, load and test the version, then try it in every process until it is promoted, ended or aborted.

    Only requests to `/predict/…` that name no version take part. With `split` a client stays on one side: by its
    header `X-Canary-Key`, else by the request's id; an answer of the candidate says `X-Canary: candidate`. Where the
    candidate fails, the live version answers, and `X-Canary: fallback` says so. A candidate whose device is lost is
    aborted.
    """
    if body.mode == "split" and body.rule is not None and body.rule.min_agreement is not None:
        raise InvalidInput(
            "With `split` no row is answered by both versions; leave min_agreement out, or use `shadow`.",
            code="no_agreement_in_split",
            errors=[(("body", "rule", "min_agreement"), "is for the mode `shadow`")],
        )
    slot = await registry.slot(name)
    await slot.get(None)  # without a live version there is nothing to try another against
    try:
        await registry.canaries.start(slot, body.version, percent=body.percent, mode=body.mode, rule=rule_of(body.rule))
    except VersionNotFoundError as exc:
        raise NotFound(f"{exc}.", code="version_not_found") from None
    except NotLiveError as exc:
        raise Conflict(f"{exc}; a canary tries another version than the live one.", code="version_live") from None
    except OtherContractError as exc:
        raise Conflict(f"{exc}; promote it if clients are ready for that.", code="other_contract") from None
    except CanaryRunsError as exc:
        raise Conflict(f"{exc}; end it with DELETE first.", code="canary_runs") from None
    except StoreReadError as exc:
        raise Unavailable.store(exc, registry.store.root) from None
    except (StoreError, EngineError, DeviceError) as exc:
        raise Conflict(f"{exc}.", code="version_unusable") from None
    except CanaryError as exc:
        raise Unavailable.store(exc, registry.store.root, "canary_not_written") from None
    response.headers["Location"] = f"/models/{name}/canary"
    return await _info(registry, name)


@router.get(
    "/{name}/canary",
    summary="How a canary does",
    response_model=CanaryInfo,
    responses={
        **_shows(200, "`running` is `null` when there is none", _RUNNING),
        **problem_responses(404, 503),
    },
)
async def get_canary(name: str, registry: TheRegistry) -> CanaryInfo:
    """The running canary with what all processes counted so far, and how the last one ended, with its reason."""
    await _known(registry, name)
    return await _info(registry, name)


@router.delete(
    "/{name}/canary",
    summary="End a canary",
    response_model=CanaryInfo,
    responses={**_shows(200, "It has ended", _ENDED), **problem_responses(404, 503)},
)
async def end_canary(name: str, registry: TheRegistry) -> CanaryInfo:
    """The live version answers everything again; what was counted stays readable."""
    await _known(registry, name)
    try:
        order = (await registry.canaries.state(name)).running
        if order is None or not await registry.canaries.end(name, order, "ended", "ended by DELETE"):
            raise NotFound(f"{name} has no canary.", code="canary_not_found")
    except CanaryError as exc:
        raise Unavailable.store(exc, registry.store.root, "canary_not_written") from None
    await registry.follow(name)
    return await _info(registry, name)


async def _known(registry: Registry, name: str) -> None:
    names = await registry.names()
    if name not in names:
        raise NotFound(f"There is no model {name!r}; there are: {', '.join(names)}.", code="model_not_found")


async def _info(registry: Registry, name: str) -> CanaryInfo:
    try:
        state = await registry.canaries.state(name)
    except CanaryError as exc:
        raise Unavailable.store(exc, registry.store.root, "canary_unreadable") from None
    running = None
    if (order := state.running) is not None:
        figures = await registry.in_store(registry.canaries.figures, name, order)
        running = RunningCanary.of(order, figures, verdict_of(order, figures))
    return CanaryInfo(model=name, running=running, last=EndedCanary.of(state.last) if state.last else None)
