"""The command line of the training wing: fit, compare, evaluate, data, drift, losses, recipes, store, worker.

Torch is imported only by the commands that need it, and errors a user can mend are one sentence on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from models import environment
from models.store import Store, StoreError
from training import compare, storekeeper
from training.datasets.files import DataError, data_root
from training.memory import is_out_of_memory
from training.reporters import ConsoleReporter, EventReporter, Reporter, ReporterHandler
from training.tracking import TrackingError, follow

# Threads that wait must not spin: beside other work on the same cores that made an epoch eight times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REFUSED = 3
"""Exit code of a training that ended well and was refused by the gate."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failed), 2 (not understood), 3 (refused by the gate) or 130 (stopped)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["worker"]:
        from training import worker

        return worker.main(arguments[1:])
    if (refusal := environment.check(os.environ).refusal) is not None:
        print(f"training: {refusal}", file=sys.stderr)
        return 2
    args = _parser().parse_args(arguments)
    reporter: Reporter = _listener() if getattr(args, "events", False) else ConsoleReporter()
    return _guarded(lambda: args.run(args, reporter), reporter)


def _listener() -> Reporter:
    from training.lifeline import die_with_parent

    die_with_parent(os.getppid())
    return EventReporter()


def _guarded(command: Callable[[], int], reporter: Reporter) -> int:
    """Run a command; whatever goes wrong becomes one sentence, and a trace only where a person must look."""
    handler, log = ReporterHandler(reporter), logging.getLogger("training")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        return command()
    except KeyboardInterrupt:
        reporter.error("stopped; the same command with --resume goes on from the last finished epoch")
        return 130
    except ModuleNotFoundError as exc:
        reporter.error(f"training needs the package {exc.name}: pip install 'neuroserve[train]'")
    except Exception as exc:
        if is_out_of_memory(exc):
            first = str(exc).strip().splitlines()[:1] or [type(exc).__name__]
            reporter.error(f"the training ran out of memory: {first[0]}; try a smaller batch size", "out_of_memory")
        elif _is_expected(exc):
            reporter.error(str(exc))
        else:
            traceback.print_exc()
            reporter.error(f"the training failed unexpectedly: {type(exc).__name__}: {exc}")
    finally:
        log.removeHandler(handler)
    return 1


def _is_expected(exc: Exception) -> bool:
    """Whether the message is a sentence for the user; asked late, as some of these classes come with torch."""
    if isinstance(exc, DataError | StoreError | TrackingError | OSError):
        return True
    if "torch" not in sys.modules:
        return False
    from training import checkpoint, export, fit, gate, pipeline, publish, recipes, registry

    return isinstance(
        exc,
        checkpoint.CheckpointMismatchError
        | export.ExportError
        | fit.FitDivergedError
        | gate.GateError
        | pipeline.EvaluationError
        | publish.CandidateError
        | recipes.SettingError
        | registry.UnknownTaskError,
    )


# ---------------------------------------------------------------------- commands


def _fit(args: argparse.Namespace, reporter: Reporter) -> int:
    from training import pipeline
    from training.publish import publish
    from training.recipes import make_spec
    from training.registry import get_task

    task = get_task(args.task)
    spec = make_spec(
        task, args.network, args.epochs, args.batch_size, args.learning_rate, seed=args.seed, promote=args.promote
    )
    model = task.recipe.networks[spec.network].model
    work = args.work or _state() / "work" / model
    with follow(reporter, spec, model, work, resume=args.resume, tensorboard=args.tensorboard) as told:
        store = Store(args.store)
        candidate = pipeline.train(task, spec, work, told, args.resume, store)
        if args.stage_only:
            return 0
        result = publish(candidate, store, spec.promote)
        told.done(result)
    if args.work is None:
        shutil.rmtree(work)
    return 0 if result.gate.passed else REFUSED


def _evaluate(args: argparse.Namespace, reporter: Reporter) -> int:
    from training.pipeline import score
    from training.registry import get_task

    store = Store(args.store)
    version = args.version or store.live(args.name)
    if version is None:
        raise StoreError(f"{store.root} has no live version of {args.name}; name one with --version")
    manifest = store.verify(args.name, version)
    task = get_task(manifest.task)
    splits = task.load(data_root(), manifest.provenance.seed)
    figures = score(task, store.folder(args.name, version) / manifest.model_file, splits.test)
    published = manifest.metrics.get("test", {})
    for name, value in figures.items():
        before = f" (published: {published[name]:.6f})" if name in published else ""
        reporter.log(f"{args.name} version {version}, test {name}: {value:.6f}{before}")
    return 0


def _drift(args: argparse.Namespace, reporter: Reporter) -> int:
    from training import drift
    from training.registry import get_task

    store = Store(args.store)
    for name in args.names:
        version = store.live(name)
        if version is None:
            raise StoreError(f"{store.root} has no live version of {name}")
        manifest = store.verify(name, version)
        task = get_task(manifest.task)
        splits = task.load(data_root(), manifest.provenance.seed)
        made = drift.additions(task, store.folder(name, version) / manifest.model_file, splits, manifest)
        if args.in_place:
            drift.complete(store, name, version, made)
            reporter.log(f"{name} version {version} has a reference of drift")
        else:
            number = drift.republish(store, name, version, made)
            reporter.log(f"{name} version {number} is version {version} with a reference of drift, and live")
    return 0


