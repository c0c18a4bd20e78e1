"""The comparison of all networks: what is said of the runs, what is written and published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.jobs import TaskRecipe
from models.manifest import Parity
from models.store import Store
from tests.training.kept import keep, made, publish
from training.__main__ import main
from training.comparison import latency, page, pictures
from training.comparison.results import Comparison, Spread, best_of, cpu_name, spread
from training.comparison.runs import ZOO, Entry, Plan, Run, live
from training.comparison.shipping import ship
from training.publish import read_draft
from training.registry import get_task
from training.reporters import ConsoleReporter


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "TURNS", 2)


@pytest.fixture(name="at")
def _at(tmp_path: Path) -> list[str]:
    """The folders of a comparison, all of them the test's own."""
    return [f"--{what}={tmp_path / what}" for what in ("work", "store", "output")]


def found(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "output" / "compare.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "chess"], "there is no task 'chess'; there are digit, forecast, topic"),
        (["--network", "chess"], "there is no network 'chess' among those chosen; there are cnn, mlp, "),
        (["--task", "digit", "--network", "lstm"], "there is no network 'lstm' among those chosen; there are cnn, mlp"),
        (["--model", "chess"], "there is no model 'chess' among those chosen; there are digit-cnn, digit-mlp, "),
        (["--seeds", "0"], "seeds must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_compared_is_said_in_words(
    arguments: list[str], words: str, at: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence that lists what there is."""
    assert main(["compare", *arguments, *at]) == 1
    assert capsys.readouterr().err.startswith(f"error: {words}")


# ---------------------------------------------------------------------- what is said of them


def test_the_spread_is_the_sample_standard_deviation() -> None:
    """By hand: 1, 2, 4 have the mean 7/3 and the variance 7/3; one value has no spread."""
    over = spread([1.0, 2.0, 4.0])
    assert over.mean == pytest.approx(7 / 3)
    assert over.std == pytest.approx((7 / 3) ** 0.5)
    assert (over.min, over.max) == (1.0, 4.0)
    assert spread([3.0]) == Spread(mean=3.0, std=None, min=3.0, max=3.0)


def test_the_best_seed_is_chosen_by_validation_in_either_direction() -> None:
    """More accuracy or less error is better; ties go to the other figures, then to the smaller seed."""

    def best(recipe: TaskRecipe, *figures: dict[str, float]) -> int:
        runs = [
            Run(Path(), made(seed=seed, metrics={"validation": one}), "", by_recipe=True)
            for seed, one in enumerate(figures)
        ]
        return best_of(runs[::-1], recipe).seed

    digit, forecast = get_task("digit").recipe, get_task("forecast").recipe
    assert best(digit, {"accuracy": 0.8}, {"accuracy": 0.9}, {"accuracy": 0.7}) == 1
    assert best(forecast, {"mse": 0.8}, {"mse": 0.9}, {"mse": 0.7}) == 2
    assert best(digit, {"accuracy": 0.9, "nll": 0.3}, {"accuracy": 0.9, "nll": 0.2}) == 1
    assert best(forecast, {"mse": 0.3, "mae": 0.2}, {"mse": 0.3, "mae": 0.2}) == 0


def test_the_table_has_every_figure_with_its_spread(tmp_path: Path, at: list[str]) -> None:
    """Three kept runs of one network, one of another: page, JSON and pictures."""
    for seed, accuracy in enumerate((0.98, 0.99, 0.97)):
        keep(tmp_path / "work", made("mlp", seed, accuracy, parity=Parity(max_abs_diff=seed * 1e-6, cases=[[1, 0]])))
        keep(tmp_path / "work", made("cnn", seed, 0.999))
    assert main(["compare", "--task", "digit", "--seeds", "3", *at]) == 0
    (task,) = found(tmp_path)["tasks"]
    cnn, mlp = task["models"]
    assert (task["metric"], task["higher_is_better"]) == ("accuracy", True)
    assert mlp["validation"]["accuracy"] == pytest.approx({"mean": 0.98, "std": 0.01, "min": 0.97, "max": 0.99})
    assert (mlp["best_seed"], mlp["parity"], mlp["weights"]) == (1, 2e-6, 1000)
    assert (mlp["bar"], mlp["reached"]) == (0.988, False)
    assert (mlp["train_seconds"]["mean"], mlp["train_cpu_seconds"]["mean"]) == (11.0, 8.0)
    assert [run["seed"] for run in mlp["runs"]] == [0, 1, 2]
    assert set(mlp["latency_ms"]) == {"1", "32"}
    assert cnn["best_seed"] == 0
    said = (tmp_path / "output" / "compare.md").read_text()
    size = (tmp_path / "work" / "digit-mlp" / "seed-1" / "candidate" / "model.onnx").stat().st_size
    assert (
        "| digit-mlp | 3 | 98.00 ± 1.00 % | 97.00 ± 1.00 % | 1 | 98.00 % | ≥ 98.80 % (missed) | 0.40 % | 1,000 "
        f"| {page.size(size)} | 2e-06 |" in said
    )
    assert "mean ± standard deviation" in said
    assert "mean CPU seconds of the epochs on 1 CPU thread," in said
    assert str(tmp_path) not in said + (tmp_path / "output" / "compare.json").read_text()


def test_the_same_runs_give_the_same_files(tmp_path: Path, at: list[str]) -> None:
    """All but the measured latencies; the pictures are small, on white for dark pages too, and shown by the page."""
    keep(tmp_path / "work", made())
    texts = []
    for _ in range(2):
        assert main(["compare", "--model", "digit-mlp", *at]) == 0
        whole = found(tmp_path)
        whole["tasks"][0]["models"][0].pop("latency_ms")
        texts.append((whole, (tmp_path / "output" / "compare-quality.png").read_bytes()))
    assert texts[0] == texts[1]
    for name in ("compare-quality.png", "compare-latency.png"):
        file = tmp_path / "output" / name
        assert file.stat().st_size < 60_000
        with Image.open(file) as picture:
            assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        assert f"({name})" in (tmp_path / "output" / "compare.md").read_text()


def test_names_of_networks_alike_do_not_hide_one_another() -> None:
    """Near circles, and one in each corner: every name is read, inside the panel, off the other circles."""
    wide, tall = pictures.PANEL
    circles = [
        (100.0, 60.0, 7.0),
        (108.0, 66.0, 10.0),
        (112.0, 52.0, 11.0),
        (12.0, tall - 12, 8.0),
        (wide - 9, 9.0, 8.0),
    ]
    names = ["rnn (18k)", "gru (34k)", "lstm (43k)", "transformer (28k)", "cnn (93k)"]
    boxes = [(x - r, y - r, x + r, y + r) for x, y, r in circles]
    for (x, y, _), name, (across, up) in zip(circles, names, pictures.places(circles, names), strict=True):
        half = 2.5 * len(name)
        box = (x + across - half, y + up - 6, x + across + half, y + up + 6)
        assert min(box) >= 0, name
        assert box[2] <= wide, name
        assert box[3] <= tall, name
        for other in boxes:
            assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1], name
        boxes.append(box)


def test_the_shipped_models_are_compared_without_training(tmp_path: Path, at: list[str]) -> None:
    """On a fresh clone: all live versions, figures as in their manifests."""
    shipped = Store(ZOO)
    assert main(["compare", *(f"--model={name}" for name in shipped.names()), *at]) == 0
    result = Comparison.model_validate(found(tmp_path))
    rows = {row.model: (table.metric, row) for table in result.tasks for row in table.models}
    assert sorted(rows) == shipped.names()
    for name, (metric, row) in rows.items():
        manifest = shipped.manifest(name, shipped.live(name) or 0)
        assert row.test[metric].mean == manifest.metrics["test"][metric]
        assert row.file_bytes == manifest.files["model.onnx"].bytes
        assert 0 < row.latency_ms[1] < row.latency_ms[32]
    assert not (tmp_path / "work").exists()


def test_latency_is_taken_on_real_rows_at_their_own_length(tmp_path: Path) -> None:
    """The golden rows again and again, in the graph's dtype."""
    store = Store(ZOO)
    manifest = store.manifest("topic-transformer", store.live("topic-transformer") or 0)
    rows = latency.rows(manifest, 32)["token_ids"]
    golden = manifest.golden.inputs["token_ids"]
    assert (rows.shape, rows.dtype.name) == ((32, len(golden[0])), "int64")
    assert rows[31].tolist() == golden[31 % len(golden)]


def test_the_processor_is_named(tmp_path: Path) -> None:
    """As Linux tells it, or by its architecture where nobody does."""
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Analytical Engine\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Analytical Engine"
    assert cpu_name(tmp_path / "none")


# ---------------------------------------------------------------------- what is published


def test_the_best_seed_is_published_once(tmp_path: Path, at: list[str]) -> None:
    """By validation, live at once although the live version's figure is higher; a repetition only makes it live."""
    folders = [keep(tmp_path / "work", made("mlp", seed, accuracy)) for seed, accuracy in enumerate((0.98, 0.985))]
    target = Store(tmp_path / "target")
    publish(target, made("mlp", seed=5, accuracy=0.999))
    command = ["compare", "--model", "digit-mlp", "--seeds", "2", "--publish", str(target.root), *at]
    assert main(command) == 0
    assert (target.versions("digit-mlp"), target.live("digit-mlp")) == ([1, 2], 2)
    assert target.verify("digit-mlp", 2).provenance.seed == 1
    assert found(tmp_path)["tasks"][0]["models"][0]["shipped"]["version"] == 2
    assert "Published: digit-mlp's seed 1 is version 2." in (tmp_path / "output" / "compare.md").read_text()
    target.promote("digit-mlp", 1)
    again = ship(Run(folders[1], read_draft(folders[1]), "", by_recipe=True), target, ConsoleReporter())
    assert again.version == 2
    assert (target.versions("digit-mlp"), target.live("digit-mlp")) == ([1, 2], 2)


def test_a_version_of_another_store_can_be_published(tmp_path: Path) -> None:
    """A shipped model moves to another store with all its files, and is judged there again."""
    shipped, target = Store(ZOO), Store(tmp_path / "target")
    run = live(Entry(get_task("topic"), "transformer"), 0, Plan(tmp_path, Store(tmp_path / "none")))
    assert run is not None
    assert ship(run, target, ConsoleReporter()).version == 1
    copy = target.verify("topic-transformer", 1)
    assert copy.files == shipped.manifest("topic-transformer", shipped.live("topic-transformer") or 0).files
    assert copy.gate is not None


def test_a_run_that_the_gate_refuses_is_told(tmp_path: Path, at: list[str]) -> None:
    """Exit code 3, the reason on the page, nothing in the store."""
    keep(tmp_path / "work", made("mlp", 0, accuracy=0.4))
    target = tmp_path / "target"
    assert main(["compare", "--model", "digit-mlp", "--publish", str(target), *at]) == 3
    assert "**Refused by the gate**: digit-mlp: validation accuracy is 0.4000" in (
        (tmp_path / "output" / "compare.md").read_text()
    )
    assert Store(target).names() == []


def test_a_training_that_fails_costs_its_own_row_only(
    tmp_path: Path, at: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 1 has no data to train on: seed 0 is in the table, the page says what is missing, the exit code is 1."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "empty"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    keep(tmp_path / "work", made("mlp", 0))
    assert main(["compare", "--model", "digit-mlp", "--seeds", "2", *at]) == 1
    assert "1 of the runs could not be had" in capsys.readouterr().err
    assert [run["seed"] for run in found(tmp_path)["tasks"][0]["models"][0]["runs"]] == [0]
    assert "**Missing**: digit-mlp, seed 1: " in (tmp_path / "output" / "compare.md").read_text()
