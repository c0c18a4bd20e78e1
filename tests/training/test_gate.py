"""The gate's judgement of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.manifest import DataFile, FileEntry, GateVerdict, Golden, Manifest, Parity, Provenance, TensorSpec, now
from training.gate import VALIDATION, GateError, GateRules
from training.gate import judge as judged
from training.reference import Comparison, paired
from training.trial import Timing, Trial

RULES = GateRules(metric="accuracy", higher_is_better=True, floor=0.97)
SOUND = Trial(
    golden_diff=1e-7,
    timings=[Timing(rows=1, candidate_ms=0.1, live_ms=0.1), Timing(rows=32, candidate_ms=2.0, live_ms=2.1)],
)


def judge(
    candidate: Manifest,
    live: Manifest | None,
    promote: Any = "if_better",
    trial: Trial = SOUND,
    comparison: Comparison | None = None,
) -> GateVerdict:
    """The verdict where the live version is the reference too."""
    return judged(candidate, live, trial, promote, comparison, live)


def _beside(ours: NDArray[np.float64], theirs: NDArray[np.float64], **changes: Any) -> Comparison:
    return paired(ours.astype(np.float32), theirs.astype(np.float32)).model_copy(update={"version": 3, **changes})


def _manifest(accuracy: float | None = 0.99, rules: GateRules = RULES, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "digit-cnn",
        "version": 1,
        "task": "digit",
        "network": "cnn",
        "kind": "image",
        "created_at": now(),
        "files": {"model.onnx": FileEntry(sha256="0" * 64, bytes=1000)},
        "inputs": [TensorSpec(name="pixels", dtype="uint8", shape=["batch", 28, 28])],
        "outputs": [TensorSpec(name="probabilities", dtype="float32", shape=["batch", 10])],
        "labels": list("0123456789"),
        "metrics": {"validation": {} if accuracy is None else {"accuracy": accuracy}},
        "golden": Golden(inputs={}, outputs={}),
        "parity": Parity(max_abs_diff=1e-7, cases=[[1, 0]]),
        "provenance": Provenance(command="x", seed=0, data=[], settings={"gate": rules.model_dump()}),
    }
    return Manifest(**fields | changes)


def test_the_first_version_above_the_floor_passes() -> None:
    """Without a live version the floor, parity and size decide, and the verdict says there was none."""
    verdict = judge(_manifest(), None)
    assert verdict.passed
    assert verdict.compared_with is None
    assert "there is no live version to compare with" in verdict.reasons
    assert verdict.figures == {
        "metric": "accuracy",
        "candidate": 0.99,
        "floor": 0.97,
        "validation": {"candidate": {"accuracy": 0.99}},
        "parity": {"max_abs_diff": 1e-7, "tolerance": 1e-4},
        "self_test": {"max_abs_diff": 1e-7, "tolerance": 1e-3},
        "bytes": {"candidate": 1000, "limit": 64 * 2**20},
        "latency_ms": {"1 row": {"candidate": 0.1, "live": 0.1}, "32 rows": {"candidate": 2.0, "live": 2.1}},
    }


def test_the_evidence_has_both_versions_side_by_side() -> None:
    """Figures of the validation split, size and latency of the candidate and of the live version; plain JSON."""
    verdict = judge(_manifest(0.99), _manifest(0.991, version=3))
    assert verdict.figures["validation"] == {
        "candidate": {"accuracy": 0.99},
        "live": {"accuracy": 0.991},
        "same_split": True,
    }
    assert verdict.figures["bytes"] == {"candidate": 1000, "limit": 64 * 2**20, "live": 1000}
    assert verdict.figures["latency_ms"]["32 rows"] == {"candidate": 2.0, "live": 2.1}
    assert GateVerdict.model_validate_json(verdict.model_dump_json()) == verdict


def _from(data: str = "a", digest: str | None = None, rows: int | None = None) -> Provenance:
    settings: dict[str, Any] = {"gate": RULES.model_dump()}
    if digest is not None:
        settings[VALIDATION] = digest
    if rows is not None:
        settings["rows"] = {"validation": rows}
    files = [DataFile(file="mnist", sha256=data * 64, licence="free")]
    return Provenance(command="x", seed=0, data=files, settings=settings)


@pytest.mark.parametrize(
    ("new", "old", "problem"),
    [
        (_from("a", "x"), _from("b", "x"), None),
        (_from("a", "x"), _from("a", "y"), "their validation splits hold other rows"),
        (_from("a", "x"), _from("a"), None),
        (_from("a", "x"), _from("b"), "they come from other data files (mnist)"),
        (_from("a", rows=5000), _from("a", rows=4000), "their validation splits have 5000 and 4000 rows"),
    ],
    ids=["same digest", "other digest", "older version, same files", "older version, other files", "other rows"],
)
def test_figures_of_different_validation_splits_are_not_compared(
    new: Provenance, old: Provenance, problem: str | None
) -> None:
    """A better figure on other rows proves nothing: refused with the reason, unless the comparison is waived."""
    candidate, live = _manifest(0.999, provenance=new), _manifest(0.99, version=2, provenance=old)
    verdict = judge(candidate, live)
    assert verdict.passed is (problem is None)
    assert verdict.figures["validation"]["same_split"] is (problem is None)
    assert any(f"cannot be compared with reference version 2: {problem}" in each for each in verdict.reasons) is bool(
        problem
    )
    assert judge(candidate, live, "always").passed


@pytest.mark.parametrize(
    ("single", "batch", "passed"),
    [(0.1, 4.2, True), (0.1, 4.3, False), (0.6, 2.0, True), (0.61, 2.0, False)],
    ids=["twice", "more than twice", "half a millisecond more", "more than that"],
)
@pytest.mark.parametrize("promote", ["if_better", "manual", "always"])
def test_a_version_may_take_twice_as_long_and_no_more(single: float, batch: float, passed: bool, promote: Any) -> None:
    """Beside a live version with 0.1 and 2.1 ms; `always` does not waive it, and the sentence has both times."""
    timings = [Timing(rows=1, candidate_ms=single, live_ms=0.1), Timing(rows=32, candidate_ms=batch, live_ms=2.1)]
    verdict = judge(_manifest(), _manifest(), promote, Trial(golden_diff=0, timings=timings))
    assert verdict.passed is passed
    assert any(f"a batch of 32 rows {batch:.3g} ms after 2.1 ms" in reason for reason in verdict.reasons)


def test_without_a_live_version_the_latency_has_a_limit_all_the_same() -> None:
    """A second for one row on one thread."""
    slow = Trial(golden_diff=0, timings=[Timing(rows=1, candidate_ms=1001.0), Timing(rows=32, candidate_ms=9e3)])
    verdict = judge(_manifest(), None, trial=slow)
    assert not verdict.passed
    assert "one row takes 1e+03 ms on one thread, more than the limit of 1000 ms" in verdict.reasons


def test_a_live_version_that_does_not_run_cannot_hold_its_successor_back() -> None:
    """The comparison of latency is left out and the reason is on record."""
    alone = [Timing(rows=1, candidate_ms=0.1), Timing(rows=32, candidate_ms=2.0)]
    verdict = judge(_manifest(), _manifest(), trial=Trial(golden_diff=0, timings=alone, live_problem="it is broken"))
    assert verdict.passed
    assert "its latency was not compared: it is broken" in verdict.reasons


@pytest.mark.parametrize("promote", ["if_better", "manual", "always"])
@pytest.mark.parametrize("diff", [2e-3, float("inf")])
def test_a_file_that_does_not_repeat_its_golden_sample_never_passes(promote: Any, diff: float) -> None:
    """Every service would refuse it, so no order puts it into the store; infinity is no JSON and stays out."""
    verdict = judge(_manifest(), None, promote, SOUND.model_copy(update={"golden_diff": diff}))
    assert not verdict.passed
    assert any("differs from its golden sample" in reason and "more than" in reason for reason in verdict.reasons)
    assert "Infinity" not in verdict.model_dump_json()


@pytest.mark.parametrize("promote", ["if_better", "manual", "always"])
def test_parity_is_never_waived(promote: Any) -> None:
    """A file that gives other numbers than the network that was measured stays out, whatever was asked."""
    assert not judge(_manifest(parity=Parity(max_abs_diff=1e-3, cases=[[1, 0]])), None, promote).passed


@pytest.mark.parametrize("promote", ["if_better", "manual", "always"])
def test_below_the_floor_nothing_passes(promote: Any) -> None:
    """`always` skips the comparison, never the floor."""
    verdict = judge(_manifest(0.9), _manifest(0.5), promote)
    assert not verdict.passed
    assert "validation accuracy is 0.9000, but must be at least 0.97" in verdict.reasons


@pytest.mark.parametrize(("accuracy", "passed"), [(0.996, True), (0.995, True), (0.9949, False)])
def test_without_losses_a_version_may_not_be_worse_at_all(accuracy: float, passed: bool) -> None:
    """Nobody knows the standard error of a figure alone: equal and better pass."""
    verdict = judge(_manifest(accuracy), _manifest(0.995, version=4))
    assert verdict.passed is passed
    assert verdict.compared_with == 4
    assert verdict.figures["live"] == 0.995


def test_always_skips_the_regression_rule_and_says_so() -> None:
    """A worse version goes through when asked for, with the omission on record."""
    verdict = judge(_manifest(0.98), _manifest(0.999), "always")
    assert verdict.passed
    assert any("left out as asked" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("error", "passed"), [(0.2, True), (0.3, True), (0.31, False), (0.6, False)])
def test_errors_are_better_when_lower(error: float, passed: bool) -> None:
    """For a metric such as an error, floor and comparison turn round."""
    rules = GateRules(metric="accuracy", higher_is_better=False, floor=0.5)
    assert judge(_manifest(error, rules), _manifest(0.3, rules)).passed is passed


def test_another_contract_is_refused_even_with_always() -> None:
    """Clients of the live version would break, so labels and tensors must stay."""
    verdict = judge(_manifest(labels=list("abcdefghij")), _manifest(), "always")
    assert not verdict.passed
    assert "its labels differ from those of live version 1: clients would break" in verdict.reasons


def test_parity_and_size_have_limits() -> None:
    """A file that differs from torch, or one that is too large, does not pass."""
    apart = judge(_manifest(parity=Parity(max_abs_diff=1e-3, cases=[[1, 0]])), None)
    large = judge(_manifest(files={"model.onnx": FileEntry(sha256="0" * 64, bytes=10**9)}), None)
    assert not apart.passed
    assert any("more than the tolerance" in reason for reason in apart.reasons)
    assert not large.passed
    assert any("more than the limit" in reason for reason in large.reasons)


def test_an_unmeasured_metric_fails_the_candidate_but_not_the_comparison() -> None:
    """Without its own figure a candidate is refused; a live version without one cannot hold it back."""
    assert not judge(_manifest(None), _manifest()).passed
    assert judge(_manifest(), _manifest(None)).passed


def test_a_draft_without_rules_is_an_error() -> None:
    """Nothing is judged by rules that are not there."""
    with pytest.raises(GateError, match="carries no gate rules"):
        judge(_manifest(provenance=Provenance(command="x", seed=0, data=[])), None)


_THEIRS = np.random.default_rng(0).gamma(0.2, 0.2, 5000)
_NOISE = np.random.default_rng(1).normal(0, 0.05, 5000)
_NOISE = (_NOISE - _NOISE.mean()) / _NOISE.std(ddof=1)


def _worse_by(standard_errors: float) -> NDArray[np.float64]:
    """Losses whose mean is above the reference's by so many standard errors of the paired difference."""
    spread = 0.07
    return _THEIRS + spread * _NOISE + standard_errors * spread / len(_THEIRS) ** 0.5


