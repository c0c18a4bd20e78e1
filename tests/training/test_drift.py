"""The reference of drift: made with the task's own rows, counted as the service counts, carried by a new version."""

import numpy as np
import pytest

from models.manifest import read_manifest
from models.store import Store
from service.drift import _of_inputs as of_service
from tests.server import SHIPPED
from training import drift
from training.__main__ import main
from training.datasets.files import data_root
from training.registry import get_task


def manifest_of(name):
    return read_manifest(SHIPPED.folder(name, SHIPPED.live(name)))


def test_bins_are_about_equally_full():
    """A thousand different values fall into ten bins."""
    signal = drift._signal(np.random.default_rng(0).normal(size=1000))
    assert len(signal.counts) == 10
    assert max(signal.counts) - min(signal.counts) <= 2
    assert signal.psi(signal.counts) == pytest.approx(0)


def test_many_equal_values_share_a_bin():
    """Nine in ten are 0: fewer bins, and no row is lost."""
    signal = drift._signal(np.array([0.0] * 900 + [1.0] * 60 + [2.0] * 40))
    assert sum(signal.counts) == 1000
    assert max(signal.counts) == 900
    assert signal.psi([900, 100] if len(signal.counts) == 2 else signal.counts) < 0.01


def test_a_signal_that_was_always_the_same_sees_what_is_above_it():
    """A tokenizer that knew every word in training: the first unknown ones are seen."""
    signal = drift._signal(np.zeros(500))
    assert signal.counts == [500, 0]
    assert signal.psi([80, 20]) > 0.25


@pytest.mark.parametrize("name", ["digit-cnn", "forecast-lstm"])
def test_training_and_service_count_the_same(name, data_dir):
    """The same rows, one by one through the service's code and padded together through training's."""
    manifest = manifest_of(name)
    task = get_task(manifest.task)
    splits = task.load(data_root(), 0)
    inputs, _ = next(iter(task.batches(splits.validation, 20, None)))
    inputs = {each: rows.numpy() for each, rows in inputs.items()}
    parts = [{each: rows[at : at + 1] for each, rows in inputs.items()} for at in range(20)]
    theirs = of_service(parts, manifest, manifest.drift)
    ours = drift._of_inputs(inputs, manifest, None)
    assert ours.keys() == theirs.keys()
    for each, values in ours.items():
        assert values == pytest.approx(theirs[each], abs=1e-5)


def test_texts_of_different_lengths_count_the_same_in_service_and_training():
    """Unpadded rows one by one, and padded together."""
    manifest = manifest_of("topic-transformer")
    unknown = manifest.drift.unknown_id
    texts = [np.array([[5, 6, 7]]), np.array([[unknown, 9]]), np.array([[4] * 8])]
    padded = np.full((3, 8), manifest.text.pad_id)
    for row, text in zip(padded, texts, strict=True):
        row[: text.shape[1]] = text
    theirs = of_service([{"token_ids": text} for text in texts], manifest, manifest.drift)
    ours = drift._of_inputs({"token_ids": padded}, manifest, unknown)
    assert ours["tokens"].tolist() == theirs["tokens"].tolist() == [3, 2, 8]
    assert ours["unknown_share"].tolist() == theirs["unknown_share"].tolist() == [0, 0.5, 0]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_version_is_published_anew_with_a_reference(tmp_path, data_dir, in_place, capsys):
    """The same file, figures and provenance; what was published before stays as it was, unless it is only shipped."""
    store = Store(tmp_path)
    store.seed(SHIPPED)
    version = store.live("digit-cnn")
    bare = store.manifest("digit-cnn", version).model_copy(update={"drift": None})
    (store.folder("digit-cnn", version) / "manifest.json").write_text(bare.to_json())
    arguments = ["drift", "digit-cnn", "--store", str(tmp_path), *(["--in-place"] if in_place else [])]
    assert main(arguments) == 0, capsys.readouterr()
    now = store.live("digit-cnn")
    assert now == version + (not in_place)
    made = store.verify("digit-cnn", now)
    assert made.drift == manifest_of("digit-cnn").drift
    assert made.provenance == bare.provenance
    assert made.files == bare.files
    if not in_place:
        assert store.manifest("digit-cnn", version).drift is None
        assert store.rollback("digit-cnn") == version


def test_an_older_forecast_is_published_anew_with_its_training_ranges(tmp_path, data_dir, capsys):
    """The same version then tells implausible readings, and keeps its contract."""
    store = Store(tmp_path)
    store.seed(SHIPPED)
    version = store.live("forecast-lstm")
    shipped = store.manifest("forecast-lstm", version)
    bare = shipped.model_copy(update={"series": shipped.series.model_copy(update={"ranges": None})})
    (store.folder("forecast-lstm", version) / "manifest.json").write_text(bare.to_json())
    assert main(["drift", "forecast-lstm", "--store", str(tmp_path)]) == 0, capsys.readouterr()
    made = store.manifest("forecast-lstm", store.live("forecast-lstm"))
    assert made.version == version + 1
    assert made.series == shipped.series
    assert made.keeps_contract_of(bare)
