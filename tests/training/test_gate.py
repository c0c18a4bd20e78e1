"""The gate's judgement of candidates."""

from __future__ import annotations

from typing import Any

import pytest

from models.manifest import FileEntry, Golden, Manifest, Parity, Provenance, TensorSpec, now
from training.gate import GateError, GateRules, judge

RULES = GateRules(metric="accuracy", higher_is_better=True, floor=0.97, margin=0.001)


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
    assert verdict.figures == {"metric": "accuracy", "candidate": 0.99, "floor": 0.97}


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
