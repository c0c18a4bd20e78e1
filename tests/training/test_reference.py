"""The gate cannot ratchet: every candidate is held against the best version that was ever live."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.jobs import JobGateCheck, JobResult, JobSpec, LogEvent, Promote
from models.manifest import Losses, Provenance, file_entry
from models.store import Store
from tests import artifacts
from tests.training.kept import RULES, keep, made
from tests.training.small import SmallDigit
from training import evaluate, gate, pipeline, reference
from training.__main__ import _parser
from training.attempt import STORE_VARIABLE, Attempt
from training.publish import DRAFT_FILE, publish
from training.reporters import ConsoleReporter

NAME = "digit-mlp"
ROWS = 400
_RANDOM = np.random.default_rng(5)
BASE = _RANDOM.gamma(0.2, 0.2, ROWS)
NOISE = _RANDOM.normal(0, 1, ROWS)
NOISE = (NOISE - NOISE.mean()) / NOISE.std(ddof=1)
STEP = 1 / ROWS**0.5


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _candidate(folder: Path, losses: NDArray[Any], rows: str = "a" * 64, **changes: Any) -> Path:
    """A finished candidate with those losses on the validation rows of that digest."""
    settings = {"gate": RULES, gate.VALIDATION: rows}
    draft = made(**{"provenance": Provenance(command="x", seed=0, data=[], settings=settings), **changes})
    candidate = keep(folder, draft)
    kept = evaluate.save_losses(candidate, losses.astype(np.float32), rows)
    files = {name: file_entry(candidate / name) for name in ("model.onnx", kept.file)}
    (candidate / DRAFT_FILE).write_text(draft.model_copy(update={"files": files, "losses": kept}).to_json(), "utf-8")
    return candidate


def _check(result: JobResult) -> JobGateCheck:
    return next(check for check in result.gate.checks if check.name == "reference")


def _losses(store: Store, version: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.load(store.folder(NAME, version) / evaluate.LOSSES_FILE)
    return found


def _live_is_at_most_one_standard_error_worse(store: Store, ever_live: list[NDArray[np.float32]]) -> bool:
    live = _losses(store, store.live(NAME) or 0)
    found = reference.paired(live, min(ever_live, key=lambda each: float(each.mean())))
    assert found.difference is not None
    assert found.standard_error is not None
    return found.difference <= found.standard_error + 1e-9


def test_small_steps_down_do_not_add_up(store: Store, tmp_path: Path) -> None:
    """Each candidate is 0.9 standard errors worse than the one before: the second such step is refused for ever."""
    publish(_candidate(tmp_path / "0", BASE), store)
    passed = []
    for number in range(1, 11):
        losses = BASE + 0.1 * NOISE + 0.1 * STEP * 0.9 * number
        result = publish(_candidate(tmp_path / str(number), losses), Store(store.root))
        passed.append(result.gate.passed)
        store.prune(NAME, keep=1)
    assert passed == [True] + [False] * 9
    assert store.reference(NAME) == 1
    assert _check(result).detail in result.gate.reasons[0]
    assert "more than one standard error" in result.gate.reasons[0]
    assert result.gate.checks[0] == _check(result)
    assert result.gate.compared_with == 1


@pytest.mark.parametrize("seed", range(3))
def test_no_sequence_lowers_the_live_figure_by_more_than_one_standard_error(
    store: Store, tmp_path: Path, seed: int
) -> None:
    """Forty candidates, better and worse, with retention that keeps one version in between."""
    random, ever_live, lives = np.random.default_rng(seed), [], set()
    for number in range(40):
        shift = random.normal(0, 1.5) * 0.1 * STEP
        losses = BASE + 0.1 * NOISE * random.uniform(-1, 1) + 0.02 * random.normal(0, 1, ROWS) + shift
        result = publish(_candidate(tmp_path / str(number), losses), store)
        if result.model is not None:
            ever_live.append(losses.astype(np.float32))
            lives.add(result.model.version)
        store.prune(NAME, keep=1)
        assert _live_is_at_most_one_standard_error_worse(store, ever_live)
    assert 2 <= len(lives) < 40


def test_a_better_version_becomes_the_reference_and_a_slightly_worse_one_does_not(store: Store, tmp_path: Path) -> None:
    """What goes live within the allowance leaves the bar where it was."""
    for number, shift in enumerate((0.0, -3.0, -2.2)):
        losses = BASE + 0.1 * NOISE * (number + 1) + 0.1 * STEP * shift
        assert publish(_candidate(tmp_path / str(number), losses), store).gate.passed
    assert (store.live(NAME), store.reference(NAME)) == (3, 2)


def test_always_resets_the_reference(store: Store, tmp_path: Path) -> None:
    """The next candidate is held against the version that was forced, and the job says so."""
    publish(_candidate(tmp_path / "one", BASE), store)
    worse = BASE + 0.5
    assert not publish(_candidate(tmp_path / "two", worse), store).gate.passed
    forced = publish(_candidate(tmp_path / "three", worse), store, "always")
    assert "this version becomes the reference" in _check(forced).detail
    assert store.reference(NAME) == 2
    assert publish(_candidate(tmp_path / "four", worse - 0.01), store).gate.compared_with == 2
    assert store.reference(NAME) == 3


@pytest.mark.parametrize("order", ["rollback", "promote"])
def test_an_order_by_hand_does_not_lower_the_bar(store: Store, tmp_path: Path, order: str) -> None:
    """A worse version that a person makes live answers, and candidates are held against the best one all the same."""
    publish(_candidate(tmp_path / "one", BASE), store)
    publish(_candidate(tmp_path / "two", BASE - 0.1), store)
    if order == "rollback":
        store.rollback(NAME)
    else:
        store.promote(NAME, 1)
    assert store.live(NAME) == 1
    result = publish(_candidate(tmp_path / "three", BASE - 0.05), store)
    assert (result.gate.passed, result.gate.compared_with) == (False, 2)


def test_a_damaged_reference_gives_way_to_the_next_best(store: Store, tmp_path: Path) -> None:
    """Its losses no longer have the hash that the manifest says: told, and the next best version is compared with."""
    publish(_candidate(tmp_path / "one", BASE), store)
    publish(_candidate(tmp_path / "two", BASE - 0.1), store)
    store.promote(NAME, 1)
    candidate = _candidate(tmp_path / "three", BASE)
    folder = store.folder(NAME, 2)
    np.save(folder / evaluate.LOSSES_FILE, np.full(ROWS, -100, np.float32))
    refused = publish(candidate, store)
    assert "version 2, which may be the reference, was not measured" in refused.gate.reasons[0]
    (folder / "model.onnx").write_bytes(b"damaged")
    draft = pipeline.read_draft(candidate)
    evaluate.measure_references(SmallDigit(), candidate, draft, store, _splits())
    result = publish(candidate, store)
    assert (result.gate.passed, result.gate.compared_with) == (True, 1)
    assert "version 2 cannot be the reference: digit-mlp version 2: model.onnx was changed" in _check(result).detail
    assert not (store.folder(NAME, 3) / reference.MEASURED_FILE).exists()


def test_two_jobs_that_end_at_once_are_held_against_each_other(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One went live and was rolled back since the judgement: the live version is the same, the reference is not."""
    publish(_candidate(tmp_path / "one", BASE), store)
    other, judge = _candidate(tmp_path / "other", BASE - 0.1), gate.judge

    def judged(*given: Any) -> Any:
        monkeypatch.setattr(gate, "judge", judge)
        found = judge(*given)
        publish(other, store)
        store.rollback(NAME)
        return found

    monkeypatch.setattr(gate, "judge", judged)
    result = publish(_candidate(tmp_path / "two", BASE - 0.05), store)
    assert result.model is not None
    assert not result.model.live
    assert store.live(NAME) == 1
    assert "the versions that may be the reference have changed meanwhile; beside them:" in result.gate.reasons
    assert [check.name for check in result.gate.checks if not check.passed] == ["live_meanwhile", "reference"]