def _losses(args: argparse.Namespace, reporter: Reporter) -> int:
    from training import evaluate
    from training.registry import get_task

    store = Store(args.store)
    for name in args.names:
        version = store.live(name)
        if version is None:
            raise StoreError(f"{store.root} has no live version of {name}")
        manifest = store.verify(name, version)
        task = get_task(manifest.task)
        splits = task.load(data_root(), manifest.provenance.seed)
        made = evaluate.complete(task, store, name, version, splits)
        reporter.log(
            f"{name} version {version} has its {made.count} losses on the validation rows, mean {made.mean:.5f}"
        )
    return 0


def _data(args: argparse.Namespace, reporter: Reporter) -> int:
    from training.registry import get_task, task_names

    for name in [args.task] if args.task else task_names():
        splits = get_task(name).load(data_root(), 0)
        for source in splits.sources:
            reporter.log(f"{name}: {source.file} is whole (sha256 {source.sha256[:12]}…; licence: {source.licence})")
        reporter.log(
            f"{name}: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test rows"
        )
    return 0


def _recipes(args: argparse.Namespace, reporter: Reporter) -> int:
    from training.recipes import as_json, collect

    text = as_json(collect())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text, "utf-8")
    reporter.log(f"wrote {args.output}")
    return 0


def _store(args: argparse.Namespace, _: Reporter) -> int:
    return storekeeper.run(args, Store(args.store))


# ---------------------------------------------------------------------- arguments


def _state() -> Path:
    return Path(os.environ.get("NEUROSERVE_STATE") or "var")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train, measure and publish networks.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _fit_arguments(commands.add_parser("fit", help="train a network, export it, judge it and publish it"))
    compared = commands.add_parser("compare", help="load or train all networks and write one table of them")
    compare.add_arguments(compared, _state())
    evaluate = commands.add_parser("evaluate", help="score a version of the store on the test split again")
    evaluate.add_argument("name", help="the model, digit-cnn say")
    evaluate.add_argument("--version", type=int, help="default: the live one")
    data = commands.add_parser("data", help="find or download the data files and verify them")
    data.add_argument("task", nargs="?", help="one task only")
    drift = commands.add_parser("drift", help="publish live versions anew with what their training data were like")
    drift.add_argument("names", nargs="+", metavar="name", help="the model, digit-cnn say")
    drift.add_argument(
        "--in-place", action="store_true", help="complete the versions themselves: for a store that is not served from"
    )
    losses = commands.add_parser(
        "losses",
        help="write the losses on the validation rows, which the gate compares, into live versions themselves: for a "
        "store that is not served from",
    )
    losses.add_argument("names", nargs="+", metavar="name", help="the model, digit-cnn say")
    written = commands.add_parser("recipes", help="write the recipes of all tasks as data for the service")
    written.add_argument("--output", type=Path, default=_recipes_file(), help="default: models/zoo/recipes.json")
    keeper = commands.add_parser("store", help="list, verify, promote, rollback, prune")
    commands.add_parser("worker", help="take training jobs from the queue (worker --help says more)")
    _store_argument(compared)
    _store_argument(evaluate)
    _store_argument(drift)
    _store_argument(losses)
    for verb in storekeeper.add_arguments(keeper):
        _store_argument(verb)
    runs = (
        (compared, compare.run),
        (evaluate, _evaluate),
        (data, _data),
        (drift, _drift),
        (losses, _losses),
        (written, _recipes),
        (keeper, _store),
    )
    for command, run in runs:
        command.set_defaults(run=run)
    return parser


def _fit_arguments(fit: argparse.ArgumentParser) -> None:
    fit.set_defaults(run=_fit)
    fit.add_argument("task", help="digit, forecast or topic")
    fit.add_argument("--network", help="default: the task's first")
    fit.add_argument("--epochs", type=int, help="default: the recipe's, as for the next two")
    fit.add_argument("--batch-size", type=int, metavar="N")
    fit.add_argument("--learning-rate", type=float, metavar="F")
    fit.add_argument("--seed", type=int, default=0)
    _store_argument(fit)
    fit.add_argument(
        "--promote",
        choices=["if_better", "manual", "always"],
        default="if_better",
        help="make it live if the gate passes it (default), only publish it, or do not compare it with the reference "
        "and make it the reference",
    )
    fit.add_argument(
        "--work", type=Path, metavar="DIR", help="checkpoints; default: STATE/work/MODEL, removed at the end"
    )
    fit.add_argument("--resume", action="store_true", help="go on from the last finished epoch in the work folder")
    fit.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write event files for TensorBoard into DIR/MODEL-TIME"
    )
    fit.add_argument("--events", action="store_true", help="tell the progress as JSON events, one a line")
    fit.add_argument("--stage-only", action="store_true", help="stop at the finished candidate, WORK/candidate")


def _store_argument(parser: argparse.ArgumentParser) -> None:
    default = Path(os.environ.get("NEUROSERVE_TRAINING_STORE") or _state() / "models")
    parser.add_argument(
        "--store", type=Path, default=default, metavar="DIR", help="default: STATE/models (%(default)s)"
    )


def _recipes_file() -> Path:
    import models

    return Path(models.__file__).parent / "zoo" / "recipes.json"


if __name__ == "__main__":
    sys.exit(main())
