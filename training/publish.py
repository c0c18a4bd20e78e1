"""From a finished candidate folder to a version in the store: gate, publish, promote. Torch is not needed.

Safe to repeat: a job that was cut off anywhere in here ends the same when it is done again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.disk import reason
from models.jobs import JobGate, JobGateCheck, JobModel, JobResult, Promote
from models.manifest import GateVerdict, Manifest, file_entry
from models.store import LiveChangedError, Store, StoreWriteError
from training import gate, reference, trial
from training.reports.verdict import add

DRAFT_FILE = "draft.json"
REPORT = "report/index.html"
_UNPUBLISHED = shutil.ignore_patterns(DRAFT_FILE, reference.MEASURED_FILE)


class CandidateError(Exception):
    """The candidate folder is not what the training left."""


def read_draft(candidate: Path) -> Manifest:
    """The draft manifest in a candidate folder; CandidateError says what is wrong with it."""
    try:
        return Manifest.model_validate_json((candidate / DRAFT_FILE).read_bytes())
    except (OSError, ValidationError) as exc:
        raise CandidateError(f"{candidate} holds no finished candidate: {exc}") from exc


@dataclass(frozen=True)
class _Judgement:
    """A verdict, the live version and the versions that were live by then, and which of them is the reference.

    `best` is None where the candidate itself was measured to be better, or where nothing was measured.
    """

    verdict: GateVerdict
    live: int | None
    contenders: list[int]
    best: int | None
    candidate_is_best: bool


def publish(candidate: Path, store: Store, promote: Promote = "if_better", job_id: str | None = None) -> JobResult:
    """Judge the candidate and, if it passes, make it a version of the store; the live one unless `manual`.

    A version that the job has published before is taken up again, not published twice. A refusal is a result with
    `model` None; errors are CandidateError, gate.GateError and the store's.
    """
    draft = read_draft(candidate)
    published = None if job_id is None else store.published_by(draft.name, job_id)
    judgement = None
    if published is None:
        _check_files(candidate, draft)
        judgement = _judge(candidate, draft, store, promote)
        if not judgement.verdict.passed:
            return JobResult(model=None, metrics=draft.metrics, gate=_gate(judgement.verdict))
        published = _publish(candidate, store, draft, judgement.verdict, job_id)
    name, version = published.name, published.version
    told = _gate(published.gate)
    if promote != "manual" and version not in store.ever_live(name):
        judgement = judgement or _judge(candidate, draft, store, promote)
        told = _go_live(candidate, draft, store, version, told, promote, judgement)
    live = version in store.live_history_or_empty(name)[:1]
    return JobResult(model=JobModel(name=name, version=version, live=live), metrics=published.metrics, gate=told)


def _go_live(
    candidate: Path, draft: Manifest, store: Store, version: int, told: JobGate, promote: Promote, first: _Judgement
) -> JobGate:
    """Make the version live; where another has gone live since it was judged, only if it passes beside that one too."""
    judgement = first
    while judgement.verdict.passed:
        best = version if judgement.candidate_is_best else judgement.best
        try:
            store.promote_first(
                draft.name,
                version,
                judgement.live,
                among=judgement.contenders,
                best=best,
                reset=promote == "always",
            )
        except LiveChangedError:
            before, judgement = judgement, _judge(candidate, draft, store, promote)
            told = _told_again(told, before, judgement)
        else:
            return told
    if judgement is first:  # a job that was cut off after it had published
        told = _told_again(told, first, first)
    return told.model_copy(update={"reasons": [*told.reasons, "so it waits to be made live by hand"]})


def _told_again(told: JobGate, before: _Judgement, judgement: _Judgement) -> JobGate:
    verdict, changed = judgement.verdict, "the versions that may be the reference have changed meanwhile; beside them:"
    if judgement.live != before.live:
        changed = f"version {judgement.live} has gone live meanwhile; beside it:"
    again = [changed, *verdict.reasons]
    checks = [JobGateCheck.model_validate(check.model_dump()) for check in verdict.checks]
    if not verdict.passed:
        detail = f"{changed.partition(';')[0]}, so this version waits to be made live by hand"
        checks.insert(0, JobGateCheck(name="live_meanwhile", passed=False, detail=detail))
    return told.model_copy(update={"reasons": [*told.reasons, *again], "checks": checks, "figures": verdict.figures})


def _check_files(folder: Path, draft: Manifest) -> None:
    for relative, expected in draft.files.items():
        if not (folder / relative).is_file() or file_entry(folder / relative) != expected:
            raise CandidateError(f"{relative} in {folder} is not the file that was measured")


def _judge(candidate: Path, draft: Manifest, store: Store, promote: Promote) -> _Judgement:
    number, contenders = store.live(draft.name), store.contenders(draft.name)
    live = None if number is None else store.manifest(draft.name, number)
    beside = None if live is None else (store.folder(draft.name, live.version), live)
    try:
        tried = trial.run(candidate, draft, beside)
    except trial.TrialError as exc:
        raise CandidateError(str(exc)) from exc
    found = reference.compare(candidate, draft, store)
    known = store.reference(draft.name) if found is None else None
    verdict = gate.judge(
        draft, live, tried, promote, found, None if known is None else store.manifest(draft.name, known)
    )
    better = found is not None and found.difference is not None and found.difference < 0
    return _Judgement(verdict, number, contenders, None if found is None else found.version, better)


def _publish(candidate: Path, store: Store, draft: Manifest, verdict: GateVerdict, job_id: str | None) -> Manifest:
    """Copy the candidate into the store's staging (it may be another file system), check the copy, publish it."""
    staged = store.stage()
    try:
        shutil.copytree(candidate, staged, dirs_exist_ok=True, ignore=_UNPUBLISHED)
        _check_files(staged, draft)
        page = staged / REPORT
        if page.is_file():
            page.write_text(add(page.read_text("utf-8"), verdict), "utf-8", newline="\n")
        return store.publish(staged, draft.model_copy(update={"gate": verdict}), once=job_id)
    except OSError as exc:
        raise StoreWriteError(f"{draft.name}: {candidate} was not copied to {store.root}: {reason(exc)}") from exc
    finally:
        store.discard(staged)


def _gate(verdict: GateVerdict | None) -> JobGate:
    if verdict is None:
        return JobGate(passed=True, reasons=[])
    return JobGate.model_validate(verdict.model_dump())
