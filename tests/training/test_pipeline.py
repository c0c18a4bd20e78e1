"""A whole training on real images: candidate, gate, publish, resume."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.jobs import EpochRow, JobResult, JobSpec, Progress, Stage
from models.manifest import Manifest, file_entry
from models.store import Store
from tests import artifacts
from tests.training.small import ROWS, SmallDigit
from training import export, pipeline, report
from training.pipeline import EvaluationError, train
from training.publish import DRAFT_FILE, CandidateError, publish, read_draft
from training.reference import MEASURED_FILE
from training.tasks.base import Inputs, Split, Splits

SPEC = JobSpec(task="digit", network="mlp", epochs=4, batch_size=32, learning_rate=0.003, seed=3)


class _Notes:
    """A reporter that remembers the order of things."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def stage(self, stage: Stage, path: str | None = None) -> None:
        self.told.append(stage)

    def step(self, progress: Progress) -> None:
        pass

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self.told.append(f"epoch {row.epoch}")

    def log(self, message: str) -> None:
        self.told.append(message)

    def error(self, message: str, code: str | None = None) -> None:
        self.told.append(message)

    def done(self, result: JobResult) -> None:
        pass


class _Counting(SmallDigit):
    """Counts how often the test split is run."""

    test: Split
    test_runs = 0

    def load(self, data_dir: Path, seed: int) -> Splits:
        splits = super().load(data_dir, seed)
        type(self).test = splits.test
        return splits

    def batches(self, split: Split, *settings: Any) -> Iterator[tuple[Inputs, Tensor]]:
        type(self).test_runs += split is self.test
        return super().batches(split, *settings)


@pytest.fixture(autouse=True)
def _data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))


@pytest.fixture(scope="module", name="trained")
def _trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    notes = _Notes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(data_dir))
        return train(_Counting(), SPEC, tmp_path_factory.mktemp("work"), notes), notes.told


@pytest.fixture(name="candidate")
def _candidate(trained: tuple[Path, list[str]]) -> Path:
    return trained[0]


def _altered(candidate: Path, folder: Path, **changes: object) -> Path:
    """A copy of the candidate with another draft."""
    shutil.copytree(candidate, folder)
    draft = json.loads((folder / DRAFT_FILE).read_text())
    (folder / DRAFT_FILE).write_text(json.dumps(draft | changes))
    return folder


def _worsen(candidate: Path, by: float) -> None:
    """Add so much to the candidate's loss on every validation row."""
    draft, path = read_draft(candidate), candidate / "validation-losses.npy"
    assert draft.losses is not None
    np.save(path, np.load(path) + np.float32(by))
    losses = draft.losses.model_copy(update={"mean": draft.losses.mean + by})
    files = draft.files | {path.name: file_entry(path)}
    (candidate / DRAFT_FILE).write_text(draft.model_copy(update={"losses": losses, "files": files}).to_json())


def test_the_stages_come_in_order(trained: tuple[Path, list[str]]) -> None:
    """Data, each epoch, fit, export, parity, evaluation, candidate."""
    epochs = [f"epoch {number}" for number in (1, 2, 3, 4)]
    assert trained[1] == ["data", *epochs, "fit", "export", "parity", "evaluate", "candidate"]


def test_the_draft_says_how_the_version_came_to_be(candidate: Path) -> None:
    """Command, seed, data with licences, settings, history, weights and libraries are in the provenance."""
    draft = read_draft(candidate)
    made = draft.provenance
    assert made.command == (
        "python -m training fit digit --network mlp --epochs 4 --batch-size 32 --learning-rate 0.003 --seed 3"
    )
    assert made.seed == 3
    assert made.data[0].file == "mnist/train-images-idx3-ubyte.gz"
    assert made.weights == 753_291
    assert made.epochs_run == len(made.history) == 4
    assert made.settings["rows"] == dict(zip(("train", "validation", "test"), ROWS, strict=True))
    assert made.settings["optimisation"]["schedule"] == "onecycle"
    assert {"python", "torch", "onnx", "numpy"} <= set(made.libraries)
    assert draft.buckets.rows == [1, 2, 4, 8, 16, 32, 64]
    assert draft.calibration["temperature"] > 0
    assert draft.doubt is not None
    assert draft.doubt.threshold == draft.calibration["outlier_threshold"]


def test_the_golden_sample_repeats_on_the_file(candidate: Path, data_dir: Path) -> None:
    """The sample is real validation rows, and a fresh session gives the recorded answers."""
    golden = read_draft(candidate).golden
    pixels = torch.tensor(golden.inputs["pixels"], dtype=torch.uint8)
    assert torch.equal(pixels, SmallDigit().load(data_dir, 0).validation.inputs["pixels"][:3])
    outputs = export.run(export.session(candidate / "model.onnx"), {"pixels": pixels})
    assert set(golden.outputs) == {"probabilities", "outlier"}
    for name, values in golden.outputs.items():
        np.testing.assert_allclose(outputs[name], values, atol=golden.atol)


