"""The JSON of a canary, as clients send and get it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from models.canary import CanaryOrder, CanaryOutcome, CanaryRule, End, Mode, Verdict
from models.manifest import Kind
from service.canary_tally import CanaryTotals, Side
from service.inputs.fields import LARGEST_VERSION
from service.schemas import Schema


class Rule(Schema):
    """When the canary ends by itself.

    It is aborted as soon as it can no longer pass, and passes with `min_rows` rows that are good enough.
    """

    min_rows: int = Field(ge=1, examples=[500], description="rows of the candidate that are needed to pass")
    min_agreement: float | None = Field(
        None,
        ge=0,
        le=1,
        examples=[0.99],
        description="least share of the compared rows on which both versions agree; with `shadow` only",
    )
    max_error_rate: float = Field(
        0.01, ge=0, le=1, examples=[0.01], description="largest share of the candidate's rows that may fail"
    )
    on_pass: Literal["promote", "hold"] = Field(
        "promote",
        description="`promote` makes the candidate live; `hold` leaves that to you",
    )


class NewCanary(Schema):
    """Which version to try, on how much, and how."""

    version: int = Field(strict=True, ge=1, le=LARGEST_VERSION, examples=[4])
    percent: float = Field(
        strict=True,
        ge=0.01,
        le=100,
        examples=[10],
        description="share of the requests that name no version, in steps of 0.01",
    )
    mode: Mode = Field(
        description="`split`: the candidate answers this share; `shadow`: the live version answers all, and the "
        "candidate runs this share too, at low priority, for comparison"
    )
    rule: Rule | None = Field(None, description="promote or abort by itself")


class CanarySide(Schema):
    """One version's share of the canary's requests."""

    requests: int = Field(description="with those that failed")
    failed_requests: int
    rows: int = Field(description="with those that failed")
    failed_rows: int
    error_rate: float | None = Field(None, description="failed rows by rows")
    latency_ms_mean: float | None = Field(None, description="from the queue to the end of the run")
    latency_ms_p50: float | None = None
    latency_ms_p99: float | None = None
    queue_ms_mean: float | None = None
    run_ms_per_row: float | None = Field(None, description="time of a run by its rows")
    mean_confidence: float | None = Field(None, description="largest probability; `null` for forecasts")
    mean_interval_width: float | None = Field(None, description="of forecasts, in the target's unit")

    @classmethod
    def of(cls, totals: CanaryTotals, side: Side, kind: Kind) -> CanarySide:
        counts = {name: int(totals.side(side, name)) for name in ("requests", "failed_requests", "rows", "failed_rows")}
        certainty = _rounded(totals.mean(side, "certainty"), 6)
        return cls(
            **counts,
            error_rate=counts["failed_rows"] / counts["rows"] if counts["rows"] else None,
            latency_ms_mean=_rounded(totals.mean(side, "latency_ms")),
            latency_ms_p50=_rounded(totals.quantile_ms(side, 0.5)),
            latency_ms_p99=_rounded(totals.quantile_ms(side, 0.99)),
            queue_ms_mean=_rounded(totals.mean(side, "queue_ms")),
            run_ms_per_row=_rounded(totals.mean(side, "run_ms")),
            mean_confidence=None if kind == "series" else certainty,
            mean_interval_width=certainty if kind == "series" else None,
        )


class CanaryFigures(Schema):
    """What was counted since the canary began, by all processes. With `shadow` both sides had the same rows."""

    live: CanarySide
    candidate: CanarySide
    confidence_difference: float | None = Field(
        None, description="mean confidence of the candidate less that of the live one"
    )
    fallbacks: int = Field(description="requests that the live version answered in the candidate's place")
    dropped_rows: int = Field(description="rows not shadowed, for the candidate was too far behind")
    compared_rows: int = Field(description="rows that both versions answered; 0 with `split`")
    agreement: float | None = Field(
        None,
        description="share of the compared rows with the same label; of forecasts, the share of points of the "
        "candidate's `mean` within the live interval",
    )
    confidence_shift: float | None = Field(
        None, description="mean change, from the live version to the candidate, of the probability of the live answer"
    )
    mean_abs_difference: float | None = Field(None, description="of the two forecasts' `mean`, in the target's unit")

    @classmethod
    def of(cls, totals: CanaryTotals, kind: Kind) -> CanaryFigures:
        live, candidate = CanarySide.of(totals, "live", kind), CanarySide.of(totals, "candidate", kind)
        ours, theirs = live.mean_confidence, candidate.mean_confidence
        compared = int(totals["compared_rows"])
        series = kind == "series"

        def mean(what: str) -> float | None:
            return totals[what] / compared if compared else None

        return cls(
            live=live,
            candidate=candidate,
            confidence_difference=None if ours is None or theirs is None else _rounded(theirs - ours, 6),
            fallbacks=int(totals["fallbacks"]),
            dropped_rows=int(totals["dropped_rows"]),
            compared_rows=compared,
            agreement=mean("agreed"),
            confidence_shift=None if series else _rounded(mean("shift"), 6),
            mean_abs_difference=_rounded(mean("difference"), 6) if series else None,
        )


class RuleVerdict(Schema):
    """What the rule says now."""

    state: Literal["waiting", "passed", "failed"]
    reason: str


class RunningCanary(Schema):
    """The order, what was counted of it, and what its rule says."""

    number: int = Field(description="counts the canaries of the model")
    version: int = Field(description="the candidate")
    against: int = Field(description="the live version it is tried against")
    percent: float
    mode: Mode
    rule: Rule | None = None
    started_at: datetime
    figures: CanaryFigures
    verdict: RuleVerdict | None = None

    @classmethod
    def of(cls, order: CanaryOrder, figures: CanaryFigures, verdict: Verdict | None) -> RunningCanary:
        return cls(
            **_order(order),
            figures=figures,
            verdict=None if verdict is None else RuleVerdict(**verdict.model_dump()),
        )


class EndedCanary(Schema):
    """How the last canary of the model ended."""

    number: int
    version: int
    against: int
    percent: float
    mode: Mode
    rule: Rule | None = None
    started_at: datetime
    ended_at: datetime
    outcome: End = Field(
        description="`promoted`: the candidate went live; `aborted`: by its rule, or because it could not run; "
        "`ended`: by DELETE; `superseded`: another version went live"
    )
    reason: str
    figures: CanaryFigures | None = None

    @classmethod
    def of(cls, ended: CanaryOutcome) -> EndedCanary:
        try:
            figures = CanaryFigures.model_validate(ended.figures)
        except ValidationError:  # written by a release that counted something else
            figures = None
        return cls(
            **_order(ended.order),
            ended_at=ended.ended_at,
            outcome=ended.outcome,
            reason=ended.reason,
            figures=figures,
        )


class CanaryInfo(Schema):
    """The canary of a model: the running one, and how the one before it ended."""

    model: str = Field(examples=["digit-cnn"])
    running: RunningCanary | None = None
    last: EndedCanary | None = None


def rule_of(rule: Rule | None) -> CanaryRule | None:
    return None if rule is None else CanaryRule(**rule.model_dump())


def _order(order: CanaryOrder) -> dict[str, Any]:
    fields = {name: getattr(order, name) for name in ("number", "version", "against", "percent", "mode", "started_at")}
    return {**fields, "rule": None if order.rule is None else Rule(**order.rule.model_dump())}


def _rounded(number: float | None, digits: int = 3) -> float | None:
    return None if number is None else round(number, digits)
