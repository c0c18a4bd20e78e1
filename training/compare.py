"""The `compare` command: the runs of every network in one table. Torch is imported only when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.store import Store
from training.reporters import Reporter

if TYPE_CHECKING:
    from training.comparison.results import Comparison, Failure, Shipped
    from training.comparison.runs import Entry, Plan, Run

REFUSED = 3
Runs = list[tuple["Entry", list["Run"]]]


def add_arguments(parser: argparse.ArgumentParser, state: Path) -> None:
    """Add the options; `--store` is the caller's."""
    parser.description = (
        "Load or train every network (or those chosen), and write compare.md, compare.json and two pictures. "
        "Repeat the same command to go on where it was stopped."
    )
    for option, example in (("task", "topic"), ("network", "lstm"), ("model", "topic-lstm")):
        words = f"only this {option} ({example}, say); may be repeated"
        parser.add_argument(f"--{option}", action="append", default=[], metavar=option.upper(), help=words)
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="runs of each network: seeds 0 to K-1 (1)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--load",
        action="store_true",
        default=None,
        help="a run that is not in WORK is the live version of the store, or the shipped one, where that has its seed, "
        "and is trained where there is none (the default for one seed, for which any live version will do)",
    )
    source.add_argument(
        "--train",
        action="store_false",
        dest="load",
        help="a run that is not in WORK is trained (the default for more seeds)",
    )
    kept = state / "compare"
    parser.add_argument(
        "--work", type=Path, default=kept, metavar="DIR", help="trained runs are kept here: STATE/compare (%(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=kept, metavar="DIR", help="where the table goes: STATE/compare (%(default)s)"
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="DIR",
        help="publish each network's best seed on the validation split into this store, and make it live",
    )


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    """Do it; 0, 1 when a run is missing in the table, 3 when the gate refused one, 130 when stopped."""
    try:
        return _run(args, reporter)
    except KeyboardInterrupt:
        reporter.error("stopped; the same command goes on from the last finished epoch")
        return 130


def _run(args: argparse.Namespace, reporter: Reporter) -> int:
    from training.comparison.runs import Plan, chosen
    from training.recipes import SettingError

    if args.seeds < 1:
        raise SettingError(f"seeds must be at least 1, not {args.seeds}")
    load: bool = args.seeds == 1 if args.load is None else args.load
    plan = Plan(args.work, Store(args.store), args.seeds, load)
    runs, failed = _collect(chosen(args.task, args.network, args.model), plan, reporter)
    if not runs:
        reporter.error("there is no run to compare")
        return 1
    shipped = _ship(runs, args.publish, reporter)
    found = _measured(runs, shipped, failed, args.seeds, reporter)
    _write(found, args.output, reporter)
    if failed:
        reporter.error(f"{len(failed)} of the runs could not be had; the page names them")
        return 1
    return REFUSED if any(one.version is None for one in shipped.values()) else 0


def _collect(entries: Sequence[Entry], plan: Plan, reporter: Reporter) -> tuple[Runs, list[Failure]]:
    """The runs of each network; a training that fails costs its own row only."""
    from training.comparison.results import Failure
    from training.comparison.runs import obtain
    from training.datasets.files import DataError
    from training.export import ExportError
    from training.fit import FitDivergedError
    from training.pipeline import EvaluationError

    runs: Runs = []
    failed: list[Failure] = []
    for entry in entries:
        mine = []
        for seed in range(plan.seeds):
            try:
                mine.append(obtain(entry, seed, plan, reporter))
            except (DataError, ExportError, FitDivergedError, EvaluationError) as exc:
                reporter.log(f"{entry.model}, seed {seed}: failed: {exc}")
                failed.append(Failure(model=entry.model, seed=seed, reason=str(exc)))
        if mine:
            runs.append((entry, mine))
    return runs, failed


def _ship(runs: Runs, store: Path | None, reporter: Reporter) -> dict[str, Shipped]:
    from training.comparison.results import best_of
    from training.comparison.shipping import ship

    if store is None:
        return {}
    return {entry.model: ship(best_of(mine, entry.task.recipe), Store(store), reporter) for entry, mine in runs}


def _measured(
    runs: Runs, shipped: Mapping[str, Shipped], failed: list[Failure], seeds: int, reporter: Reporter
) -> Comparison:
    from training import runtime
    from training.comparison import latency, results

    reporter.log(f"measuring the latency of {len(runs)} networks")
    timings = latency.measure({entry.model: results.best_of(mine, entry.task.recipe) for entry, mine in runs})
    rows: dict[str, list[results.ModelRow]] = {}
    for entry, mine in runs:
        row = results.model_row(entry, mine, timings[entry.model], shipped.get(entry.model))
        rows.setdefault(entry.task.name, []).append(row)
    recipes = {entry.task.name: entry.task.recipe for entry, _ in runs}
    return results.Comparison(
        seeds=seeds,
        cpu=results.cpu_name(),
        libraries=runtime.libraries(),
        latency_repeats=latency.TURNS * latency.RUNS,
        tasks=[results.task_table(recipes[task], task, of_task) for task, of_task in rows.items()],
        failed=failed,
    )


def _write(found: Comparison, output: Path, reporter: Reporter) -> None:
    from training.comparison import page, pictures

    output.mkdir(parents=True, exist_ok=True)
    shown = pictures.draw(found, output)
    for name, text in (("compare.json", found.to_json()), ("compare.md", page.markdown(found, shown))):
        (output / name).write_text(text, "utf-8")
        reporter.log(f"wrote {output / name}")
