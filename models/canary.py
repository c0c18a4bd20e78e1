"""A canary: the order to try a version beside the live one, its rule and its end, as files that every process follows.

    ROOT/NAME/canary/state.json   the running order or none, and how the one before it ended
    ROOT/NAME/canary/tally-N-…    what one serving process counted for order N (the service's own format)
    ROOT/NAME/canary/lock         held while the state is changed: two processes never both start or end a canary

Readers take no lock: the state is replaced by one rename.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models import disk
from models.manifest import Kind, now

FOLDER = "canary"
_STATE, _LOCK = "state.json", "lock"
_LOCK_WAIT_S = 5.0
_ROUNDING = 1e-9

Mode = Literal["split", "shadow"]
End = Literal["promoted", "aborted", "ended", "superseded"]


class CanaryError(Exception):
    """The canary's state cannot be read or written; the message says why."""


class CanaryUnreadableError(CanaryError):
    """The system refused to read the state; the next try may succeed."""


class CanaryRunsError(CanaryError):
    """The model has a canary already."""


class _Record(BaseModel):
    """Frozen; what a later release adds is let pass, for replicas of two releases may share a store."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Verdict(_Record):
    """What a rule says of the rows so far."""

    state: Literal["waiting", "passed", "failed"]
    reason: str


class CanaryRule(_Record):
    """When a canary ends by itself.

    It fails as soon as it can no longer pass: when more rows failed or disagreed than `min_rows` (or, later, all rows)
    may have. `min_agreement` needs the mode `shadow`: only there both versions answer the same rows.
    """

    min_rows: Annotated[int, Field(ge=1)]
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    max_error_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    on_pass: Literal["promote", "hold"] = "promote"  # noqa: S105 (no password)

    def judge(self, *, rows: int, failed: int, compared: int, agreement: float | None) -> Verdict:
        """The verdict on `rows` of the candidate, `failed` ones among them.

        `agreement` is that of the `compared` rows, None where there are none.
        """
        of = max(rows, self.min_rows)
        if failed > self.max_error_rate * of + _ROUNDING:
            most = f"at most {self.max_error_rate:.2%} of {of} may"
            return Verdict(state="failed", reason=f"{failed} of {rows} rows failed, {most}")
        if self.min_agreement is not None and agreement is not None:
            of = compared if rows >= self.min_rows else max(compared, self.min_rows)
            if (1 - agreement) * compared > (1 - self.min_agreement) * of + _ROUNDING:
                share = f"{agreement:.2%} of {compared} compared rows agree"
                return Verdict(state="failed", reason=f"{share}, at least {self.min_agreement:.2%} of {of} must")
        if rows < self.min_rows:
            return Verdict(state="waiting", reason=f"{rows} of {self.min_rows} rows")
        if self.min_agreement is not None and agreement is None:
            return Verdict(state="waiting", reason="no row was compared yet")
        agreed = "" if agreement is None else f", {agreement:.2%} of {compared} agree"
        return Verdict(state="passed", reason=f"{rows} rows, {failed} failed{agreed}")


class CanaryOrder(_Record):
    """Try `version` beside `against`, which was live then, on `percent` of the requests that name no version."""

    number: Annotated[int, Field(ge=1)]
    version: Annotated[int, Field(ge=1)]
    against: Annotated[int, Field(ge=1)]
    percent: Annotated[float, Field(gt=0, le=100)]
    mode: Mode
    kind: Kind
    rule: CanaryRule | None = None
    started_at: datetime


class CanaryOutcome(_Record):
    """How an order ended, why, and what had been counted by then."""

    order: CanaryOrder
    outcome: End
    reason: str
    ended_at: datetime
    figures: dict[str, Any] = {}


class CanaryState(_Record):
    """The running order or None, and the last one that ended."""

    number: int = 0
    running: CanaryOrder | None = None
    last: CanaryOutcome | None = None


def state_of(model: Path) -> CanaryState:
    """The state in a model's folder; CanaryError when the file cannot be read."""
    path = model / FOLDER / _STATE
    try:
        return CanaryState.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return CanaryState()
    except OSError as exc:
        raise CanaryUnreadableError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except ValidationError as exc:
        raise CanaryError(f"{path} is no canary state; remove it to end the canary") from exc


def candidate_of(model: Path, live: int | None) -> int | None:
    """The version that a running canary tries beside `live`, which must stay in the store.

    None also when the file is no canary state; CanaryUnreadableError when the system does not let it be read.
    """
    try:
        running = state_of(model).running
    except CanaryUnreadableError:
        raise
    except CanaryError:
        return None
    return running.version if running is not None and running.against == live else None


class CanaryBoard:
    """The canaries of the store at `root`. Every call may block on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def state(self, name: str) -> CanaryState:
        """What runs and what ran last; CanaryError when that cannot be told."""
        return state_of(self.root / name)

    def stamp(self, name: str) -> tuple[int, int] | None:
        """What changes with every order and every end; cheap."""
        try:
            stat = os.stat(f"{self.root}/{name}/{FOLDER}/{_STATE}")  # noqa: PTH116 (a Path costs more than the call)
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino

    def start(self, name: str, *, check: Callable[[], None], **fields: Any) -> CanaryOrder:
        """Write an order for every process to follow, if `check` raises nothing while nobody else can change it.

        Raises CanaryRunsError when there is one, CanaryError when it cannot be written.
        """
        with self._changing(name) as state:
            if state.running is not None:
                raise CanaryRunsError(f"version {state.running.version} of {name} is in a canary already")
            check()
            order = CanaryOrder(number=state.number + 1, started_at=now(), **fields)
            self._write(name, CanaryState(number=order.number, running=order, last=state.last))
            for path in (self.root / name / FOLDER).glob("tally-*"):
                if not path.name.startswith(f"tally-{order.number}-"):
                    path.unlink(missing_ok=True)
            return order

    def end(
        self, name: str, number: int, outcome: End, reason: str, *, first: Callable[[], dict[str, Any]]
    ) -> CanaryOutcome | None:
        """End that order, once: None when it has ended already.

        `first` gives the figures; what it raises leaves the canary running.
        """
        with self._changing(name) as state:
            if state.running is None or state.running.number != number:
                return None
            figures = first()
            ended = CanaryOutcome(order=state.running, outcome=outcome, reason=reason, ended_at=now(), figures=figures)
            self._write(name, CanaryState(number=number, running=None, last=ended))
            return ended

    def tallies(self, name: str, number: int) -> list[Path]:
        """What the processes counted for an order."""
        return sorted((self.root / name / FOLDER).glob(f"tally-{number}-*"))

    def tally(self, name: str, number: int, process: str) -> Path:
        """Where one process counts for an order."""
        return self.root / name / FOLDER / f"tally-{number}-{process}"

    # ------------------------------------------------------------------ inside

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[CanaryState]:
        folder = self.root / name / FOLDER
        try:
            disk.make_folder(folder)
            with disk.locked(folder / _LOCK, _LOCK_WAIT_S):
                yield self.state(name)
        except disk.LockedError as exc:
            raise CanaryError(f"another process holds the canary of {name} for over {_LOCK_WAIT_S:g} s") from exc
        except OSError as exc:
            raise CanaryError(f"the canary of {name} cannot be written: {disk.reason(exc)}") from exc

    def _write(self, name: str, state: CanaryState) -> None:
        disk.write(self.root / name / FOLDER / _STATE, state.model_dump_json(indent=1) + "\n")
