"""Finds tasks by name: each module of `training.tasks` but `base` is one, and holds it as `TASK`.

Nothing is imported before it is asked for, as a task brings torch with it.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

import training.tasks
from training.tasks.base import Task


class UnknownTaskError(ValueError):
    """There is no such task or network; the message lists those there are."""


def task_names() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(training.tasks.__path__) if module.name != "base")


def get_task(name: str) -> Task:
    """The task of that name."""
    if name not in task_names():
        raise UnknownTaskError(f"there is no task {name!r}; there are {', '.join(task_names())}")
    return cast("Task", importlib.import_module(f"training.tasks.{name}").TASK)


def check_network(task: Task, network: str) -> None:
    """UnknownTaskError unless the task has that network."""
    known = task.recipe.networks
    if network not in known:
        raise UnknownTaskError(f"task {task.name} has no network {network!r}; it has {', '.join(known)}")
