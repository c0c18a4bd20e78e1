"""The report of a version: `report/index.html`, one page with tables and inline pictures, nothing from other hosts.

It is drawn from the manifest and from what the exported graph answered on the test split; the same version gives the
same bytes. What it shows follows from the manifest's `kind`, not from the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from models.jobs import TaskRecipe
from models.manifest import Manifest
from training.reports import classes, curves, facts, series, verdict
from training.reports.answers import Answers
from training.reports.html import page
from training.tasks.base import Split

PAGE = "report/index.html"


def write(folder: Path, manifest: Manifest, recipe: TaskRecipe, test: Split, outputs: Mapping[str, Tensor]) -> Path:
    """Draw the report of the version in `folder` and return the page's path.

    `outputs` are the graph's for every row of `test`, by name.
    """
    answers = Answers(
        manifest=manifest,
        inputs={name: rows.numpy() for name, rows in test.inputs.items()},
        targets=test.targets.numpy(),
        outputs={name: rows.numpy() for name, rows in outputs.items()},
        folder=folder,
    )
    path = folder / PAGE
    path.parent.mkdir(exist_ok=True)
    path.write_text(render(answers, recipe), "utf-8", newline="\n")
    return path


def render(answers: Answers, recipe: TaskRecipe) -> str:
    """The page as text."""
    manifest = answers.manifest
    parts = [
        facts.title(manifest, recipe),
        facts.figures(manifest),
        verdict.PLACE,
        curves.draw(manifest, recipe),
        series.draw(answers) if manifest.kind == "series" else classes.draw(answers),
        facts.origin(manifest),
    ]
    return page(f"{manifest.name}: report", parts)
