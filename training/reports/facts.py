"""What the manifest says of a version, in words: title, figures, origin."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from models.jobs import TaskRecipe
from models.manifest import Manifest
from training.reports.html import Html, details, join, paragraph, section, table, tag
from training.reports.words import percent, size

_SPLITS = {"validation": "Validation", "test": "Test"}


def share(value: float) -> str:
    return percent(value, 2)


def small(value: float) -> str:
    return f"{value:.4f}"


_FIGURES: Final[dict[str, tuple[str, Callable[[float], str]]]] = {
    "accuracy": ("Right answers", share),
    "nll": ("Negative log likelihood (nats)", small),
    "ece": ("Calibration error", share),
    "ece_before": ("Calibration error before, validation", share),
    "ece_after": ("Calibration error after, validation", share),
    "temperature": ("Temperature (divides the logits)", small),
    "mse": ("Mean squared error (scaled)", small),
    "mae": ("Mean absolute error (scaled)", small),
    "mae_degrees": ("Mean absolute error (degrees)", small),
    "coverage": ("Truth inside the band", share),
    "interval_width_degrees": ("Mean width of the band (degrees)", small),
    "last_value_mse": ("Mean squared error of the last value (scaled)", small),
    "level": ("Share of truths that the band is meant to hold", share),
}
_PAST = re.compile(r"(?P<name>.+?)_(?P<past>\d+)")


def name_of(figure: str) -> str:
    """A figure's name in words; one that is not known as it stands."""
    if figure in _FIGURES:
        return _FIGURES[figure][0]
    shorter = _PAST.fullmatch(figure)
    if shorter and shorter["name"] in _FIGURES:
        return f"{_FIGURES[shorter['name']][0]}, past of {shorter['past']} steps"
    return figure.replace("_", " ")


def value_of(figure: str, value: float) -> str:
    """A figure's value as its kind is written."""
    shorter = _PAST.fullmatch(figure)
    known = _FIGURES.get(figure) or _FIGURES.get(shorter["name"] if shorter else "")
    return known[1](value) if known else f"{value:.6g}"


def title(manifest: Manifest, recipe: TaskRecipe) -> Html:
    """Model, task and network in words, and the figures to know."""
    network = recipe.networks[manifest.network]
    return join(
        [
            tag("h1", f"{manifest.name}: report"),
            paragraph(recipe.summary),
            paragraph(f"Network {manifest.network}: {network.summary}"),
            tag(
                "dl",
                join(tag("div", join([tag("dt", word), tag("dd", said)])) for word, said in _cards(manifest)),
                class_="cards",
            ),
        ]
    )


def _cards(manifest: Manifest) -> list[tuple[str, str]]:
    test, made = manifest.metrics["test"], manifest.provenance
    wanted = ("accuracy", "ece", "mse", "last_value_mse", "mae_degrees", "coverage")
    cards = [(f"{name_of(name)}, test", value_of(name, test[name])) for name in wanted if name in test]
    return [
        *cards,
        ("Weights", f"{made.weights:,}"),
        ("Model file", size(manifest.files[manifest.model_file].bytes)),
        ("Training time", f"{made.train_seconds:,.0f} s"),
    ]


def figures(manifest: Manifest) -> Html:
    """All figures of both splits, and what was calibrated."""
    splits = [name for name in _SPLITS if name in manifest.metrics]
    names = list(dict.fromkeys(name for split in splits for name in manifest.metrics[split]))
    rows = [
        [
            join([name_of(name), " ", tag("code", name)]),
            *(
                value_of(name, manifest.metrics[split][name]) if name in manifest.metrics[split] else ""
                for split in splits
            ),
        ]
        for name in names
    ]
    calibrated = [
        [join([name_of(name), " ", tag("code", name)]), value_of(name, value)]
        for name, value in manifest.calibration.items()
    ]
    scaled = " Scaled errors are in units of the target's standard deviation over the training rows."
    if not any(name_of(name).endswith("(scaled)") for name in names):
        scaled = ""
    parts = [
        paragraph(
            "All figures come from the published ONNX file, not from the network in training. The validation split "
            "chose the weights and set the calibration; the test split was run once, after all that."
            f"{scaled}"
        ),
        table(
            "Figures by split; the names in small type are those of the manifest.",
            ["figure", *(_SPLITS[split] for split in splits)],
            rows,
        ),
    ]
    if calibrated:
        parts.append(
            details(
                "What was calibrated",
                table("Set on the validation split, built into the file.", ["setting", "value"], calibrated),
            )
        )
    return section("Figures", *parts)


def origin(manifest: Manifest) -> Html:
    """How to make the version again, from what, and what it is made of."""
    made = manifest.provenance
    data = [[each.file, tag("code", each.sha256[:12]), each.licence] for each in made.data]
    beside = {name: entry for name, entry in manifest.files.items() if not name.startswith("report/")}
    files = [[name, size(entry.bytes), tag("code", entry.sha256[:12])] for name, entry in beside.items()]
    return section(
        "How to make it again",
        tag("pre", tag("code", made.command)),
        table("The run.", ["what", "value"], _run(manifest), "words"),
        table("Data, with the first digits of each file's SHA-256.", ["file", "SHA-256", "licence"], data, "words"),
        table("Files of this version beside the report.", ["file", "size", "SHA-256"], files, "words"),
        details(
            "Settings and libraries",
            table("All settings.", ["setting", "value"], _flat(made.settings), "words"),
            table("Libraries.", ["library", "version"], [list(each) for each in made.libraries.items()], "words"),
        ),
    )


def _run(manifest: Manifest) -> list[list[str]]:
    made, parity = manifest.provenance, manifest.parity
    rows = made.settings.get("rows") or {}
    cases = f"{len(parity.cases)} sizes of batch and length"
    allowed = f" ({parity.tolerance:.0e} is allowed)"
    stopped = ", stopped early" if made.settings.get("stopped_early") else ""
    cpu_s = made.settings.get("cpu_seconds")
    cpu = f", {cpu_s:,.1f} s of CPU time" if cpu_s is not None else ""
    return [
        ["seed", str(made.seed)],
        ["rows", ", ".join(f"{count:,} {split}" for split, count in rows.items())],
        ["epochs", f"{made.epochs_run} run, number {made.settings.get('best_epoch')} kept{stopped}"],
        ["training time", f"{made.train_seconds:,.1f} s on {made.settings.get('device')}{cpu}"],
        ["weights", f"{made.weights:,} in the served network"],
        [
            "parity",
            f"at most {parity.max_abs_diff:.1e} between PyTorch and ONNX Runtime over {cases}{allowed}",
        ],
    ]


def _flat(settings: dict[str, object], before: str = "") -> list[list[str]]:
    """Nested settings as lines of dotted names."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{before}{name}.")
        else:
            lines.append([f"{before}{name}", str(value)])
    return lines
