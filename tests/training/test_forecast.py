"""The forecast task: windows, the forecaster's view of a series, the interval, export, and the shipped version."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.jobs import JobSpec
from models.store import Store
from training import export, pipeline, registry
from training.datasets import ett
from training.fit import FitSettings, fit
from training.nets.forecaster import LOOK_BACK, Forecaster, clock
from training.tasks import forecast
from training.tasks.base import Split, Splits
from training.tasks.forecast import HORIZON, PASTS, TASK, ForecastTask, Serving

ZOO = Path(__file__).parents[2] / "models" / "zoo"
OT = ett.COLUMNS.index(ett.TARGET)
NETWORKS = list(TASK.recipe.networks)
FACTS = {
    "mean": [7.9, 2.0, 5.1, 0.7, 2.8, 0.8, 17.1],
    "std": [5.8, 2.1, 5.5, 1.9, 1.0, 0.6, ett.TARGET_STD],
    "low": [-18.754, -3.416, -21.285, -4.762, -1.188, -1.371, -4.08],
    "high": [23.644, 8.841, 17.341, 6.894, 7.889, 3.046, 46.007],
}


@pytest.fixture(scope="module")
def splits(data_dir):
    return TASK.load(data_dir, 0)


def build(name, task=TASK):
    """A network as it is before its training."""
    torch.manual_seed(0)
    empty = Split({}, torch.zeros(0))
    return task.build(name, Splits(empty, empty, empty, [], {}, FACTS)).eval()


def busy(name):
    """A forecaster whose every part matters: all its weights are random."""
    module = build(name)
    with torch.no_grad():
        for weights in (module.past.weight, module.past.bias, module.hour.weight, module.head.weight):
            weights.normal_(0, 0.05)
    return module


@pytest.fixture(scope="module")
def network():
    return busy("lstm")


def run(module, values, hour_of_week=0, pad=0):
    """The forecast [horizon] of one series alone, behind `pad` steps of junk."""
    values = torch.as_tensor(values, dtype=torch.float32)
    padded = torch.cat([values, torch.full((pad, values.shape[1]), -1e6)])
    with torch.no_grad():
        outputs = module(padded.unsqueeze(0), torch.tensor([len(values)]), torch.tensor([hour_of_week]))
    return outputs[0][0]


def series(steps, seed=0):
    return TASK.example(1, steps, seed)["values"][0]


def test_the_task_is_found_by_its_name():
    """The command line and the worker see it."""
    assert "forecast" in registry.task_names()
    assert registry.get_task("forecast") is TASK


def test_the_splits_are_those_of_the_published_benchmark(splits):
    """12, 4 and 4 months: 8,281 training windows, 2,857 full ones in each other split, shortened ones behind them."""
    assert len(splits.train) == 8640 - LOOK_BACK - HORIZON + 1
    for split in (splits.validation, splits.test):
        full = split.inputs["lengths"] == LOOK_BACK
        assert int(full.sum()) == 2880 - HORIZON + 1
        assert set(split.inputs["lengths"].tolist()) == set(PASTS)


def test_windows_join_past_and_target_at_the_right_hour(splits, data_dir):
    """The target goes on where the past ends, and the hour of week is that of the first step of the past."""
    readings = ett.read(data_dir)
    for split, begin in ((splits.train, LOOK_BACK), (splits.validation, 8640), (splits.test, 11520)):
        for row in (0, 17, 2856):
            now = begin + row
            assert np.array_equal(split.inputs["values"][row].numpy(), readings.values[now - LOOK_BACK : now])
            assert np.array_equal(split.targets[row].numpy(), readings.values[now : now + HORIZON, OT])
            assert split.inputs["hour_of_week"][row] == readings.hour_of_week(now - LOOK_BACK)


def test_no_target_of_a_later_split_is_trained_on(splits, data_dir):
    """The last training target is hour 8,639, the last of validation 11,519."""
    values = ett.read(data_dir).values
    assert splits.train.targets[-1, -1] == values[ett.TRAIN_END - 1, OT]
    full = splits.validation.inputs["lengths"] == LOOK_BACK
    assert splits.validation.targets[full][-1, -1] == values[ett.VALIDATION_END - 1, OT]


def test_shortened_rows_are_the_tails_of_the_full_ones(splits):
    """A shorter past ends at the same hour, starts later in the week, and has nothing behind it."""
    test, count = splits.test, 2857
    part = -(-count // forecast.SHORTER_EVERY)
    for number, past in enumerate(PASTS[:-1]):
        row = count + number * part + 3
        full = 3 * forecast.SHORTER_EVERY
        assert test.inputs["lengths"][row] == past
        assert torch.equal(test.inputs["values"][row, :past], test.inputs["values"][full, -past:])
        assert not test.inputs["values"][row, past:].any()
        assert test.inputs["hour_of_week"][row] == (test.inputs["hour_of_week"][full] + LOOK_BACK - past) % 168
        assert torch.equal(test.targets[row], test.targets[full])


def test_training_batches_are_shuffled_and_half_shortened(splits):
    """Every row once, lengths from a day to the whole look-back, the same again from the same seed."""
    few = Split({name: rows[:400] for name, rows in splits.train.inputs.items()}, splits.train.targets[:400])
    batches = list(TASK.batches(few, 64, torch.Generator().manual_seed(1)))
    lengths = torch.cat([inputs["lengths"] for inputs, _ in batches])
    assert 0.4 < (lengths == LOOK_BACK).double().mean() < 0.6
    assert forecast.MIN_LENGTH <= int(lengths.min()) < 60
    targets = torch.cat([rows for _, rows in batches])
    assert not torch.equal(targets, few.targets)
    assert sorted(targets[:, 0].tolist()) == sorted(few.targets[:, 0].tolist())
    again = list(TASK.batches(few, 64, torch.Generator().manual_seed(1)))
    assert all(torch.equal(one[0]["values"], two[0]["values"]) for one, two in zip(batches, again, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_repeats_the_last_value(name):
    """Training starts from the naive forecast, in degrees."""
    values = series(100)
    torch.testing.assert_close(run(build(name), values), values[-1, OT].expand(HORIZON), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_and_neighbours_do_not_change_a_row(name):
    """A row alone and unpadded equals the row in a mixed batch with junk behind it."""
    network = busy(name)
    batch = TASK.example(16, 400, 5)
    with torch.no_grad():
        together, scales = network(**batch)
    assert torch.isfinite(together).all()
    assert (scales > 0).all()
    for row, length in enumerate(batch["lengths"].tolist()):
        alone = run(network, batch["values"][row, :length], int(batch["hour_of_week"][row]))
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-6)


def test_only_the_look_back_matters(network):
    """Steps before it change nothing, when the hour of week goes with the crop."""
    values = series(LOOK_BACK + 100)
    whole = run(network, values, hour_of_week=160)
    tail = run(network, values[100:], hour_of_week=(160 + 100) % 168)
    torch.testing.assert_close(whole, tail)


def test_every_part_of_the_past_matters(network):
    """The oldest step of the look-back, a load an hour ago, the hour of day and the weekend all reach the forecast."""
    values = series(LOOK_BACK)
    before = run(network, values, hour_of_week=0)
    for place in ((0, OT), (-2, 0), (-5, 3)):
        changed = values.clone()
        changed[place] += 3
        assert not torch.allclose(run(network, changed, hour_of_week=0), before, atol=1e-5)
    for hour in (1, 120):
        assert not torch.allclose(run(network, values, hour_of_week=hour), before, atol=1e-5)


@pytest.mark.parametrize("length", [24, 31, 48, 200])
def test_a_short_past_is_continued_by_its_first_day(network, length):
    """To the linear map a short series is a long one that repeated its first day; the rest sees real steps only."""
    values = series(length)
    days = -(-(LOOK_BACK - length) // 24)
    extended = torch.cat([values[:24].repeat(days, 1), values])[-LOOK_BACK:]
    scaled = (extended[:, OT] - network.mean[OT]) / network.std[OT]
    past = network._past(values.unsqueeze(0), torch.tensor([[length]]))
    torch.testing.assert_close(past[0], scaled)


def test_a_flat_series_is_forecast_without_a_fault(network):
    """No change at all leaves finite numbers; so do the largest readings the service takes."""
    flat = torch.full((60, 7), 3.0)
    assert torch.isfinite(run(network, flat)).all()
    assert torch.isfinite(run(network, flat * 1e29)).all()
    wild = torch.where(torch.arange(60).unsqueeze(1) % 2 == 0, flat, -flat) * 3e29
    assert torch.isfinite(run(network, wild)).all()


def test_the_clock_knows_days_and_weekends():
    """Hours go round in a circle of 24, the weekend is hours 120 to 167 of the week."""
    hours = torch.tensor([0, 6, 119, 120, 167, 168, 30])
    features = clock(hours)
    assert features[:, 2].tolist() == [0, 0, 0, 1, 1, 0, 0]
    torch.testing.assert_close(features[1], features[6])
    torch.testing.assert_close(features[0, :2], torch.tensor([0.0, 1.0]))


def test_hidden_columns_are_for_training_only(network):
    """Two passes agree in inference and differ in training, and the target is never hidden."""
    values = series(LOOK_BACK).unsqueeze(0)
    inputs = (values, torch.tensor([LOOK_BACK]), torch.tensor([0]))
    scale = torch.ones(1, 1)
    try:
        network.train()
        torch.manual_seed(1)
        seen = [network._recent(values, inputs[1].unsqueeze(1), inputs[2].unsqueeze(1), scale)[0] for _ in range(8)]
    finally:
        network.eval()
    plain = network._recent(values, inputs[1].unsqueeze(1), inputs[2].unsqueeze(1), scale)[0]
    assert all(torch.equal(one[..., OT:], plain[..., OT:]) for one in seen)
    assert any(not torch.equal(one, two) for one, two in pairwise(seen))
    assert torch.equal(network(*inputs)[0], network(*inputs)[0])


def test_conformal_widths_hold_the_share_they_promise():
    """On exchangeable errors the widths cover the level, for each past and each step ahead."""
    generator = torch.Generator().manual_seed(0)
    count, steps = 4000, 3
    lengths = torch.tensor(PASTS).repeat_interleave(count)
    scales = torch.rand(len(lengths), 1, generator=generator) + 0.5
    errors = torch.randn(len(lengths), steps, generator=generator) * scales * torch.tensor([1.0, 2.0, 3.0])
    widths = forecast.conformal_widths(errors, scales, lengths)
    assert widths.shape == (len(PASTS), steps)
    fresh = torch.randn(count, steps, generator=generator) * torch.tensor([1.0, 2.0, 3.0])
    for row in widths:
        covered = (fresh.abs() <= row).double().mean(0)
        assert ((covered - 0.8).abs() < 0.03).all()


def test_the_interval_follows_the_length_of_the_past(network):
    """A past between two of the fitted ones takes the widths of the shorter; lower <= mean <= upper."""
    widths = torch.arange(1.0, 6.0).unsqueeze(1).expand(5, HORIZON).contiguous()
    serving = Serving(network, widths).eval()
    for length, expected in ((24, 1), (47, 1), (48, 2), (167, 3), (168, 4), (335, 4), (336, 5), (400, 5)):
        batch = {"values": series(length).unsqueeze(0), "lengths": torch.tensor([length])}
        batch["hour_of_week"] = torch.tensor([0])
        with torch.no_grad():
            mean, lower, upper = serving(**batch)
            _, scale = network(**batch)
        width = (upper - mean) / forecast.spread(scale)
        torch.testing.assert_close(width, torch.full((1, HORIZON), float(expected)), rtol=1e-3, atol=0)
        torch.testing.assert_close(mean - lower, upper - mean, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*axis name.*:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_exported_graph_agrees_with_torch(name, tmp_path):
    """Batches 1, 3, 32, lengths from a day to beyond the look-back; a recurrent layer is one node."""
    module = Serving(busy(name), torch.ones(len(PASTS), HORIZON)).eval()
    empty = Split({}, torch.zeros(0))
    spec = TASK.spec(Splits(empty, empty, empty, [], {}, FACTS))
    path = tmp_path / "model.onnx"
    export.export(module, TASK.example(2, 48, 0), spec, path)
    parity = export.check_parity(module, path, TASK.example, TASK.parity_lengths())
    assert parity.max_abs_diff < 1e-4
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert [nodes.count(kind) for kind in ("LSTM", "GRU", "RNN")] == [
        2 * (name == kind) for kind in ("lstm", "gru", "rnn")
    ]


def test_scores_are_in_the_published_unit(splits):
    """The naive forecast scores the error that is known for it, and an interval of a width covers what it covers."""
    split = splits.test
    last = split.inputs["values"][torch.arange(len(split)), split.inputs["lengths"] - 1, OT].unsqueeze(1)
    mean = last.expand(-1, HORIZON)
    figures = TASK.score({"mean": mean, "lower": mean - 100, "upper": mean + 100}, split)
    assert figures["mse"] == pytest.approx(0.0343, abs=1e-4)
    assert figures["mse"] == pytest.approx(figures["last_value_mse"])
    assert figures["coverage"] == 1
    assert figures["interval_width_degrees"] == pytest.approx(200)
    raw = torch.cat([mean, torch.ones(len(split), 1)], dim=1)
    assert TASK.metrics(raw, split)["mse"] == pytest.approx(figures["mse"], rel=1e-5)


@pytest.fixture(scope="module")
def shipped():
    store = Store(ZOO)
    version = store.live("forecast-lstm")
    assert version is not None, "models/zoo has no live forecast-lstm"
    return store.folder("forecast-lstm", version), store.verify("forecast-lstm", version)


def test_the_shipped_version_keeps_its_promises(shipped, splits):
    """The figures in the manifest are those of the file, and good: for two weeks of past, and for a day."""
    folder, manifest = shipped
    figures = pipeline.score(TASK, folder / manifest.model_file, splits.test)
    assert figures == pytest.approx(manifest.metrics["test"], rel=1e-3)
    assert figures["mse"] <= 0.0265
    assert max(figures[f"mse_{past}"] for past in PASTS[:-1]) <= 0.030
    assert figures["mse"] < 0.8 * figures["last_value_mse"]
    assert 0.77 <= figures["coverage"] <= 0.85


def test_the_shipped_version_is_what_the_recipe_makes(shipped):
    """Trained by the task's own defaults, and on the contract of today."""
    _, manifest = shipped
    recipe = TASK.recipe.networks["lstm"]
    spec = JobSpec(
        task="forecast",
        network="lstm",
        epochs=int(recipe.epochs.default),
        batch_size=int(recipe.batch_size.default),
        learning_rate=recipe.learning_rate.default,
        seed=manifest.provenance.seed,
    )
    assert manifest.provenance.command == pipeline.command_of(spec)
    empty = Split({}, torch.zeros(0))
    promised = TASK.spec(Splits(empty, empty, empty, [], {}, FACTS))
    assert (manifest.inputs, manifest.outputs, manifest.series) == (promised.inputs, promised.outputs, promised.series)


