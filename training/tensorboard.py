"""TensorBoard's event files of a training: figures of each epoch, and those of the finished candidate.

A resumed run goes on in its folder; what is told again replaces what the files hold of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.jobs import EpochRow, JobResult
from models.manifest import Manifest, now
from training.tracking import Say, TrackingError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

RECORD = "tensorboard.txt"


class EventFiles:
    """Event files in ROOT/MODEL-TIME; TrackingError when the folder cannot be made, later failures are said once."""

    def __init__(self, root: Path, model: str, work: Path, say: Say, *, resume: bool) -> None:
        self._say = say
        self._writer: SummaryWriter | None = None
        self._broken = False
        try:
            self.folder = root / _name(work / RECORD, model, resume)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise TrackingError(f"--tensorboard {root}: the folder cannot be written: {exc.strerror}") from exc

    def epoch(self, row: EpochRow) -> None:
        self._write(
            {
                "loss/train": row.train_loss,
                "loss/validation": row.val_loss,
                "metric/validation": row.val_metric,
                "seconds/epoch": row.seconds,
            },
            row.epoch,
        )

    def candidate(self, folder: Path, draft: Manifest) -> None:  # noqa: ARG002 (the files hold figures only)
        if self._writer is None:  # resumed after the last epoch
            for row in draft.provenance.history:
                self.epoch(EpochRow.model_validate(row))
        for split, figures in draft.metrics.items():
            named = {f"candidate_{split}/{name}": value for name, value in figures.items()}
            self._write(named, draft.provenance.epochs_run)

    def done(self, result: JobResult) -> None:
        """The gate's verdict is no figure."""

    def failed(self, message: str) -> None:
        """The files hold figures only."""

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, figures: dict[str, float], step: int) -> None:
        if self._broken:
            return
        try:
            if self._writer is None:
                self._writer = _writer(self.folder)
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as exc:
            self._broken = True
            self._say(f"no more event files for TensorBoard in {self.folder}, the training goes on: {exc}")


def _writer(folder: Path) -> SummaryWriter:
    """All events from step 1 on that an earlier process has left count no more: this one tells them again."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own business with its dependencies
        from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(folder), purge_step=1)


def _name(record: Path, model: str, resume: bool) -> str:
    """The run's folder below ROOT; that of the run which is resumed."""
    if resume and record.is_file():
        return record.read_text("utf-8").strip()
    name = f"{model}-{now():%Y%m%d-%H%M%S-%f}"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(name, "utf-8")
    return name
