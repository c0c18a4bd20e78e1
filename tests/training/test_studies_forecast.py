"""The offline study of the forecaster: what a variant leaves out stays out, and the tables say what was measured."""

import json

import pytest
import torch

from training.studies import forecast as studies
from training.studies.forecast import Plan, Run, Variant
from training.tasks.base import Split, Splits
from training.tasks.forecast import TASK, ForecastTask

FACTS = {"mean": [0.0] * 7, "std": [1.0] * 7}
EMPTY = Split({}, torch.zeros(0))
SPLITS = Splits(EMPTY, EMPTY, EMPTY, [], {}, FACTS)


class Quiet:
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)

    def step(self, progress):
        pass

    def epoch(self, row, stopped_early):
        pass


def trained(parts):
    """A variant after three steps on random rows."""
    torch.manual_seed(0)
    task = Variant(parts)
    module = task.build("lstm", SPLITS).train()
    optimiser = torch.optim.AdamW([one for one in module.parameters() if one.requires_grad], lr=0.01)
    for seed in range(3):
        loss = task.loss(module, TASK.example(8, 60, seed), torch.randn(8, task.horizon))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return module.eval()


def test_without_the_encoder_only_the_map_learns():
    """The head stays zero, so that loads, which only the encoder sees, change nothing."""
    module, batch = trained("linear"), TASK.example(2, 60, 9)
    assert module.past.weight.any()
    assert not module.head.weight.any()
    assert not module.head.bias.any()
    loads = batch | {"values": batch["values"].clone()}
    loads["values"][:, :, :-1] += 1
    with torch.no_grad():
        assert torch.equal(module(**batch)[0], module(**loads)[0])


def test_without_the_map_only_the_encoder_learns():
    """The map and the hour table stay zero, whatever the targets ask for."""
    module = trained("encoder")
    assert module.head.weight.any()
    for weights in (module.past.weight, module.past.bias, module.hour.weight):
        assert not weights.any()


def test_the_whole_variant_is_the_recipes_network():
    """Same weights from the same seed, all of them free."""
    networks = []
    for task in (Variant(), ForecastTask()):
        torch.manual_seed(5)
        networks.append(task.build("lstm", SPLITS))
    one, two = (module.state_dict() for module in networks)
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(weights.requires_grad for weights in networks[0].parameters())


def test_an_unknown_part_is_refused():
    """A slip in a plan must not be measured as the whole network."""
    with pytest.raises(ValueError, match="no part"):
        Variant("lstm").build("lstm", SPLITS)


def test_means_and_spreads_are_those_of_the_runs():
    """A row of both files: the mean and the sample's standard deviation, none from a single seed."""
    plan = Plan("linear map alone", "linear", studies.FAR)
    runs = [Run(seed, 0.09, test, 2, 1.5) for seed, test in enumerate((0.05, 0.06))]
    row = studies._row(plan, runs)
    assert row["test"] == pytest.approx({"mean": 0.055, "spread": 0.01 / 2**0.5})
    assert studies._row(plan, runs[:1])["test"] == {"mean": 0.05, "spread": 0.0}
    part = {"last_value": {"validation": 0.1, "test": 0.07}, "variants": [row]}
    table = studies.as_markdown({"command": "python", "horizons": {"96": part}})
    assert "### The next 96 hours" in table
    assert "| linear map alone | 0.0900 ± 0.0000 | 0.0550 ± 0.0071 | 5 | 2 |" in table


def test_without_data_the_program_says_so(tmp_path, monkeypatch, capsys):
    """A sentence and exit code 1; nothing is written."""
    damaged = tmp_path / "ett" / "ETTh1.csv"
    damaged.parent.mkdir()
    damaged.write_text("date\n", "ascii")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("NEUROSERVE_STATE", str(tmp_path))
    assert studies.main(["--output", str(tmp_path / "out")]) == 1
    assert "ETTh1.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_tells_means_spreads_and_the_naive_forecast(data_dir, tmp_path, monkeypatch):
    """The linear map alone four days ahead, two seeds of an epoch: both files hold what was measured."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    reporter = Quiet()
    plan = Plan("linear map alone", "linear", studies.FAR, epochs=1)
    found = studies.study([plan], [0, 1], tmp_path, reporter)
    assert len(reporter.lines) == 2
    part = found["horizons"]["96"]
    assert part["last_value"]["test"] == pytest.approx(0.0693, abs=1e-4)
    (row,) = part["variants"]
    scores = [one["test"] for one in row["runs"]]
    assert row["test"]["mean"] == pytest.approx(sum(scores) / 2)
    assert row["test"]["spread"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert row["test"]["mean"] < part["last_value"]["test"]
    assert json.loads((tmp_path / "study-forecast.json").read_text("utf-8")) == found
    table = (tmp_path / "study-forecast.md").read_text("utf-8")
    assert f"| linear map alone | {row['validation']['mean']:.4f} ± " in table