class Silent:
    def step(self, progress):
        pass

    def epoch(self, row, stopped_early):
        pass


def test_the_summaries_are_true():
    """Layers and units are those of the networks that are built."""
    for name, recipe in TASK.recipe.networks.items():
        encoder = build(name).encoder
        if name == "transformer":
            block, layers = encoder.encoder.blocks[0], len(encoder.encoder.blocks)
            words = f"{layers} layers of {block.norm_forward.weight.numel()} features and {block.attention.heads} heads"
        else:
            assert type(encoder.cells) is getattr(torch.nn, name.upper())
            words = f"{name.upper()} of {encoder.cells.num_layers} layers of {encoder.cells.hidden_size} units"
        assert words in recipe.summary
        assert recipe.model == f"forecast-{name}"


def test_another_horizon_changes_targets_and_outputs_only(splits, data_dir):
    """Four days ahead: the published windows of that horizon, a network and a contract of that width."""
    task = ForecastTask(96)
    far = task.load(data_dir, 0)
    assert far.train.targets.shape == (8640 - LOOK_BACK - 96 + 1, 96)
    full = far.test.inputs["lengths"] == LOOK_BACK
    assert int(full.sum()) == 2880 - 96 + 1
    assert torch.equal(far.test.targets[0, :HORIZON], splits.test.targets[0])
    assert run(build("lstm", task), series(100)).shape == (96,)
    spec = task.spec(far)
    assert [output.shape for output in spec.outputs] == [["batch", 96]] * 3
    assert spec.series is not None
    assert spec.series.horizon == 96


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS[1:])
def test_every_network_learns(name, splits, tmp_path):
    """An eighth of the windows, shown once, is enough to be well below the naive forecast's 0.070."""
    some = Split({key: rows[::8] for key, rows in splits.train.inputs.items()}, splits.train.targets[::8])
    result = fit(
        TASK, name, replace(splits, train=some), FitSettings(1, 16, 0.001, 0), Silent(), tmp_path / "checkpoint.pt"
    )
    assert result.history[-1].val_metric < 0.060


