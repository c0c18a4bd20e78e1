"""The recipes of all tasks as data: what the service checks `POST /train` against without importing torch."""

from __future__ import annotations

from pathlib import Path

import models
from models.jobs import JobSpec, NetworkRecipe, Promote, Range, Recipes
from training.registry import check_network, get_task, task_names
from training.tasks.base import Task

FILE = Path(models.__file__).parent / "zoo" / "recipes.json"


class SettingError(ValueError):
    """A setting is outside its recipe's range."""


def collect() -> Recipes:
    """The recipes of every task."""
    return Recipes(tasks={name: get_task(name).recipe for name in task_names()})


def as_json(recipes: Recipes) -> str:
    """As the file holds them."""
    return recipes.model_dump_json(indent=1) + "\n"


def make_spec(
    task: Task,
    network: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    promote: Promote = "if_better",
) -> JobSpec:
    """A job with the recipe's defaults filled in; SettingError or UnknownTaskError for what the recipe forbids."""
    network = network or task.recipe.default_network
    check_network(task, network)
    recipe: NetworkRecipe = task.recipe.networks[network]
    if not 0 <= seed < 2**31:
        raise SettingError(f"seed must be between 0 and {2**31 - 1}, not {seed}")
    return JobSpec(
        task=task.name,
        network=network,
        epochs=int(_within("epochs", epochs, recipe.epochs)),
        batch_size=int(_within("batch size", batch_size, recipe.batch_size)),
        learning_rate=_within("learning rate", learning_rate, recipe.learning_rate),
        seed=seed,
        promote=promote,
    )


def _within(name: str, value: float | None, bounds: Range) -> float:
    if value is None:
        return bounds.default
    if not bounds.min <= value <= bounds.max:
        raise SettingError(f"{name} must be between {bounds.min:g} and {bounds.max:g}, not {value:g}")
    return value
