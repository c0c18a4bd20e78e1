"""The quality gate: a pure judgement of a candidate, from its draft manifest, the live version's and a trial of both.

The rules travel in the draft (`provenance.settings["gate"]`), so that whoever publishes needs no torch.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from models.jobs import Promote
from models.manifest import GateVerdict, Manifest, Record
from training.trial import Trial

SETTING = "gate"
VALIDATION = "validation_sha256"
"""The setting that tells the rows of the validation split: two versions with the same were measured on the same."""
MAX_BYTES = 64 * 1024 * 1024


class GateRules(Record):
    """What a version must reach.

    `metric`, `floor` and the `margin` to the live version are those of the validation split. A batch may take
    `latency_ratio` times as long as the live version's, or `latency_slack_ms` more where that is longer; one row never
    longer than `max_latency_ms`.
    """

    metric: str
    higher_is_better: bool
    floor: float
    margin: float
    max_bytes: int = MAX_BYTES
    latency_ratio: float = 2.0
    latency_slack_ms: float = 0.5
    max_latency_ms: float = 1000.0


class GateError(ValueError):
    """The draft does not carry the rules to judge it by."""


def rules_of(candidate: Manifest) -> GateRules:
    """The rules in a draft."""
    try:
        return GateRules.model_validate(candidate.provenance.settings.get(SETTING))
    except ValidationError as exc:
        raise GateError(f"the draft of {candidate.name} carries no gate rules") from exc


def judge(candidate: Manifest, live: Manifest | None, trial: Trial, promote: Promote = "if_better") -> GateVerdict:
    """The verdict, with a sentence for each rule and the figures it rests on.

    `always` leaves out the comparison of the metric with the live version's, and nothing else.
    """
    rules = rules_of(candidate)
    value = _metric(candidate, rules)
    checks = [
        _reaches(rules, value),
        _agrees(candidate),
        _repeats(candidate, trial),
        _small_enough(candidate, rules),
        _quick_enough(rules, trial),
    ]
    if live is None:
        checks.append((True, "there is no live version to compare with"))
    else:
        checks.append(_as_quick(rules, trial, live.version))
        checks.append(_same_contract(candidate, live))
        checks.append(_compared(rules, candidate, live, promote))
    return GateVerdict(
        passed=all(passed for passed, _ in checks),
        reasons=[reason for _, reason in checks],
        compared_with=None if live is None else live.version,
        figures=_figures(rules, candidate, live, trial),
    )


_Check = tuple[bool, str]


def _figures(rules: GateRules, candidate: Manifest, live: Manifest | None, trial: Trial) -> dict[str, Any]:
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
        figures |= {"live": _metric(live, rules), "margin": rules.margin}
        figures["validation"] |= {
            "live": live.metrics.get("validation", {}),
            "same_split": _other_split(candidate, live) is None,
        }
        figures["bytes"]["live"] = _bytes(live)
    return figures


def _plain(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < float("inf") else None


def _bytes(manifest: Manifest) -> int:
    return sum(entry.bytes for entry in manifest.files.values())


def _metric(manifest: Manifest, rules: GateRules) -> float | None:
    return manifest.metrics.get("validation", {}).get(rules.metric)


def _reaches(rules: GateRules, value: float | None) -> _Check:
    what = f"validation {rules.metric}"
    if value is None:
        return False, f"{what} was not measured"
    good = value >= rules.floor if rules.higher_is_better else value <= rules.floor
    side = ("at least" if rules.higher_is_better else "at most") + f" {rules.floor:g}"
    return good, f"{what} is {value:.4f}, {'and' if good else 'but'} must be {side}"


def _compared(rules: GateRules, candidate: Manifest, live: Manifest, promote: Promote) -> _Check:
    if promote == "always":
        return True, f"the comparison with live version {live.version} was left out as asked"
    before = _metric(live, rules)
    if before is None:
        return True, f"live version {live.version} has no validation {rules.metric} to compare with"
    if other := _other_split(candidate, live):
        return False, (
            f"it cannot be compared with live version {live.version}: {other}; publish it with promote=always "
            f"if it is to go live all the same"
        )
    return _no_worse(rules, _metric(candidate, rules), before, live.version)


def _other_split(candidate: Manifest, live: Manifest) -> str | None:
    """Why the two were not measured on the same validation split, or None."""
    new, old = candidate.provenance, live.provenance
    digests = [made.settings.get(VALIDATION) for made in (new, old)]
    if None not in digests:
        return None if digests[0] == digests[1] else "their validation splits hold other rows"
    # Versions from before splits had a digest: a split follows from the data files alone.
    files = [{(each.file, each.sha256) for each in made.data} for made in (new, old)]
    if files[0] != files[1]:
        names = sorted({name for name, _ in files[0] ^ files[1]})
        return f"they come from other data files ({', '.join(names)})"
    rows = [(made.settings.get("rows") or {}).get("validation") for made in (new, old)]
    return None if None in rows or rows[0] == rows[1] else f"their validation splits have {rows[0]} and {rows[1]} rows"


def _no_worse(rules: GateRules, value: float | None, before: float, version: int) -> _Check:
    what = f"validation {rules.metric}"
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


def _repeats(candidate: Manifest, trial: Trial) -> _Check:
    worst, most = trial.golden_diff, candidate.golden.atol
    good = worst <= most
    return good, (
        f"its file differs from its golden sample by {worst:.1e}, {'within' if good else 'more than'} the "
        f"tolerance of {most:.0e}"
    )


def _small_enough(candidate: Manifest, rules: GateRules) -> _Check:
    size = _bytes(candidate)
    good = size <= rules.max_bytes
    return good, f"its files have {size} bytes, {'within' if good else 'more than'} the limit of {rules.max_bytes}"


def _quick_enough(rules: GateRules, trial: Trial) -> _Check:
    single = trial.timings[0]
    good = single.candidate_ms <= rules.max_latency_ms
    return good, (
        f"{_rows(single.rows)} takes {single.candidate_ms:.3g} ms on one thread, {'within' if good else 'more than'} "
        f"the limit of {rules.max_latency_ms:g} ms"
    )


def _as_quick(rules: GateRules, trial: Trial, version: int) -> _Check:
    if trial.live_problem is not None:
        return True, f"its latency was not compared: {trial.live_problem}"
    said, good = [], True
    for timing in trial.timings:
        if timing.live_ms is None:
            continue
        fits = timing.candidate_ms <= max(rules.latency_ratio * timing.live_ms, timing.live_ms + rules.latency_slack_ms)
        said.append(f"{_rows(timing.rows)} {timing.candidate_ms:.3g} ms after {timing.live_ms:.3g} ms")
        good = good and fits
    return good, (
        f"its latency beside live version {version} is {'within' if good else 'more than'} {rules.latency_ratio:g} "
        f"times that ({', '.join(said)})"
    )


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"a batch of {count} rows"


def _same_contract(candidate: Manifest, live: Manifest) -> _Check:
    new, old = candidate.contract, live.contract
    differing = sorted(key for key in {*new, *old} if new.get(key) != old.get(key))
    if not differing:
        return True, f"it takes and gives the same as live version {live.version}"
    return False, f"its {', '.join(differing)} differ from those of live version {live.version}: clients would break"
