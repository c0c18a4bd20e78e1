"""Who hears how a training goes: a person at a terminal or in a log, or a worker that reads JSON events.

Both are told the same things by the pipeline; neither imports torch.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, Protocol, TextIO

from models.jobs import (
    DoneEvent,
    EpochEvent,
    EpochRow,
    ErrorCode,
    ErrorEvent,
    JobEvent,
    JobResult,
    JobStatus,
    LogEvent,
    Progress,
    ProgressEvent,
    Stage,
    StageEvent,
)
from models.manifest import now

_PROGRESS_EVERY_S = 0.5
_LINE_EVERY_S = 30.0


class Reporter(Protocol):
    """What the pipeline tells."""

    def stage(self, stage: Stage, path: str | None = None) -> None:
        """A stage has finished."""

    def step(self, progress: Progress) -> None:
        """A training step is done."""

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        """An epoch is done and safe on disk."""

    def log(self, message: str) -> None:
        """Something worth knowing."""

    def error(self, message: str, code: ErrorCode | None = None) -> None:
        """The run gives up, and why; the code is for programs."""

    def done(self, result: JobResult) -> None:
        """The run has ended with a version, or with the gate's refusal."""


class EventReporter:
    """One JSON event a line on what was standard output, which is kept from everyone else's prints."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
        os.dup2(2, 1)
        self._next_progress = 0.0

    def stage(self, stage: Stage, path: str | None = None) -> None:
        self._emit(StageEvent(at=now(), stage=stage, path=path))

    def step(self, progress: Progress) -> None:
        if time.monotonic() >= self._next_progress or progress.step == progress.steps:
            self._next_progress = time.monotonic() + _PROGRESS_EVERY_S
            self._emit(ProgressEvent(at=now(), progress=progress))

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self._emit(EpochEvent(at=now(), row=row, stopped_early=stopped_early))

    def log(self, message: str) -> None:
        self._emit(LogEvent(at=now(), message=message))

    def error(self, message: str, code: ErrorCode | None = None) -> None:
        self._emit(ErrorEvent(at=now(), message=message, code=code))

    def done(self, result: JobResult) -> None:
        status = JobStatus.SUCCEEDED if result.gate.passed else JobStatus.REJECTED
        self._emit(DoneEvent(at=now(), status=status, result=result))

    def _emit(self, event: JobEvent) -> None:
        try:
            self._out.write(event.model_dump_json() + "\n")
            self._out.flush()
        except BrokenPipeError:
            os._exit(1)  # the listener is gone; the last epoch is on disk


class ConsoleReporter:
    """Bars with the time left on a terminal; otherwise a line for each epoch, and one in 30 s within a long one."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._epochs, self._next_line = 0, time.monotonic() + _LINE_EVERY_S

    def stage(self, stage: Stage, path: str | None = None) -> None:
        self._say(f"{stage} done" + (f": {path}" if path else ""))

    def step(self, progress: Progress) -> None:
        self._epochs = progress.epochs
        left = "" if progress.eta_s is None else f", {_clock(progress.eta_s)} left in all"
        if sys.stderr.isatty():
            self._draw(progress, left)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            self._say(f"epoch {progress.epoch}/{progress.epochs}: step {progress.step}/{progress.steps}{left}")

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self._close()
        self._next_line = time.monotonic() + _LINE_EVERY_S
        of = f"/{self._epochs}" if self._epochs else ""
        self._say(
            f"epoch {row.epoch}{of}: train loss {row.train_loss:.4f}, validation loss {row.val_loss:.4f}, "
            f"validation metric {row.val_metric:.4f}, {row.seconds:.1f} s"
        )
        if stopped_early:
            self._say("stopped early: the validation split has not improved for a while")

    def log(self, message: str) -> None:
        self._say(message)

    def error(self, message: str, code: ErrorCode | None = None) -> None:  # noqa: ARG002 (programs do not read this)
        self._close()
        print(f"error: {message}", file=sys.stderr, flush=True)  # noqa: T201 (a terminal program)

    def done(self, result: JobResult) -> None:
        for check in result.gate.checks:
            self._say(f"gate: {'passed' if check.passed else 'FAILED'}: {check.detail}")
        for reason in [] if result.gate.checks else result.gate.reasons:
            self._say(f"gate: {reason}")
        for split, figures in result.metrics.items():
            self._say(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        if result.model is None:
            self._say("refused by the gate: nothing was published")
            return
        live = "live" if result.model.live else "published, not live"
        self._say(f"{result.model.name} version {result.model.version} is {live}")

    def _draw(self, progress: Progress, left: str) -> None:
        words = f"epoch {progress.epoch}/{progress.epochs}{left}"
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped] # comes with torch's extra

            self._bar = tqdm(total=progress.steps, desc=words, unit="step", leave=False, dynamic_ncols=True)
        self._bar.set_description(words, refresh=False)
        self._bar.update(progress.step - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        print(line, flush=True)  # noqa: T201 (a terminal program)


class ReporterHandler(logging.Handler):
    """Hands what the package logs (downloads, say) to a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.log(record.getMessage())


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
