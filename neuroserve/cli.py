"""The `neuroserve` command: a client's verbs here, the service's own (`serve`, `key`) in the service.

Exit codes: 0 done; 1 the service refused or failed; 2 wrong arguments or files; 3 no service answers; 4 the training
ended without a published version; 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from neuroserve import terminal
from neuroserve.answers import Gate
from neuroserve.client import Client, ClientError, Digit, Forecast, Job, Topic, Unreachable, UsageError
from neuroserve.readings import read_readings

MAX_STEPS = 4096
"""The longest series that a service takes by default."""
_SERVICE = {
    "serve": "serve the models of the store; settings come from NEUROSERVE_… variables",
    "key": "make a new API key: prints the secret once, and the line to keep",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _SERVICE:
        from service.cli import main as of_service

        return of_service(arguments)
    given = _parser().parse_args(arguments)
    try:
        with Client(given.url, timeout_s=given.timeout) as client:
            code: int = given.run(client, given)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ClientError, OSError) as exc:
        sys.stderr.write(f"neuroserve: {_sentence(exc)}\n")
        return 2 if isinstance(exc, UsageError | OSError) else 3 if isinstance(exc, Unreachable) else 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuroserve", description="Train a network, prove it, serve it.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, told in _SERVICE.items():
        verbs.add_parser(name, help=told)
    predict = verbs.add_parser("predict", help="ask a model").add_subparsers(dest="kind", required=True)
    asked = _verb(predict, "digit", _digit, "the digit on each picture")
    asked.add_argument("pictures", nargs="+", metavar="PICTURE", help="a picture file")
    asked = _verb(predict, "text", _text, "the topic of each text")
    asked.add_argument("texts", nargs="+", metavar="TEXT", help="a text; - reads one from standard input")
    asked = _verb(predict, "forecast", _forecast, "what follows hourly readings")
    asked.add_argument("readings", type=Path, metavar="CSV", help="a column date and HUFL HULL MUFL MULL LUFL LULL OT")
    asked.add_argument(
        "--accept-implausible", action="store_true", help="take values far outside the training range as they are"
    )
    for verb in predict.choices.values():
        verb.add_argument("--model", help="default: the task's default model")
        verb.add_argument("--version", type=int, help="default: the live version")
    _train_options(_verb(verbs, "train", _train, "queue a training"))
    _verb(verbs, "models", _models, "what is in the store, and what is live")
    changed = _verb(verbs, "promote", _promote, "make a version live")
    changed.add_argument("model")
    changed.add_argument("version", type=int)
    _verb(verbs, "rollback", _rollback, "make the version before live again").add_argument("model")
    return parser


def _verb(verbs: Any, name: str, run: Any, told: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=told, epilog="The API key is taken from NEUROSERVE_API_KEY: others can see a command's arguments."
    )
    verb.set_defaults(run=run)
    verb.add_argument("--url", help="default: NEUROSERVE_URL, else http://127.0.0.1:8000")
    verb.add_argument("--json", action="store_true", help="the answer as one line of JSON")
    verb.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="of one try; default: 30")
    return verb


def _train_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("task", help="digit, forecast, topic or one of your own")
    for name, kind in (("network", str), ("epochs", int), ("batch-size", int), ("learning-rate", float), ("seed", int)):
        verb.add_argument(f"--{name}", type=kind, help="default: the recipe's" if kind is not str else None)
    verb.add_argument("--promote", choices=("if_better", "manual", "always"), help="default: if_better")
    verb.add_argument("--watch", action="store_true", help="follow it to its end")


# ---------------------------------------------------------------------- the verbs


def _digit(client: Client, given: argparse.Namespace) -> int:
    chosen = {"model": given.model, "version": given.version}
    if len(given.pictures) == 1 and not given.json and sys.stdout.isatty():
        answer = client.predict_digit(given.pictures[0], explain=True, **chosen)
        _tell(terminal.digit(answer))
        return _warn(answer)
    found = client.predict_digits(given.pictures, **chosen)
    if given.json:
        return _dump(found if len(found) > 1 else found[0])
    pairs = zip(given.pictures, found, strict=True)
    _tell([f"{path}\t{each.digit}\t{each.confidence:.4f}" for path, each in pairs])
    return _warn(*found, names=given.pictures)


def _text(client: Client, given: argparse.Namespace) -> int:
    texts = [sys.stdin.read() if text == "-" else text for text in given.texts]
    found = client.predict_texts(texts, model=given.model, version=given.version)
    if given.json:
        return _dump(found if len(found) > 1 else found[0])
    if sys.stdout.isatty():
        for each in found:
            _tell(terminal.topic(each))
    else:
        _tell([f"{each.label}\t{each.confidence:.4f}" for each in found])
    return _warn(*found, names=[f"text {number}" for number in range(1, len(found) + 1)])


def _forecast(client: Client, given: argparse.Namespace) -> int:
    start, values = read_readings(given.readings)
    left_out = max(0, len(values) - MAX_STEPS)
    if left_out:
        sys.stderr.write(f"neuroserve: the last {MAX_STEPS} of {len(values)} rows are sent\n")
    first = start + timedelta(hours=left_out)
    found = client.forecast(
        values[left_out:],
        first,
        model=given.model,
        version=given.version,
        accept_implausible=given.accept_implausible,
    )
    if given.json:
        return _dump(found)
    if sys.stdout.isatty():
        _tell(terminal.forecast(found))
    else:
        rows = zip(found.times, found.mean, found.lower, found.upper, strict=True)
        _tell(["time,mean,lower,upper", *(f"{time.isoformat()},{m:g},{lo:g},{up:g}" for time, m, lo, up in rows)])
    return _warn(found)


def _train(client: Client, given: argparse.Namespace) -> int:
    names = ("network", "epochs", "batch_size", "learning_rate", "seed", "promote")
    training = client.train(given.task, **{name: getattr(given, name) for name in names})
    if not given.watch:
        for each in training.job.warnings:
            sys.stderr.write(f"neuroserve: {each.detail}\n")
        return _dump(training.job) if given.json else _tell([f"{training.id}\t{training.job.status}"])
    sys.stderr.write(f"neuroserve: job {training.id}; Ctrl-C stops watching, not the training\n")
    job = training.watch()
    if given.json:
        _dump(job)
    else:
        _tell(_outcome(job))
    return 0 if job.succeeded else 4


def _models(client: Client, given: argparse.Namespace) -> int:
    found = client.models()
    return _dump(found) if given.json else _tell(terminal.models(found))


def _promote(client: Client, given: argparse.Namespace) -> int:
    found = client.promote(given.model, given.version)
    return _dump(found) if given.json else _tell([f"{found.name} version {found.live} is live"])


def _rollback(client: Client, given: argparse.Namespace) -> int:
    found = client.rollback(given.model)
    return _dump(found) if given.json else _tell([f"{found.name} version {found.live} is live"])


def _outcome(job: Job) -> list[str]:
    lines = [f"{job.status}: {job.error}" if job.error else job.status]
    if job.result is not None and job.result.model is not None:
        made = job.result.model
        lines = [f"{job.status}: {made.name} version {made.version}, {'live' if made.live else 'not live'}"]
    return lines + (_checks(job.result.gate) if job.result is not None else [])


def _checks(gate: Gate) -> list[str]:
    """A line for each check; a service of an earlier release gives sentences only."""
    if not gate.checks:
        return ["- " + reason for reason in gate.reasons]
    return [f"- {'passed' if check.passed else 'FAILED'}: {check.detail}" for check in gate.checks]


def _tell(lines: Sequence[str]) -> int:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()  # a reader that is gone is noticed here, where it is expected
    return 0


def _warn(*answers: Digit | Topic | Forecast, names: Sequence[str] = ("",)) -> int:
    """The warnings of answers, on stderr: what reads the answers finds nothing else among them."""
    for name, answer in zip(names, answers, strict=True):
        where = f"{name}: " if len(answers) > 1 else ""
        for each in answer.warnings:
            sys.stderr.write(f"neuroserve: {where}warning {each.code}: {each.detail}\n")
    return 0


def _dump(found: Any) -> int:
    data = [dataclasses.asdict(each) for each in found] if isinstance(found, list) else dataclasses.asdict(found)
    return _tell([json.dumps(data, ensure_ascii=False, default=lambda value: value.isoformat())])


def _sentence(exc: ClientError | OSError) -> str:
    if isinstance(exc, OSError):
        return f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
    return str(exc)
