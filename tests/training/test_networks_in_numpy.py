"""The exported graph of every network agrees with the textbook's equations in NumPy, to 1e-5 on random inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.twins import TWINS, Outputs
from training import export
from training.datasets import ett
from training.datasets.ag_news import train_tokenizer
from training.datasets.exposure.texts import sections
from training.registry import get_task, task_names
from training.tasks import forecast, topic
from training.tasks.base import Inputs, Split, Splits, Task

TOLERANCE = 1e-5
"""Absolute: probabilities as they are, forecasts in units of the target's standard deviation."""
TOKENIZER = train_tokenizer((" ".join(entries) for entries in sections("everyday.txt").values()), 300)
FACTS: dict[str, dict[str, Any]] = {
    "digit": {"mean": 0.13, "std": 0.31},
    "forecast": {
        "mean": [7.9, 2.0, 5.1, 0.8, 2.8, 0.8, 17.1],
        "std": [5.8, 2.1, 5.5, 1.9, 1.0, 0.6, ett.TARGET_STD],
        "low": [-20.0] * 7,
        "high": [50.0] * 7,
    },
    "topic": {"vocabulary": TOKENIZER.get_vocab_size()},
}
NETWORKS = [(name, network) for name in task_names() for network in get_task(name).recipe.networks]


def splits_of(task: Task) -> Splits:
    """A validation split of random rows, enough to calibrate on, and what the task's networks need to know."""
    assert task.name in FACTS, f"task {task.name} has no facts in {Path(__file__).name}: add what its networks need"
    generator = torch.Generator().manual_seed(1)
    if task.name == "forecast":
        inputs = task.example(20, forecast.LOOK_BACK, 1)
        inputs["values"] = torch.randn(20, forecast.LOOK_BACK, 7, generator=generator).cumsum(1)
        inputs["lengths"][:] = forecast.LOOK_BACK
        rows = forecast.with_shorter(Split(inputs, torch.randn(20, forecast.HORIZON, generator=generator)))
    else:
        classes = len(task.spec(Splits(*[None] * 3, [], {}, {})).labels)  # type: ignore[arg-type]
        rows = Split(task.example(64, 20, 1), torch.randint(0, classes, (64,), generator=generator))
    if task.name == "topic":
        rows = topic.TextSplit(rows.inputs, rows.targets, headlines=torch.randint(1, 6, (64,), generator=generator))
        return Splits(rows, rows, rows, [], {topic.TOKENIZER: TOKENIZER.to_str().encode()}, FACTS[task.name])
    return Splits(rows, rows, rows, [], {}, FACTS[task.name])


def shaken(module: nn.Module) -> nn.Module:
    """Random weights where training would start at nothing in particular, and statistics norms could have seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weights in module.parameters():
            inputs = weights[0].numel() if weights.ndim > 1 else 10
            weights.add_(torch.randn(weights.shape, generator=generator) * inputs**-0.5)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean += torch.randn(layer.num_features, generator=generator) * 0.3
                layer.running_var *= 0.5 + torch.rand(layer.num_features, generator=generator)
    return module.eval()


def likely(task: Task, module: nn.Module, splits: Splits) -> Splits:
    """Splits whose classes are drawn from the network's own probabilities, so that its temperature comes to about 1."""
    if task.recipe.kind == "series":
        return splits
    chances = task.predict(module, splits.validation).softmax(1)
    targets = torch.multinomial(chances, 1, generator=torch.Generator().manual_seed(3)).squeeze(1)
    return replace(splits, validation=replace(splits.validation, targets=targets))


def worst(twin: Outputs, graph: export.Arrays, unit: float) -> float:
    """The largest difference in the outputs that the twin gives."""
    return max(float(np.abs(values - graph[name]).max()) / unit for name, values in twin.items())


def cases(task: Task) -> list[Inputs]:
    """Random raw inputs of every length that parity is checked over, with rows that end early."""
    return [task.example(4, length, 100 + number) for number, length in enumerate(task.parity_lengths())]


@pytest.mark.parametrize("name", task_names())
def test_every_network_has_a_twin(name: str) -> None:
    """A network that joins a recipe is written in NumPy too."""
    missing = [network for network in get_task(name).recipe.networks if (name, network) not in TWINS]
    assert not missing, f"task {name}: {', '.join(missing)} has no twin; write its equations in tests/training/twins.py"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network"), NETWORKS)
def test_the_exported_graph_agrees_with_the_equations(name: str, network: str, tmp_path: Path) -> None:
    """Built, shaken, calibrated and exported as in a training; ONNX Runtime against NumPy on random raw inputs."""
    assert (name, network) in TWINS, f"task {name}: {network} has no twin in tests/training/twins.py"
    task = get_task(name)
    splits = splits_of(task)
    torch.manual_seed(0)
    module = shaken(task.build(network, splits))
    serving, _ = task.serving(module, likely(task, module, splits))
    path, lengths = tmp_path / "model.onnx", task.parity_lengths()
    export.export(serving, task.example(2, lengths[len(lengths) // 2], 0), task.spec(splits), path)
    engine = export.session(path)
    unit = ett.TARGET_STD if name == "forecast" else 1.0
    spread = 0.0
    for inputs in cases(task):
        twin, graph = TWINS[name, network](module, serving, inputs), export.run(engine, inputs)
        assert worst(twin, graph, unit) < TOLERANCE
        spread = max(spread, *(float(np.ptp(values, axis=0).max()) for values in twin.values()))
    assert spread > 0.01, "the rows hardly differ: the weights are too small to prove anything"
