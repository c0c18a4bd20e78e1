"""The reference of the gate: which version it is, and what removes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.manifest import Losses, Provenance
from models.reading import REFERENCE_FILE
from models.store import LiveChangedError, Store
from tests import artifacts

NAME = "digit-cnn"
ROWS = "a" * 64


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def _publish(store: Store, mean: float | None = None, rows: str = ROWS, **changes: Any) -> int:
    """A version whose manifest records that mean loss on those rows; its number."""
    staged = store.stage()
    artifacts.digit_graph(staged / "model.onnx", 0)
    if mean is not None:
        np.save(staged / "validation-losses.npy", np.full(4, mean, np.float32))
        changes["losses"] = Losses(rows_sha256=rows, count=4, mean=mean)
        changes["files"] = {file: {"sha256": "0" * 64, "bytes": 0} for file in ("model.onnx", "validation-losses.npy")}
    return store.publish(staged, artifacts.draft(NAME, **changes)).version


def _live(store: Store, *means: float | None) -> None:
    for mean in means:
        store.promote(NAME, _publish(store, mean))


def _with_figure(accuracy: float) -> dict[str, Any]:
    rules = {"metric": "accuracy", "higher_is_better": True, "floor": 0.5, "margin": 0.001}
    provenance = Provenance(command="x", seed=0, data=[], settings={"gate": rules})
    return {"metrics": {"validation": {"accuracy": accuracy}}, "provenance": provenance}


def test_the_reference_is_the_best_version_that_was_ever_live(store: Store) -> None:
    """Worse ones that went live later do not replace it, nor does a better one that never went live."""
    assert store.reference(NAME) is None
    _live(store, 0.3, 0.1, 0.2)
    _publish(store, 0.01)
    assert store.reference(NAME) == 2
    assert store.contenders(NAME) == [1, 2, 3]
    assert Store(store.root).reference(NAME) == 2


def test_retention_never_removes_the_reference(store: Store) -> None:
    """It stays with its losses, however many newer versions there are."""
    _live(store, 0.1, *[0.2] * 6)
    assert store.prune(NAME, keep=0) == [2, 3, 4, 5]
    assert store.reference(NAME) == 1
    assert np.load(store.folder(NAME, 1) / "validation-losses.npy").tolist() == pytest.approx([0.1] * 4)
    _live(store, *[0.2] * 4)
    store.prune(NAME, keep=1)
    assert store.reference(NAME) == 1
    store.verify(NAME, 1)


def test_a_rollback_does_not_lower_the_reference(store: Store) -> None:
    """The version that was rolled back was live, and the one that is live again counts as well."""
    _live(store, 0.2, 0.1)
    store.rollback(NAME)
    assert store.reference(NAME) == 2
    store.prune(NAME, keep=0)
    assert store.versions(NAME) == [1, 2]


def test_a_reset_begins_anew_with_the_version_that_goes_live(store: Store) -> None:
    """What was live before counts no more, until it goes live again."""
    _live(store, 0.1)
    store.promote_first(NAME, _publish(store, 0.5), over=1, reset=True)
    assert (store.reference(NAME), store.contenders(NAME)) == (2, [2])
    store.rollback(NAME)
    assert store.reference(NAME) == 1


def test_the_version_that_was_measured_to_be_the_best_comes_first(store: Store) -> None:
    """On other rows the manifests prove nothing, so what was measured of both counts, for retention too."""
    _live(store, 0.1)
    store.promote_first(NAME, _publish(store, 0.5, rows="b" * 64), over=1, among=[1], best=2)
    assert store.reference(NAME) == 2
    _live(store, 0.6, 0.7, 0.8)
    assert store.reference(NAME) == 2
    store.prune(NAME, keep=0)
    assert 2 in store.versions(NAME)


def test_a_version_judged_among_others_than_were_live_is_judged_again(store: Store) -> None:
    """One that went live and was rolled back meanwhile may be the reference: the live pointer alone does not tell."""
    _live(store, 0.2)
    candidate = _publish(store, 0.15)
    _live(store, 0.1)
    store.rollback(NAME)
    with pytest.raises(LiveChangedError, match="other versions have been live than 1"):
        store.promote_first(NAME, candidate, over=1, among=[1], best=candidate)
    store.promote_first(NAME, candidate, over=1, among=store.contenders(NAME), best=3)
    assert store.reference(NAME) == 3


def test_a_store_from_before_references_has_one_all_the_same(store: Store) -> None:
    """Without recorded losses the metric on the same rows tells; without any figure it is the live version."""
    for accuracy in (0.97, 0.99, 0.98):
        store.promote(NAME, _publish(store, **_with_figure(accuracy)))
    (store.root / NAME / REFERENCE_FILE).unlink()
    assert store.reference(NAME) == 2
    store.rollback(NAME)
    assert store.reference(NAME) == 2
    store.promote(NAME, _publish(store))
    assert store.reference(NAME) == 2
    (store.root / NAME / REFERENCE_FILE).write_text("4\n")
    assert store.reference(NAME) == 4


def test_a_better_metric_does_not_replace_what_was_measured_to_have_the_lower_loss(store: Store) -> None:
    """The shipped version of an earlier release has a metric alone: a training has measured it, and its word counts."""
    store.promote(NAME, _publish(store, **_with_figure(0.97)))
    store.promote_first(NAME, _publish(store, 0.3, **_with_figure(0.99)), over=1, among=[1], best=1)
    assert store.reference(NAME) == 1
    _live(store, 0.4, 0.5)
    store.prune(NAME, keep=0)
    assert store.reference(NAME) == 1


def test_an_unreadable_list_or_a_damaged_version_is_passed_over(store: Store) -> None:
    """The live pointer's history serves instead of a torn file, and the next best instead of a damaged version."""
    _live(store, 0.1, 0.2, 0.3)
    (store.root / NAME / REFERENCE_FILE).write_text("1\nx")
    assert store.reference(NAME) == 1
    (store.folder(NAME, 1) / "manifest.json").write_text("{")
    assert store.reference(NAME) == 2
    store.delete(NAME, 2)
    assert store.reference(NAME) == 3