def test_a_job_that_was_cut_off_is_judged_again_before_its_version_goes_live(store: Store, tmp_path: Path) -> None:
    """A better version went live between its publication and its return: it waits for an order, and says why."""
    publish(_candidate(tmp_path / "one", BASE), store)
    mine = _candidate(tmp_path / "two", BASE - 0.05)
    publish(mine, store, "manual", job_id="job-2")
    publish(_candidate(tmp_path / "three", BASE - 0.1), store)
    result = publish(mine, store, job_id="job-2")
    assert result.model is not None
    assert (result.model.version, result.model.live, store.live(NAME)) == (2, False, 3)
    assert [check.name for check in result.gate.checks if not check.passed] == ["live_meanwhile", "reference"]
    assert result.gate.reasons[-1] == "so it waits to be made live by hand"


def _splits() -> Any:
    from training.datasets.files import data_root

    return SmallDigit().load(data_root(), 0)


@pytest.fixture(autouse=True)
def _data(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(data_dir))


def test_the_reference_is_measured_again_on_the_present_rows(store: Store, tmp_path: Path) -> None:
    """Versions without losses of these rows are run on them; which one is the best follows from that alone."""
    splits = _splits()
    digest, targets = evaluate.rows_digest(splits), splits.validation.targets
    common, rare = int(targets.bincount().argmax()), int(targets.bincount().argmin())
    for favourite, mean in ((common, 9.0), (rare, 0.01)):
        staged = store.stage()
        artifacts.digit_graph(staged / "model.onnx", favourite)
        kept = evaluate.save_losses(staged, np.full(ROWS, mean, np.float32), "b" * 64)
        entries = {name: file_entry(staged / name) for name in ("model.onnx", kept.file)}
        draft = artifacts.draft(NAME, favourite=favourite, files=entries, losses=kept, network="mlp")
        store.promote(NAME, store.publish(staged, draft).version)
    assert store.reference(NAME) == 2  # by what was recorded on other rows
    ours = np.where(targets.numpy() == common, -np.log(0.91), -np.log(0.01))
    candidate = _candidate(tmp_path / "same", ours, rows=digest)
    evaluate.measure_references(SmallDigit(), candidate, pipeline.read_draft(candidate), store, splits)
    result = publish(candidate, store)
    assert (result.gate.passed, result.gate.compared_with) == (True, 1)
    assert result.gate.figures["loss"]["difference"] == pytest.approx(0, abs=1e-6)
    worse = _candidate(tmp_path / "worse", ours + 0.01, rows=digest)
    evaluate.measure_references(SmallDigit(), worse, pipeline.read_draft(worse), store, None)
    refused = publish(worse, store)
    assert not refused.gate.passed
    assert _check(refused).value == pytest.approx(0.01, rel=1e-3)


