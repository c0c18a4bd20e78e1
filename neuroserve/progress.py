"""A training as one sees it go: a bar of tqdm on a terminal, else a line for each epoch."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from neuroserve.events import Event


class ProgressBar:
    """Give it every event of a job; it writes to `stream` (default: stderr)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Any = None
        self._tqdm = _tqdm() if self._stream.isatty() else None

    def show(self, event: Event) -> None:
        """What this event changes."""
        data = event.data
        if event.type == "progress":
            self._advance(data["progress"])
        elif event.type == "epoch":
            self._say(_row(data["row"], data.get("stopped_early", False)))
        elif event.type == "log":
            self._say(str(data["message"]))
        elif event.type == "warnings":
            for each in data["warnings"]:
                self._say(str(each["detail"]))
        elif event.type in {"status", "done"}:
            self._say(str(data["status"]) + (f": {data['error']}" if data.get("error") else ""))

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _advance(self, progress: dict[str, Any]) -> None:
        if self._tqdm is None:
            return
        total = progress["epochs"] * progress["steps"]
        if self._bar is None:
            self._bar = self._tqdm(total=total, unit="step", file=self._stream, dynamic_ncols=True)
        self._bar.total = total
        self._bar.set_description(f"epoch {progress['epoch']} of {progress['epochs']}", refresh=False)
        self._bar.update((progress["epoch"] - 1) * progress["steps"] + progress["step"] - self._bar.n)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)


def _row(row: dict[str, Any], stopped_early: bool) -> str:
    text = (
        f"epoch {row['epoch']}: train loss {row['train_loss']:.4f}, validation loss {row['val_loss']:.4f}, "
        f"metric {row['val_metric']:.4f}, {row['seconds']:.1f} s"
    )
    return f"{text}; stopped early" if stopped_early else text


def _tqdm() -> Any:
    """The bar of tqdm, or None where it is not installed."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return None
    return tqdm
