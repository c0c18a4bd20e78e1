"""The gate's judgement of candidates."""

from __future__ import annotations

from typing import Any

import pytest

from models.manifest import DataFile, FileEntry, GateVerdict, Golden, Manifest, Parity, Provenance, TensorSpec, now
from training.gate import VALIDATION, GateError, GateRules
from training.gate import judge as judged
from training.trial import Timing, Trial

RULES = GateRules(metric="accuracy", higher_is_better=True, floor=0.97, margin=0.001)
SOUND = Trial(
    golden_diff=1e-7,
    timings=[Timing(rows=1, candidate_ms=0.1, live_ms=0.1), Timing(rows=32, candidate_ms=2.0, live_ms=2.1)],
)


def judge(candidate: Manifest, live: Manifest | None, promote: Any = "if_better", trial: Trial = SOUND) -> GateVerdict:
    return judged(candidate, live, trial, promote)


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
    assert any(f"cannot be compared with live version 2: {problem}" in each for each in verdict.reasons) is bool(
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


@pytest.mark.parametrize(("accuracy", "passed"), [(0.996, True), (0.995, True), (0.994, True), (0.9938, False)])
def test_a_version_may_be_worse_by_the_margin_and_no_more(accuracy: float, passed: bool) -> None:
    """Against a live 0.995 with margin 0.001: equal, better and exactly the margin pass."""
    verdict = judge(_manifest(accuracy), _manifest(0.995, version=4))
    assert verdict.passed is passed
    assert verdict.compared_with == 4
    assert verdict.figures["live"] == 0.995


def test_always_skips_the_regression_rule_and_says_so() -> None:
    """A worse version goes through when asked for, with the omission on record."""
    verdict = judge(_manifest(0.98), _manifest(0.999), "always")
    assert verdict.passed
    assert any("left out as asked" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("error", "passed"), [(0.2, True), (0.3, True), (0.31, True), (0.32, False), (0.6, False)])
def test_errors_are_better_when_lower(error: float, passed: bool) -> None:
    """For a metric such as an error, floor and margin turn round."""
    rules = GateRules(metric="accuracy", higher_is_better=False, floor=0.5, margin=0.01)
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
