"""The comparison as one Markdown page."""

from __future__ import annotations

from collections.abc import Iterator

from training.comparison.results import Comparison, ModelRow, Spread, TaskTable

_SHARES = {"accuracy", "ece", "coverage"}
_HONESTY = {"ece": "calibration error (ECE)", "coverage": "interval's coverage"}
"""How well a network knows what it does not know, by the name of the test figure."""


def figure(metric: str, value: float) -> str:
    """A figure as people read it: shares in per cent, errors with four decimals."""
    return f"{value:.2%}".replace("%", " %") if metric in _SHARES else f"{value:.4f}"


def with_spread(metric: str, over: Spread) -> str:
    """Mean and standard deviation, the latter where there is more than one run."""
    if over.std is None:
        return figure(metric, over.mean)
    if metric in _SHARES:
        return f"{over.mean * 100:.2f} ± {over.std * 100:.2f} %"
    return f"{over.mean:.4f} ± {over.std:.4f}"


def size(count: int) -> str:
    """Bytes in decimal units."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def markdown(found: Comparison, pictures: dict[str, str]) -> str:
    """The page; `pictures` are the files to show, with what they show."""
    return "\n".join(_lines(found, pictures)) + "\n"


def _lines(found: Comparison, pictures: dict[str, str]) -> Iterator[str]:
    yield "# The networks compared"
    yield ""
    yield "Written by `python -m training compare`; all figures, run by run, are in `compare.json`."
    for table in found.tasks:
        yield from ("", f"## {table.task}", "")
        yield from _table(table)
        yield from _notes(table)
    for failure in found.failed:
        yield from ("", f"**Missing**: {failure.model}, seed {failure.seed}: {failure.reason}.")
    for file, words in pictures.items():
        yield from ("", f"![{words}]({file})")
    yield from ("", "## How to read it", "")
    yield from (f"- {line}" for line in _legend(found))


def _table(table: TaskTable) -> Iterator[str]:
    metric = table.metric
    honesty = next((name for name in _HONESTY if all(name in row.test for row in table.models)), None)
    columns = ["model", "seeds", f"validation {metric}", f"test {metric}", "best seed", f"its test {metric}", "bar"]
    columns += [f"its {_HONESTY[honesty]}"] if honesty else []
    columns += ["weights", "ONNX file", "ONNX parity", "batch of 1", "batch of 32", "training"]
    yield _row(columns)
    yield _row([":--"] + ["--:"] * (len(columns) - 1))
    for row in table.models:
        tested = row.best.metrics["test"]
        cells = [row.model, str(len(row.runs)), with_spread(metric, row.validation[metric])]
        cells += [with_spread(metric, row.test[metric]), str(row.best_seed), figure(metric, tested[metric])]
        cells += [_bar(table, row), *([figure(honesty, tested[honesty])] if honesty else []), f"{row.weights:,}"]
        cells += [size(row.file_bytes), f"{row.parity:.0e}", *(f"{row.latency_ms[batch]:.3g} ms" for batch in (1, 32))]
        yield _row([*cells, f"{(row.train_cpu_seconds or row.train_seconds).mean:,.0f} s"])


def _bar(table: TaskTable, row: ModelRow) -> str:
    if row.bar is None:
        return ""
    missed = "" if row.reached else " (missed)"
    return f"{'≥' if table.higher_is_better else '≤'} {figure(table.metric, row.bar)}{missed}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(table: TaskTable) -> Iterator[str]:
    """What the figures of a table do not say themselves."""
    shipped = [
        f"{row.model}'s seed {row.best_seed} is version {row.shipped.version}"
        for row in table.models
        if row.shipped and row.shipped.version
    ]
    if shipped:
        yield from ("", f"Published: {', '.join(shipped)}.")
    for row in table.models:
        if row.shipped and row.shipped.version is None:
            yield from ("", f"**Refused by the gate**: {row.model}: {'; '.join(row.shipped.reasons)}.")
        other = [str(run.seed) for run in row.runs if not run.by_recipe]
        if other:
            made = f"{row.runs[0].origin}, made with other settings than the recipe has today"
            yield from ("", f"{row.model}, seed {', '.join(other)}: {made} (`{row.runs[0].command}`).")


def _legend(found: Comparison) -> Iterator[str]:
    several = found.seeds > 1
    yield (
        "All figures are those of the exported ONNX file on whole splits"
        + (
            "; *mean ± standard deviation* is over runs that differ in their seed (order of the rows, first weights, "
            "what is dropped or moved at random)."
            if several
            else "."
        )
    )
    yield (
        "The *best seed* is the one with the best validation figure, never the best test figure; the *bar* is what "
        "its test figure is meant to reach. Latency, file and calibration are those of that seed."
    )
    if any(table.metric == "mse" for table in found.tasks):
        yield "*mse*: mean squared error over all hours ahead, in units of the target's variance in the training rows."
    yield "*ONNX parity* is the largest difference between an output of torch and of ONNX Runtime, over all seeds."
    yield (
        f"*Batch of 1* and *of 32*: median CPU time of {found.latency_repeats} runs of ONNX Runtime "
        f"{_runtime(found)} on one thread ({found.cpu}). The rows are real ones; {_lengths(found)}."
    )
    yield (
        f"*Training*: mean CPU seconds of the epochs{_threads(found)}, without export and scoring; on one thread of a "
        "quiet machine the clock says the same. Runs that did not note their CPU time tell the clock's."
    )


def _runtime(found: Comparison) -> str:
    return next((version for name, version in found.libraries.items() if name.startswith("onnxruntime")), "")


def _threads(found: Comparison) -> str:
    """On how many threads the runs were trained, where that is the same for all and known."""
    runs = [run for table in found.tasks for row in table.models for run in row.runs]
    kinds = {(run.device, run.threads) for run in runs}
    ((device, threads),) = kinds if len(kinds) == 1 else {(None, None)}
    return f" on {threads} {device.upper()} thread{'s'[: threads != 1]}" if device and threads else ""


def _lengths(found: Comparison) -> str:
    """The sizes of a row, by task."""
    words = []
    for table in found.tasks:
        rows = table.models[0].latency_rows
        largest = max(rows.values(), key=len)
        words.append(f"{table.task} {'x'.join(map(str, largest))}")
    return f"a row's size is {', '.join(words)}"
