"""The quality gate: a pure judgement of a candidate, from its draft manifest, the live version's and what was measured.

The rules travel in the draft (`provenance.settings["gate"]`), so that whoever publishes needs no torch.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError, model_validator

from models import reference as figures_of
from models.jobs import Promote
from models.manifest import GateCheck, GateVerdict, Manifest, Record
from training.reference import Comparison
from training.trial import Trial

SETTING = figures_of.RULES
VALIDATION = figures_of.VALIDATION
MAX_BYTES = 64 * 1024 * 1024
_LAST_BIT = 1e-12
"""A limit must not be missed by the last bit of a difference of floats."""
_RESOLUTION = 1e-6
"""Mean losses of one network differ by less than this between two runs: float32, another order of sums."""


class GateRules(Record):
    """What a version must reach.

    `metric` and `floor` are those of the validation split. A batch may take `latency_ratio` times as long as the live
    version's, or `latency_slack_ms` more where that is longer; one row never longer than `max_latency_ms`.
    """

    metric: str
    higher_is_better: bool
    floor: float
    max_bytes: int = MAX_BYTES
    latency_ratio: float = 2.0
    latency_slack_ms: float = 0.5
    max_latency_ms: float = 1000.0

    @model_validator(mode="before")
    @classmethod
    def _without_margin(cls, given: Any) -> Any:
        """Drafts of earlier releases, which a job that goes on may have left, carry a margin that no longer counts."""
        return {key: value for key, value in given.items() if key != "margin"} if isinstance(given, dict) else given


class GateError(ValueError):
    """The draft does not carry the rules to judge it by."""


def rules_of(candidate: Manifest) -> GateRules:
    """The rules in a draft."""
    try:
        return GateRules.model_validate(candidate.provenance.settings.get(SETTING))
    except ValidationError as exc:
        raise GateError(f"the draft of {candidate.name} carries no gate rules") from exc


def judge(
    candidate: Manifest,
    live: Manifest | None,
    trial: Trial,
    promote: Promote = "if_better",
    comparison: Comparison | None = None,
    reference: Manifest | None = None,
) -> GateVerdict:
    """The verdict: a check for each rule, failed ones first, and the figures they rest on.

    `comparison` is that of the losses. A draft without losses (of an earlier release, or another trainer) is compared
    with the recorded figure of the version `reference` instead. `always` leaves out this comparison and nothing else.
    """
    rules = rules_of(candidate)
    checks = [
        _reaches(rules, candidate),
        _agrees(candidate),
        _repeats(candidate, trial),
        _small_enough(candidate, rules),
        _quick_enough(rules, trial),
    ]
    if live is not None:
        checks += [_as_quick(rules, trial, live.version), _same_contract(candidate, live)]
    beside = comparison.version if comparison is not None else None if reference is None else reference.version
    if comparison is not None:
        checks.append(_compared(candidate, comparison, promote))
    elif reference is not None:
        checks.append(_figures_compared(rules, candidate, reference, promote))
    else:
        checks.append(_reference_check(True, _FIRST + (_RESET if promote == "always" else "")))
    checks.sort(key=lambda check: check.passed)
    return GateVerdict(
        passed=all(check.passed for check in checks),
        reasons=[check.detail for check in checks],
        compared_with=beside if beside is not None or live is None else live.version,
        checks=checks,
        figures=_figures(rules, candidate, live, trial, comparison),
    )


_FIRST = "there is no live version to compare with"
_RESET = "; with promote: always this version becomes the reference"


def _figures(
    rules: GateRules, candidate: Manifest, live: Manifest | None, trial: Trial, comparison: Comparison | None
) -> dict[str, Any]:
    """The evidence, as plain data."""
    figures: dict[str, Any] = {
        "metric": rules.metric,
        "candidate": _metric(candidate, rules),
        "floor": rules.floor,
        "validation": {"candidate": candidate.metrics.get("validation", {})},
        "parity": {"max_abs_diff": candidate.parity.max_abs_diff, "tolerance": candidate.parity.tolerance},
        "self_test": {"max_abs_diff": _plain(trial.golden_diff), "tolerance": candidate.golden.atol},
        "bytes": {"candidate": _bytes(candidate), "limit": rules.max_bytes},
        "latency_ms": {
            f"{timing.rows} rows" if timing.rows > 1 else "1 row": {"candidate": timing.candidate_ms}
            | ({} if timing.live_ms is None else {"live": timing.live_ms})
            for timing in trial.timings
        },
    }
    if live is not None:
        figures |= {"live": _metric(live, rules), "live_version": live.version}
        figures["validation"] |= {
            "live": live.metrics.get("validation", {}),
            "same_split": figures_of.other_rows(candidate, live) is None,
        }
        figures["bytes"]["live"] = _bytes(live)
    if comparison is not None and comparison.version is not None:
        figures["loss"] = comparison.model_dump(exclude={"problem", "passed_over"}) | {"unit": _unit(candidate)}
    return figures


def _plain(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < float("inf") else None


def _bytes(manifest: Manifest) -> int:
    return sum(entry.bytes for entry in manifest.files.values())


def _metric(manifest: Manifest, rules: GateRules) -> float | None:
    return manifest.metrics.get("validation", {}).get(rules.metric)


def _reaches(rules: GateRules, candidate: Manifest) -> GateCheck:
    name, what, value = "metric_floor", f"validation {rules.metric}", _metric(candidate, rules)
    if value is None:
        return GateCheck(name=name, passed=False, detail=f"{what} was not measured", limit=rules.floor)
    good = value >= rules.floor if rules.higher_is_better else value <= rules.floor
    side = ("at least" if rules.higher_is_better else "at most") + f" {rules.floor:g}"
    detail = f"{what} is {value:.4f}, {'and' if good else 'but'} must be {side}"
    return GateCheck(name=name, passed=good, detail=detail, value=value, limit=rules.floor)


def _reference_check(
    passed: bool,
    detail: str,
    value: float | None = None,
    limit: float | None = None,
    passed_over: list[str] | None = None,
) -> GateCheck:
    detail = "; ".join([detail, *(passed_over or [])])
    return GateCheck(name="reference", passed=passed, detail=detail, value=value, limit=limit)


def _compared(candidate: Manifest, found: Comparison, promote: Promote) -> GateCheck:
    """The paired losses: at most one standard error worse than the reference."""
    if promote == "always":
        beside = "the reference" if found.version is None else f"reference version {found.version}"
        detail = f"the comparison with {beside} was left out as asked{_RESET}"
        return _reference_check(True, detail, found.difference, found.standard_error)
    if found.problem is not None:
        detail = f"it cannot be compared with the reference: {found.problem}{_ALL_THE_SAME}"
        return _reference_check(False, detail, passed_over=found.passed_over)
    if found.difference is None or found.standard_error is None:
        return _reference_check(True, "there is no reference to compare with", passed_over=found.passed_over)
    limit = max(found.standard_error, _RESOLUTION)
    good = found.difference <= limit + _LAST_BIT
    said = f"mean validation loss {found.candidate:.5f}"
    beside = f"the {found.reference:.5f} of reference version {found.version}"
    over = f"over {found.count:,} {_unit(candidate)}"
    if found.difference <= _RESOLUTION:
        detail = f"{said} is no higher than {beside}, {over}"
    else:
        detail = (
            f"{said} is higher than {beside} by {found.difference:.5f}, {'within' if good else 'more than'} one "
            f"standard error of the paired difference, {found.standard_error:.5f}, {over}"
        )
    return _reference_check(good, detail, found.difference, limit, found.passed_over)


_ALL_THE_SAME = "; publish it with promote=always if it is to go live all the same"


def _unit(candidate: Manifest) -> str:
    return "rows" if candidate.series is None else f"blocks of {candidate.series.horizon} steps"


def _figures_compared(rules: GateRules, candidate: Manifest, reference: Manifest, promote: Promote) -> GateCheck:
    """The recorded metrics, where the candidate has no losses: no standard error is known, so none is allowed."""
    what, version = f"validation {rules.metric}", reference.version
    value, before = _metric(candidate, rules), _metric(reference, rules)
    if promote == "always":
        detail = f"the comparison with reference version {version} was left out as asked{_RESET}"
        return _reference_check(True, detail, value, before)
    if before is None:
        return _reference_check(True, f"reference version {version} has no {what} to compare with", value)
    if other := figures_of.other_rows(candidate, reference):
        detail = f"it cannot be compared with reference version {version}: {other}{_ALL_THE_SAME}"
        return _reference_check(False, detail, value, before)
    if value is None:
        detail = f"{what} was not measured and cannot be compared with reference version {version}"
        return _reference_check(False, detail, None, before)
    worse = before - value if rules.higher_is_better else value - before
    if worse <= _LAST_BIT:
        detail = f"{what} {value:.4f} is no worse than the {before:.4f} of reference version {version}"
        return _reference_check(True, detail, value, before)
    word = "lower" if rules.higher_is_better else "higher"
    detail = (
        f"{what} {value:.4f} is {word} than the {before:.4f} of reference version {version}, and its losses are unknown"
    )
    return _reference_check(False, detail, value, before)


def _agrees(candidate: Manifest) -> GateCheck:
    worst, most = candidate.parity.max_abs_diff, candidate.parity.tolerance
    good = worst <= most
    detail = (
        f"the ONNX file and the trained network differ by {worst:.1e}, {'within' if good else 'more than'} the "
        f"tolerance of {most:.0e}"
    )
    return GateCheck(name="parity", passed=good, detail=detail, value=worst, limit=most)


def _repeats(candidate: Manifest, trial: Trial) -> GateCheck:
    worst, most = trial.golden_diff, candidate.golden.atol
    good = worst <= most
    detail = (
        f"its file differs from its golden sample by {worst:.1e}, {'within' if good else 'more than'} the "
        f"tolerance of {most:.0e}"
    )
    return GateCheck(name="golden_sample", passed=good, detail=detail, value=_plain(worst), limit=most)


def _small_enough(candidate: Manifest, rules: GateRules) -> GateCheck:
    size, most = _bytes(candidate), rules.max_bytes
    good = size <= most
    detail = f"its files have {size} bytes, {'within' if good else 'more than'} the limit of {most}"
    return GateCheck(name="size", passed=good, detail=detail, value=size, limit=most)


def _quick_enough(rules: GateRules, trial: Trial) -> GateCheck:
    single, most = trial.timings[0], rules.max_latency_ms
    good = single.candidate_ms <= most
    detail = (
        f"{_rows(single.rows)} takes {single.candidate_ms:.3g} ms on one thread, {'within' if good else 'more than'} "
        f"the limit of {most:g} ms"
    )
    return GateCheck(name="latency", passed=good, detail=detail, value=single.candidate_ms, limit=most)


def _as_quick(rules: GateRules, trial: Trial, version: int) -> GateCheck:
    name = "latency_beside_live"
    if trial.live_problem is not None:
        return GateCheck(name=name, passed=True, detail=f"its latency was not compared: {trial.live_problem}")
    said, shares = [], [0.0]
    for timing in trial.timings:
        if timing.live_ms is None:
            continue
        most = max(rules.latency_ratio * timing.live_ms, timing.live_ms + rules.latency_slack_ms)
        said.append(f"{_rows(timing.rows)} {timing.candidate_ms:.3g} ms after {timing.live_ms:.3g} ms")
        shares.append(timing.candidate_ms / most)
    good = max(shares) <= 1
    detail = (
        f"its latency beside live version {version} is {'within' if good else 'more than'} {rules.latency_ratio:g} "
        f"times that ({', '.join(said)})"
    )
    return GateCheck(name=name, passed=good, detail=detail)


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"a batch of {count} rows"


def _same_contract(candidate: Manifest, live: Manifest) -> GateCheck:
    differing = live.broken_by(candidate)
    detail = f"it takes and gives what live version {live.version} does"
    if differing:
        detail = f"its {', '.join(differing)} differ from those of live version {live.version}: clients would break"
    return GateCheck(name="contract", passed=not differing, detail=detail)
