"""From a candidate to a version: the evidence is in the job, the manifest and the report, and nothing is waived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.manifest import DataFile, GateCheck, GateVerdict, Golden, Manifest, Parity, Provenance, file_entry
from models.store import Store, StoreWriteError
from tests.training.kept import RULES, keep, made
from training import gate
from training.publish import DRAFT_FILE, REPORT, CandidateError, publish
from training.reports.verdict import PLACE, draw
from training.worker import clear_leftovers

NAME = "digit-mlp"


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _candidate(folder: Path, accuracy: float = 0.99, **changes: Any) -> Path:
    """A finished candidate whose report has room for the verdict."""
    draft = made(accuracy=accuracy, **changes)
    candidate = keep(folder, draft)
    page = candidate / REPORT
    page.parent.mkdir()
    page.write_text(f"<main>figures{PLACE}curves</main>", "utf-8")
    files = {name: file_entry(candidate / name) for name in ("model.onnx", REPORT)}
    (candidate / DRAFT_FILE).write_text(draft.model_copy(update={"files": files}).to_json(), "utf-8")
    return candidate


def _page(store: Store, version: int) -> str:
    return (store.folder(NAME, version) / REPORT).read_text("utf-8")


def test_the_evidence_is_in_the_job_the_manifest_and_the_report(store: Store, tmp_path: Path) -> None:
    """Both versions' figures, parity, self-test, size and latency, with the reasons, in all three."""
    publish(_candidate(tmp_path / "one", accuracy=0.991), store)
    result = publish(_candidate(tmp_path / "two", accuracy=0.992), store, job_id="job-2")
    assert result.model is not None
    assert (result.model.version, result.model.live) == (2, True)
    manifest = store.verify(NAME, 2)
    assert manifest.gate is not None
    assert manifest.gate.figures == result.gate.figures
    assert manifest.gate.reasons == result.gate.reasons
    assert (result.gate.compared_with, manifest.gate.compared_with) == (1, 1)
    figures = result.gate.figures
    assert figures["validation"]["candidate"]["accuracy"] == 0.992
    assert figures["validation"]["live"]["accuracy"] == 0.991
    assert figures["validation"]["same_split"] is True
    assert figures["self_test"]["max_abs_diff"] < 1e-6
    assert figures["parity"]["tolerance"] == 1e-4
    assert figures["bytes"]["candidate"] > 400
    assert all(found["candidate"] > 0 and found["live"] > 0 for found in figures["latency_ms"].values())
    page = _page(store, 2)
    assert page == f"<main>figures{draw(manifest.gate)}curves</main>"
    for word in ("live version 1", "99.20", "99.10", "Latency of 32 rows", "Latency of 1 row", "no worse than"):
        assert word in page
    assert PLACE not in page


def test_the_report_marks_failed_checks_and_lists_them_first() -> None:
    """A mark and a word, not colour alone; the verdict of an earlier release has its sentences."""
    checks = [
        GateCheck(name="size", passed=True, detail="its files are small"),
        GateCheck(name="reference", passed=False, detail="the loss is <higher>"),
    ]
    page = draw(GateVerdict(passed=False, reasons=["x"], checks=checks, compared_with=3))
    assert page.index("✗ Failed</strong>: the loss is &lt;higher&gt;") < page.index("✓ Passed</strong>: its files")
    assert "The gate refused it, compared with version 3." in page
    assert "<li>so it is</li>" in draw(GateVerdict(passed=True, reasons=["so it is"]))


def test_a_refusal_carries_its_evidence_too(store: Store, tmp_path: Path) -> None:
    """A worse candidate: both figures and the reason are in the job's result, and the store is as it was."""
    publish(_candidate(tmp_path / "one", accuracy=0.995), store)
    refused = publish(_candidate(tmp_path / "two", accuracy=0.98), store)
    assert refused.model is None
    assert refused.gate.figures["live"] == 0.995
    assert refused.gate.figures["candidate"] == 0.98
    assert any("0.9800 is lower than the 0.9950 of reference" in reason for reason in refused.gate.reasons)
    assert store.versions(NAME) == [1]


def test_manual_waits_for_an_order(store: Store, tmp_path: Path) -> None:
    """The version is published with its verdict; the live one answers on until somebody promotes the other."""
    publish(_candidate(tmp_path / "one"), store)
    result = publish(_candidate(tmp_path / "two"), store, "manual")
    assert result.model is not None
    assert (result.model.version, result.model.live, store.live(NAME)) == (2, False, 1)
    store.promote(NAME, 2)
    assert store.live(NAME) == 2