@pytest.mark.slow
def test_one_epoch_beats_the_naive_forecast_by_far(splits, tmp_path):
    """The recipe learns: a single epoch is already below 0.055 in validation, where the last value gives 0.070."""
    result = fit(TASK, "lstm", splits, FitSettings(1, 64, 0.001, 0), Silent(), tmp_path / "checkpoint.pt")
    assert result.history[-1].val_metric < 0.055
    assert isinstance(result.module, Forecaster)


def test_losses_are_those_of_blocks_of_one_horizon() -> None:
    """Windows with a full past only, 24 in a row to a block; what is left at the end does not count."""
    horizon, windows_, shorter = 3, 8, 4
    rows = windows_ + shorter
    lengths = torch.tensor([LOOK_BACK] * windows_ + [24] * shorter)
    targets = torch.zeros(rows, horizon)
    errors = torch.arange(1.0, rows + 1).unsqueeze(1).expand(rows, horizon) * ett.TARGET_STD
    found = ForecastTask(horizon).losses({"mean": targets + errors}, Split({"lengths": lengths}, targets))
    assert found.tolist() == pytest.approx([(1 + 4 + 9) / 3, (16 + 25 + 36) / 3])


def test_the_training_ranges_are_those_of_the_training_months(data_dir):
    """The least and the largest reading of each column, as the file writes them."""
    facts = TASK.load(data_dir, 0).facts
    assert (facts["low"], facts["high"]) == (FACTS["low"], FACTS["high"])
    ranges = TASK.spec(TASK.load(data_dir, 0)).series.ranges
    assert ranges["OT"] == (-4.08, 46.007)
