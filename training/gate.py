"""The quality gate: a pure judgement of a candidate, from its draft manifest and the live version's.

The rules travel in the draft (`provenance.settings["gate"]`), so that whoever publishes needs no torch.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from models.jobs import Promote
from models.manifest import GateVerdict, Manifest, Record

SETTING = "gate"
MAX_BYTES = 64 * 1024 * 1024


class GateRules(Record):
    """What a version must reach: metric and floor on the validation split, margin to the live version, most bytes."""

    metric: str
    higher_is_better: bool
    floor: float
    margin: float
    max_bytes: int = MAX_BYTES


class GateError(ValueError):
    """The draft does not carry the rules to judge it by."""


def rules_of(candidate: Manifest) -> GateRules:
    """The rules in a draft."""
    try:
        return GateRules.model_validate(candidate.provenance.settings.get(SETTING))
    except ValidationError as exc:
        raise GateError(f"the draft of {candidate.name} carries no gate rules") from exc


def judge(candidate: Manifest, live: Manifest | None, promote: Promote = "if_better") -> GateVerdict:
    """The verdict, with a sentence for each rule; `always` leaves out the comparison with the live version."""
    rules = rules_of(candidate)
    value = _metric(candidate, rules)
    checks = [_reaches(rules, value), _agrees(candidate), _small_enough(candidate, rules)]
    figures: dict[str, Any] = {"metric": rules.metric, "candidate": value, "floor": rules.floor}
    if live is not None:
        checks.append(_same_contract(candidate, live))
        before = _metric(live, rules)
        figures |= {"live": before, "margin": rules.margin}
        if promote == "always":
            checks.append((True, f"the comparison with live version {live.version} was left out as asked"))
        else:
            checks.append(_no_worse(rules, value, before, live.version))
    else:
        checks.append((True, "there is no live version to compare with"))
    return GateVerdict(
        passed=all(passed for passed, _ in checks),
        reasons=[reason for _, reason in checks],
        compared_with=None if live is None else live.version,
        figures=figures,
    )


_Check = tuple[bool, str]


def _metric(manifest: Manifest, rules: GateRules) -> float | None:
    return manifest.metrics.get("validation", {}).get(rules.metric)


def _reaches(rules: GateRules, value: float | None) -> _Check:
    what = f"validation {rules.metric}"
    if value is None:
        return False, f"{what} was not measured"
    good = value >= rules.floor if rules.higher_is_better else value <= rules.floor
    side = ("at least" if rules.higher_is_better else "at most") + f" {rules.floor:g}"
    return good, f"{what} is {value:.4f}, {'and' if good else 'but'} must be {side}"


def _no_worse(rules: GateRules, value: float | None, before: float | None, version: int) -> _Check:
    what = f"validation {rules.metric}"
    if before is None:
        return True, f"live version {version} has no {what} to compare with"
    if value is None:
        return False, f"{what} was not measured and cannot be compared with live version {version}"
    loss = before - value if rules.higher_is_better else value - before
    # a margin of 0.001 must not be missed by the last bit of a difference of floats
    good = loss <= rules.margin + 1e-12
    word = "lower" if rules.higher_is_better else "higher"
    if loss <= 0:
        return True, f"{what} {value:.4f} is no worse than the {before:.4f} of live version {version}"
    verdict = "within" if good else "more than"
    return good, (
        f"{what} {value:.4f} is {word} than the {before:.4f} of live version {version} "
        f"by {loss:.4f}, {verdict} the margin of {rules.margin:g}"
    )


def _agrees(candidate: Manifest) -> _Check:
    worst, most = candidate.parity.max_abs_diff, candidate.parity.tolerance
    good = worst <= most
    return good, (
        f"the ONNX file and the trained network differ by {worst:.1e}, {'within' if good else 'more than'} the "
        f"tolerance of {most:.0e}"
    )


def _small_enough(candidate: Manifest, rules: GateRules) -> _Check:
    size = sum(entry.bytes for entry in candidate.files.values())
    good = size <= rules.max_bytes
    return good, f"its files have {size} bytes, {'within' if good else 'more than'} the limit of {rules.max_bytes}"


def _same_contract(candidate: Manifest, live: Manifest) -> _Check:
    new, old = candidate.contract, live.contract
    differing = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    if not differing:
        return True, f"it takes and gives the same as live version {live.version}"
    return False, f"its {', '.join(differing)} differ from those of live version {live.version}: clients would break"