@pytest.mark.parametrize(
    ("standard_errors", "passed"), [(-3, True), (0, True), (0.99, True), (1.01, False), (3, False), (30, False)]
)
@pytest.mark.parametrize("promote", ["if_better", "manual"])
def test_a_version_may_be_worse_than_the_reference_by_one_standard_error(
    standard_errors: float, passed: bool, promote: Any
) -> None:
    """The check holds the mean paired difference beside its standard error, and the figures have both."""
    found = _beside(_worse_by(standard_errors), _THEIRS)
    verdict = judge(_manifest(), _manifest(version=5), promote, comparison=found)
    assert verdict.passed is passed
    assert verdict.compared_with == 3
    check = next(check for check in verdict.checks if check.name == "reference")
    assert check.limit == pytest.approx(0.07 / 5000**0.5, rel=1e-3)
    assert check.value == pytest.approx(standard_errors * 0.07 / 5000**0.5, abs=1e-8)
    assert verdict.figures["loss"]["standard_error"] == check.limit
    assert verdict.figures["loss"]["unit"] == "rows"
    assert ("more than one standard error of the paired difference" in check.detail) is not passed
    assert "over 5,000 rows" in check.detail


def test_pairs_tell_what_means_alone_cannot() -> None:
    """A small loss on every row is refused, although the rows differ by far more among themselves."""
    assert judge(_manifest(), _manifest(), comparison=_beside(_THEIRS, _THEIRS)).passed
    assert not judge(_manifest(), _manifest(), comparison=_beside(_THEIRS + 1e-4, _THEIRS)).passed


