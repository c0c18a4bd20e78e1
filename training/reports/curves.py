"""How the training went, epoch by epoch, from the manifest's history."""

from __future__ import annotations

from models.jobs import EpochRow, TaskRecipe
from models.manifest import Manifest
from training.reports.facts import name_of, value_of
from training.reports.html import Html, details, figure, grid, paragraph, section, table
from training.reports.svg import Chart, axis, plain, steps_axis
from training.reports.words import round_percent

_SHARES = ("accuracy",)


def draw(manifest: Manifest, recipe: TaskRecipe) -> Html:
    """Loss and metric over the epochs; empty for a version whose manifest has no history."""
    rows = [EpochRow.model_validate(row) for row in manifest.provenance.history]
    if not rows:
        return Html()
    best = int(manifest.provenance.settings.get("best_epoch") or rows[-1].epoch)
    metric = name_of(recipe.metric).lower()
    said = "One epoch is one pass over all training rows."
    kept = f"The weights kept are those of epoch {best}, the best on the validation split by {metric}."
    return section(
        "How the training went",
        paragraph(f"{said} {kept}"),
        grid([_losses(rows, best), _metric(rows, best, recipe)]),
        details("All epochs as a table", _table(rows, best, recipe)),
    )


def _losses(rows: list[EpochRow], best: int) -> Html:
    epochs, chosen = [row.epoch for row in rows], next(row for row in rows if row.epoch == best)
    train, validation = [row.train_loss for row in rows], [row.val_loss for row in rows]
    chart = Chart(steps_axis(len(rows), "epoch"), axis([*train, *validation], "loss"))
    chart.line([best, best], [min([*train, *validation]), max([*train, *validation])], "d")
    chart.line(epochs, train, "b")
    chart.line(epochs, validation, "a")
    chart.dot(best, chosen.val_loss, "a")
    alt = (
        f"Training loss from {train[0]:.4g} to {train[-1]:.4g} and validation loss from {validation[0]:.4g} to "
        f"{validation[-1]:.4g} over {len(rows)} epochs; epoch {best} was kept."
    )
    note = (
        "Lower is better. The training loss is taken while the network learns, on rows that may be altered at random "
        "to make the task harder, so it may well lie above the validation loss."
    )
    keys = [("b", "training"), ("a", "validation"), ("d", f"epoch {best}, kept")]
    return figure("Loss", chart.svg(alt), note, keys)


def _metric(rows: list[EpochRow], best: int, recipe: TaskRecipe) -> Html:
    epochs, chosen = [row.epoch for row in rows], next(row for row in rows if row.epoch == best)
    values = [row.val_metric for row in rows]
    is_share = recipe.metric in _SHARES
    up = axis(values, recipe.metric, *((round_percent, 1.0) if is_share else (plain,)))
    chart = Chart(steps_axis(len(rows), "epoch"), up)
    chart.line([best, best], [up.low, up.high], "d")
    chart.line(epochs, values, "a")
    chart.dot(best, chosen.val_metric, "a")
    better = "Higher" if recipe.metric_higher_is_better else "Lower"
    figures = [value_of(recipe.metric, value) for value in (values[0], values[-1], chosen.val_metric)]
    alt = (
        f"{name_of(recipe.metric)} on the validation split: {figures[0]} after the first epoch, {figures[1]} after "
        f"the last, {figures[2]} in epoch {best}, which was kept."
    )
    note = f"{better} is better. Measured after each epoch on rows that the network never learns from."
    return figure(
        f"{name_of(recipe.metric)}, validation",
        chart.svg(alt),
        note,
        [("a", "validation"), ("d", f"epoch {best}, kept")],
    )


def _table(rows: list[EpochRow], best: int, recipe: TaskRecipe) -> Html:
    head = ["epoch", "training loss", "validation loss", f"validation {recipe.metric}", "seconds"]
    lines = [
        [
            f"{row.epoch}{' (kept)' if row.epoch == best else ''}",
            f"{row.train_loss:.5f}",
            f"{row.val_loss:.5f}",
            value_of(recipe.metric, row.val_metric),
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    return table("One line an epoch.", head, lines)