def test_a_version_that_was_not_measured_is_not_passed_over(store: Store, tmp_path: Path) -> None:
    """It may be the best one: the candidate is refused with the way out, not waved through."""
    publish(_candidate(tmp_path / "one", BASE, rows="b" * 64), store)
    refused = publish(_candidate(tmp_path / "two", BASE - 1), store)
    assert not refused.gate.passed
    assert "was not measured on the validation rows of this training; train it again" in refused.gate.reasons[0]
    assert publish(_candidate(tmp_path / "three", BASE), store, "always").gate.passed


def test_losses_are_added_to_a_version_in_place(store: Store) -> None:
    """The store still finds the version whole, and the file holds a loss for each validation row."""
    staged = store.stage()
    artifacts.digit_graph(staged / "model.onnx", 3)
    store.promote(NAME, store.publish(staged, artifacts.draft(NAME, favourite=3, network="mlp")).version)
    splits = _splits()
    made_now: Losses = evaluate.complete(SmallDigit(), store, NAME, 1, splits)
    assert store.verify(NAME, 1).losses == made_now
    expected = np.where(splits.validation.targets.numpy() == 3, -np.log(0.91), -np.log(0.01))
    np.testing.assert_allclose(_losses(store, 1), expected, rtol=1e-6)


@pytest.mark.slow
def test_ten_trainings_never_lower_the_live_figure_by_more_than_one_standard_error(
    store: Store, tmp_path: Path
) -> None:
    """Real trainings of two seconds with the same settings and other seeds, and retention after each."""
    ever_live: list[NDArray[np.float32]] = []
    refused = 0
    for seed in range(10):
        result = _train(seed, tmp_path / str(seed), store)
        if result.model is None:
            refused += 1
            assert "more than one standard error" in result.gate.reasons[0]
        else:
            ever_live.append(_losses(store, result.model.version))
        store.prune(NAME, keep=1)
        assert _live_is_at_most_one_standard_error_worse(store, ever_live)
    assert refused
    assert json.loads(json.dumps(result.model_dump(mode="json")))["gate"]["checks"]


def _train(seed: int, work: Path, store: Store, promote: Promote = "if_better") -> JobResult:
    spec = JobSpec(task="digit", network="mlp", epochs=1, batch_size=32, learning_rate=0.003, seed=seed)
    return publish(pipeline.train(SmallDigit(), spec, work, ConsoleReporter(), store=store), store, promote)


def test_the_training_process_is_told_the_workers_store(tmp_path: Path) -> None:
    """It measures the versions there; the command line that starts it stays as it is."""
    program = (
        "import json, os; print(json.dumps({'type': 'log', 'at': '2026-01-01T00:00:00Z',"
        f" 'message': os.environ[{STORE_VARIABLE!r}]}}))"
    )

    async def told() -> str:
        attempt = await Attempt.start([sys.executable, "-c", program], tmp_path, tmp_path / "store")
        event = await attempt.next()
        await attempt.close()
        assert isinstance(event, LogEvent)
        return event.message

    assert asyncio.run(told()) == str(tmp_path / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STORE_VARIABLE, "elsewhere")
        assert _parser().parse_args(["fit", "digit"]).store == Path("elsewhere")