def test_the_standard_error_is_that_of_the_paired_differences() -> None:
    """s / sqrt(n) with n - 1 degrees of freedom; a single block has none and allows nothing."""
    found = paired(np.array([1, 2, 4], np.float32), np.array([1, 1, 2], np.float32))
    assert (found.difference, found.count) == (1.0, 3)
    assert found.standard_error == pytest.approx(1 / 3**0.5)
    assert paired(np.array([2], np.float32), np.array([1], np.float32)).standard_error == 0


def test_failed_checks_come_first_and_reasons_are_their_sentences() -> None:
    """Each with a name, and the value beside its limit where there is one."""
    verdict = judge(_manifest(0.9, parity=Parity(max_abs_diff=1e-3, cases=[[1, 0]])), None)
    assert [check.passed for check in verdict.checks] == [False, False, True, True, True, True]
    assert [check.name for check in verdict.checks[:2]] == ["metric_floor", "parity"]
    assert (verdict.checks[0].value, verdict.checks[0].limit) == (0.9, 0.97)
    assert verdict.reasons == [check.detail for check in verdict.checks]


def test_always_resets_the_reference_and_says_so() -> None:
    """Whatever the difference; the figures stay on record."""
    found = _beside(_worse_by(30), _THEIRS)
    verdict = judge(_manifest(), _manifest(), "always", comparison=found)
    assert verdict.passed
    said = "the comparison with reference version 3 was left out as asked; with promote: always this version becomes"
    assert any(said in reason for reason in verdict.reasons)
    assert verdict.figures["loss"]["difference"] == found.difference
    assert any("this version becomes the reference" in reason for reason in judge(_manifest(), None, "always").reasons)