def _unlike_its_sample(draft: Manifest) -> dict[str, Any]:
    golden = draft.golden
    return {"golden": Golden(inputs=golden.inputs, outputs={"probabilities": [[0.1] * 10] * 2})}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parity": Parity(max_abs_diff=1e-2, cases=[[1, 0]])}, "the trained network differ by 1.0e-02, more than"),
        (_unlike_its_sample(made()), "its file differs from its golden sample by"),
    ],
    ids=["parity", "self-test"],
)
def test_always_waives_the_comparison_and_nothing_else(
    store: Store, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """A worse version goes live when asked for; one that is not what was trained, or does not repeat itself, never."""
    publish(_candidate(tmp_path / "one", accuracy=0.995), store)
    forced = publish(_candidate(tmp_path / "two", accuracy=0.9), store, "always")
    assert forced.model is not None
    assert forced.model.live
    refused = publish(_candidate(tmp_path / "three", **changes), store, "always")
    assert refused.model is None
    assert any(says in reason for reason in refused.gate.reasons)
    assert store.live(NAME) == 2


def test_a_better_figure_on_other_data_is_no_better_version(store: Store, tmp_path: Path) -> None:
    """Trained and measured on another file: refused with the reason and the way out, which works."""

    def from_file(digit: str) -> Provenance:
        data = [DataFile(file="digits.gz", sha256=digit * 64, licence="own")]
        return Provenance(command="x", seed=0, data=data, settings={"gate": RULES})

    publish(_candidate(tmp_path / "one", provenance=from_file("1")), store)
    other = _candidate(tmp_path / "two", accuracy=0.999, provenance=from_file("2"))
    refused = publish(other, store)
    assert refused.model is None
    assert any("they come from other data files (digits.gz); publish it with promote=always" in each
               for each in refused.gate.reasons)  # fmt: skip
    assert publish(other, store, "always").gate.passed


def test_a_file_that_is_no_graph_ends_the_job_with_a_sentence(store: Store, tmp_path: Path) -> None:
    """What was written down as measured but does not run is nobody's version."""
    candidate = _candidate(tmp_path / "one")
    (candidate / "model.onnx").write_bytes(b"no graph")
    draft = made()
    files = {name: file_entry(candidate / name) for name in ("model.onnx", REPORT)}
    (candidate / DRAFT_FILE).write_text(draft.model_copy(update={"files": files}).to_json(), "utf-8")
    with pytest.raises(CandidateError, match=r"model\.onnx of the candidate does not run"):
        publish(candidate, store)
    assert store.names() == []


def test_a_job_that_was_rolled_back_is_not_made_live_again_by_its_repeat(store: Store, tmp_path: Path) -> None:
    """A worker that wakes late and does its last step again leaves the operator's decision alone."""
    publish(_candidate(tmp_path / "one"), store)
    candidate = _candidate(tmp_path / "two")
    publish(candidate, store, job_id="job-2")
    assert store.rollback(NAME) == 1
    again = publish(candidate, store, job_id="job-2")
    assert again.model is not None
    assert (again.model.version, again.model.live, store.live(NAME)) == (2, False, 1)


@pytest.mark.parametrize(("meanwhile", "live"), [(0.9902, True), (0.9999, False)], ids=["no better", "better"])
def test_a_version_that_went_live_meanwhile_is_compared_with_too(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: float, live: bool
) -> None:
    """Two jobs end at once: the later one goes live only if it is no worse than the one that came first."""
    publish(_candidate(tmp_path / "one", accuracy=0.9901), store)
    other, judge = _candidate(tmp_path / "other", accuracy=meanwhile), gate.judge

    def judged(*given: Any) -> GateVerdict:
        monkeypatch.setattr(gate, "judge", judge)
        found = judge(*given)
        publish(other, store)
        return found

    monkeypatch.setattr(gate, "judge", judged)
    result = publish(_candidate(tmp_path / "two", accuracy=0.9903), store)
    assert result.model is not None
    assert (result.model.version, result.model.live) == (3, live)
    assert store.live(NAME) == (3 if live else 2)
    assert "version 2 has gone live meanwhile; beside it:" in result.gate.reasons
    assert ("so it waits to be made live by hand" in result.gate.reasons) is not live
    assert result.gate.figures["live"] == meanwhile


def test_a_store_that_takes_nothing_is_told_in_a_sentence(tmp_path: Path) -> None:
    """A file where the store's folder should be: the reason of the system, and nothing left behind."""
    (tmp_path / "var").write_text("")
    store = Store(tmp_path / "var" / "models")
    with pytest.raises(StoreWriteError, match=r"nothing was published: .*models: File exists"):
        publish(_candidate(tmp_path / "one"), store)


def test_a_worker_clears_away_what_dead_publishers_left(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At its start, told in a line; a store that cannot be written is no reason not to start."""
    publish(_candidate(tmp_path / "one"), store)
    (store.root / ".staging" / "left").mkdir()
    with caplog.at_level("INFO"):
        clear_leftovers(store)
        assert "removed 1 leftovers of processes that are gone" in caplog.text
        assert not list((store.root / ".staging").iterdir())
        (store.root / NAME / ".live.draft").write_text("")
        (store.root / ".locks" / NAME).unlink()
        (store.root / ".locks").rmdir()
        (store.root / ".locks").write_text("no folder")
        clear_leftovers(store)
        assert "leftovers were not removed" in caplog.text
