"""Where a training is written down besides: an MLflow server when `MLFLOW_TRACKING_URI` is set, TensorBoard by a flag.

Both only listen. What is asked for and cannot be had is refused before the training begins; what fails later is told
in a sentence, and the training goes on. Torch is not needed for MLflow.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from models.jobs import EpochRow, ErrorCode, JobResult, JobSpec, Progress, Stage
from models.manifest import Manifest
from training.publish import read_draft
from training.reporters import Reporter

Say = Callable[[str], None]


class TrackingError(Exception):
    """What is asked for cannot be written: a package is missing, or the folder cannot be made."""


class Tracker(Protocol):
    """Who writes a training down. None of these raises: what goes wrong is said."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch is done; after a resume told again for the epochs before it."""

    def candidate(self, folder: Path, draft: Manifest) -> None:
        """The candidate is finished; told again when a run is resumed after that."""

    def done(self, result: JobResult) -> None:
        """The gate has judged, and the version is published or refused."""

    def failed(self, message: str) -> None:
        """The training has given up, or was stopped; it may be resumed."""

    def close(self) -> None:
        """Nothing more will be told by this process."""


def address() -> str | None:
    """The MLflow server that is asked for, if any."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def require(tensorboard: Path | None) -> None:
    """TrackingError unless what is asked for is installed."""
    if address() is not None and importlib.util.find_spec("mlflow") is None:
        raise TrackingError(
            "MLFLOW_TRACKING_URI is set, and the package mlflow is missing: pip install 'neuroserve[mlflow]'"
            " or unset the variable"
        )
    if tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
        raise TrackingError(
            "--tensorboard is given, and the package tensorboard is missing: pip install 'neuroserve[tensorboard]'"
        )


class Tracked:
    """A reporter that tells another one everything, and the trackers what they write down."""

    def __init__(self, reporter: Reporter, trackers: list[Tracker]) -> None:
        self._reporter, self._trackers = reporter, trackers

    def stage(self, stage: Stage, path: str | None = None) -> None:
        if stage == "candidate" and path is not None and self._trackers:
            draft = read_draft(Path(path))
            for tracker in self._trackers:
                tracker.candidate(Path(path), draft)
        self._reporter.stage(stage, path)  # last: who hears of a candidate may end this process

    def step(self, progress: Progress) -> None:
        self._reporter.step(progress)

    def epoch(self, row: EpochRow, stopped_early: bool) -> None:
        self._reporter.epoch(row, stopped_early)
        for tracker in self._trackers:
            tracker.epoch(row)

    def log(self, message: str) -> None:
        self._reporter.log(message)

    def error(self, message: str, code: ErrorCode | None = None) -> None:
        self._reporter.error(message, code)

    def done(self, result: JobResult) -> None:
        for tracker in self._trackers:
            tracker.done(result)
        self._reporter.done(result)


@contextlib.contextmanager
def follow(
    reporter: Reporter, spec: JobSpec, model: str, work: Path, *, resume: bool, tensorboard: Path | None
) -> Iterator[Reporter]:
    """The reporter to train with; what leaves the block as an exception is written down as the end of the run.

    Raises TrackingError when something that is asked for cannot be had.
    """
    require(tensorboard)
    trackers: list[Tracker] = []
    if address() is not None:
        from training.mlflow_run import MlflowRun

        trackers.append(MlflowRun(spec, work, reporter.log, resume=resume))
    if tensorboard is not None:
        from training.tensorboard import EventFiles

        trackers.append(EventFiles(tensorboard, model, work, reporter.log, resume=resume))
    try:
        yield Tracked(reporter, trackers)
    except BaseException as exc:
        for tracker in trackers:
            tracker.failed(str(exc) or type(exc).__name__)
        raise
    finally:
        for tracker in trackers:
            tracker.close()


def conclude(spec: JobSpec, work: Path, job_id: str, result: JobResult | None, error: str | None) -> list[str]:
    """Write a job's end into the MLflow run that its child has begun in `work`; what went wrong, in sentences.

    `result` None with an error: the job has failed; without one: it was cancelled. Does nothing where no server is
    asked for.
    """
    if address() is None or not work.is_dir():
        return []
    from training.mlflow_run import MlflowRun
    from training.turn import last_turn

    told: list[str] = []
    run = MlflowRun(spec, last_turn(work)[1], told.append, resume=True)
    run.conclude(job_id, result, error)
    return told