def test_a_reference_that_could_not_be_measured_is_told() -> None:
    """Versions that cannot be the reference hold nothing back; one that was not measured does."""
    none_left = Comparison(passed_over=["version 2 cannot be the reference: its file is damaged"])
    verdict = judge(_manifest(), _manifest(), comparison=none_left)
    assert verdict.passed
    assert any("there is no reference to compare with; version 2 cannot be" in reason for reason in verdict.reasons)
    unknown = Comparison(problem="version 4 was not measured")
    verdict = judge(_manifest(), _manifest(), comparison=unknown)
    assert not verdict.passed
    assert "it cannot be compared with the reference: version 4 was not measured" in verdict.reasons[0]
    assert judge(_manifest(), _manifest(), "always", comparison=unknown).passed


def test_an_output_may_be_added_but_none_dropped_or_changed() -> None:
    """Clients that read the old outputs must still find them."""
    probabilities = TensorSpec(name="probabilities", dtype="float32", shape=["batch", 10])
    outlier = TensorSpec(name="outlier", dtype="float32", shape=["batch"])
    two, one = _manifest(outputs=[probabilities, outlier]), _manifest(outputs=[probabilities])
    other = _manifest(outputs=[TensorSpec(name="probabilities", dtype="float32", shape=["batch", 11])])
    assert judge(two, one).passed
    assert judge(two, two).passed
    assert not judge(one, two).passed
    assert not judge(other, one, "always").passed
    assert not judge(_manifest(inputs=[probabilities]), one).passed


def test_rules_of_an_earlier_release_are_read() -> None:
    """A job that goes on after an upgrade may have left a draft whose rules hold a margin, which counts no more."""
    settings = {"gate": RULES.model_dump() | {"margin": 0.5}}
    candidate = _manifest(0.98, provenance=Provenance(command="x", seed=0, data=[], settings=settings))
    assert not judge(candidate, _manifest(0.99)).passed
    assert GateVerdict.model_validate({"passed": True, "reasons": ["so"]}).checks == []