def test_the_figures_are_those_of_the_onnx_file(candidate: Path, data_dir: Path) -> None:
    """Counting right answers of the file by hand gives the manifest's test accuracy."""
    test = SmallDigit().load(data_dir, 0).test
    outputs = export.run(export.session(candidate / "model.onnx"), test.inputs)["probabilities"]
    assert read_draft(candidate).metrics["test"]["accuracy"] == (outputs.argmax(1) == test.targets.numpy()).mean()


def test_the_report_is_drawn_from_one_run_of_the_test_split(candidate: Path) -> None:
    """The run that gives the test figures gives the report too, which lies in the candidate and tells them."""
    assert _Counting.test_runs == 1
    draft, page = read_draft(candidate), (candidate / report.PAGE).read_text("utf-8")
    assert draft.files[report.PAGE] == file_entry(candidate / report.PAGE)
    wrong = round((1 - draft.metrics["test"]["accuracy"]) * 200)
    assert f"{200 - wrong} of the 200 test rows are answered rightly, {wrong} wrongly." in page
    assert str(candidate.parent) not in page


@pytest.mark.slow
def test_a_report_that_cannot_be_drawn_ends_the_run(
    candidate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No version without its report: the error goes up and no candidate is left."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(candidate.parent / pipeline.CHECKPOINT, work)

    def broken(*_: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr(report, "render", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        train(SmallDigit(), SPEC, work, _Notes(), resume=True)
    assert not (work / "candidate").exists()


def test_a_first_version_that_passes_goes_live(candidate: Path, tmp_path: Path) -> None:
    """Published with its verdict and verified by the store; the draft does not travel."""
    store = Store(tmp_path)
    result = publish(candidate, store)
    assert result.model is not None
    assert (result.model.name, result.model.version, result.model.live) == ("digit-mlp", 1, True)
    assert result.gate.passed
    manifest = store.verify("digit-mlp", 1)
    assert manifest.gate is not None
    assert manifest.gate.reasons == result.gate.reasons
    assert set(manifest.files) == {"model.onnx", "report/index.html", "validation-losses.npy"}
    page = (store.folder("digit-mlp", 1) / "report" / "index.html").read_text()
    assert "What the gate said" in page
    assert all(html.escape(reason) in page for reason in manifest.gate.reasons)
    assert not list((tmp_path / ".staging").iterdir())


def test_a_job_that_publishes_twice_has_one_version(candidate: Path, tmp_path: Path) -> None:
    """The same job id finds its version again, even after it was superseded, and changes nothing."""
    store = Store(tmp_path)
    first = publish(candidate, store, job_id="job-1")
    assert publish(candidate, store, job_id="job-1") == first
    second = publish(candidate, store, job_id="job-2")
    assert second.model is not None
    assert second.model.version == 2
    late = publish(candidate, store, job_id="job-1")
    assert late.model is not None
    assert (late.model.version, late.model.live) == (1, False)
    assert store.versions("digit-mlp") == [1, 2]
    assert store.live("digit-mlp") == 2


def test_a_job_cut_off_before_its_promotion_is_promoted_when_it_comes_back(candidate: Path, tmp_path: Path) -> None:
    """Published but not yet live: the repeat makes it live."""
    store = Store(tmp_path)
    publish(candidate, store, "manual", job_id="job-1")
    assert store.live("digit-mlp") is None
    result = publish(candidate, store, "if_better", job_id="job-1")
    assert result.model is not None
    assert result.model.live


def test_a_damaged_neighbour_does_not_stop_a_job(candidate: Path, tmp_path: Path) -> None:
    """A version whose manifest cannot be read is passed over when a job looks for its own."""
    store = Store(tmp_path)
    publish(candidate, store, job_id="job-1")
    publish(candidate, store, "manual", job_id="job-2")
    (store.folder("digit-mlp", 2) / "manifest.json").write_text("{")
    result = publish(candidate, store, job_id="job-3")
    assert result.model is not None
    assert result.model.version == 3


def test_manual_publishes_without_going_live(candidate: Path, tmp_path: Path) -> None:
    """The version is there to be promoted by hand."""
    store = Store(tmp_path)
    result = publish(candidate, store, "manual")
    assert result.model is not None
    assert not result.model.live
    assert store.versions("digit-mlp") == [1]


def test_a_worse_candidate_is_refused_and_leaves_nothing(candidate: Path, tmp_path: Path) -> None:
    """A refusal publishes no version; `always` takes the same candidate."""
    store = Store(tmp_path / "store")
    publish(candidate, store)
    worse = _altered(candidate, tmp_path / "worse")
    _worsen(worse, 0.01)
    refused = publish(worse, store)
    assert refused.model is None
    assert not refused.gate.passed
    assert "by 0.01000, more than one standard error of the paired difference" in refused.gate.reasons[0]
    assert store.versions("digit-mlp") == [1]
    forced = publish(worse, store, "always")
    assert forced.model is not None
    assert store.live("digit-mlp") == 2


def test_the_losses_of_the_file_travel_with_it(candidate: Path, data_dir: Path) -> None:
    """One a validation row, computed by hand from the file's answers; their mean is the manifest's nll."""
    draft, validation = read_draft(candidate), SmallDigit().load(data_dir, 0).validation
    assert draft.losses is not None
    answers = export.run(export.session(candidate / "model.onnx"), validation.inputs)["probabilities"]
    by_hand = -np.log(answers[np.arange(200), validation.targets.numpy()].astype(np.float64))
    losses = np.load(candidate / draft.losses.file)
    np.testing.assert_allclose(losses, by_hand, rtol=1e-6)
    assert losses.dtype == np.float32
    assert draft.losses.count == 200
    assert draft.losses.mean == pytest.approx(draft.metrics["validation"]["nll"], rel=1e-6)
    assert draft.losses.rows_sha256 == draft.provenance.settings["validation_sha256"]


def test_a_candidate_whose_file_was_changed_is_not_published(candidate: Path, tmp_path: Path) -> None:
    """What is published is what was measured."""
    copy = _altered(candidate, tmp_path / "copy")
    (copy / "model.onnx").write_bytes(b"something else")
    store = Store(tmp_path / "store")
    with pytest.raises(CandidateError, match=r"model\.onnx .* is not the file that was measured"):
        publish(copy, store)
    assert store.names() == []
    assert not store.root.exists()


def test_an_unfinished_candidate_is_an_error(tmp_path: Path) -> None:
    """No draft, no version."""
    with pytest.raises(CandidateError, match="holds no finished candidate"):
        publish(tmp_path, Store(tmp_path / "store"))


def test_a_finished_work_folder_resumes_at_once(trained: tuple[Path, list[str]]) -> None:
    """The same settings find the candidate; nothing is trained again."""
    candidate, notes = trained[0], _Notes()
    before = (candidate / DRAFT_FILE).stat().st_mtime_ns
    assert train(SmallDigit(), SPEC, candidate.parent, notes, resume=True) == candidate
    assert notes.told == ["candidate"]
    assert (candidate / DRAFT_FILE).stat().st_mtime_ns == before


def test_a_resumed_candidate_is_given_the_losses_of_the_versions_beside_it(candidate: Path, tmp_path: Path) -> None:
    """What went live while the job waited is measured on the candidate's rows, and only that."""
    store, work = Store(tmp_path / "store"), tmp_path / "work"
    shutil.copytree(candidate, work / "candidate")
    publish(candidate, store)
    store.promote("digit-mlp", artifacts.publish(store, "digit-mlp", network="mlp"))
    train(SmallDigit(), SPEC, work, _Notes(), resume=True, store=store)
    with np.load(work / "candidate" / MEASURED_FILE) as measured:
        assert [key.partition("-")[0] for key in measured.files] == ["2"]
        assert [len(measured[key]) for key in measured.files] == [200]
    assert publish(work / "candidate", store).gate.compared_with == 1


@pytest.mark.slow
def test_a_run_cut_off_after_training_only_exports_again(candidate: Path, tmp_path: Path) -> None:
    """With the checkpoints there and the candidate torn, the result is the same file."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(candidate.parent / pipeline.CHECKPOINT, work)
    (work / "candidate.tmp").mkdir()
    (work / "candidate.tmp" / "model.onnx").write_bytes(b"half")
    notes = _Notes()
    again = train(SmallDigit(), SPEC, work, notes, resume=True)
    assert read_draft(again).metrics == read_draft(candidate).metrics
    assert (again / "model.onnx").read_bytes() == (candidate / "model.onnx").read_bytes()
    assert notes.told[:3] == ["data", "epoch 1", "epoch 2"]


def test_figures_that_are_no_numbers_stop_the_run(candidate: Path, data_dir: Path) -> None:
    """A NaN must not reach a manifest."""

    class Odd(SmallDigit):
        def score(self, outputs: object, split: Split) -> dict[str, float]:
            return {"accuracy": Tensor([float("nan")]).item()}

    task = Odd()
    with pytest.raises(EvaluationError, match="accuracy of the exported network is nan"):
        pipeline.score(task, candidate / "model.onnx", task.load(data_dir, 0).validation)


def test_a_draft_reads_back_as_it_was_written(candidate: Path) -> None:
    """The draft is a manifest of version 1."""
    assert Manifest.model_validate_json((candidate / DRAFT_FILE).read_text()).version == 1
