"""The one fake of the suite: an engine whose runs a test can hold, count and break."""

import threading

import numpy as np


class FakeEngine:
    """Doubles `x` [rows, …]; holds each run while `gate` is clear and raises what `fault` holds."""

    provider = "CPUExecutionProvider"

    def __init__(self, version: int = 1, lengths: tuple[int, ...] = ()) -> None:
        self.version = version
        self.lengths = lengths
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.fault: Exception | None = None
        self.batches: list[int] = []
        self.closed = False
        self.is_quick = False
        self.sound = True
        self.bad_row: float | None = None

    def padded_rows(self, rows):
        return rows

    def quick(self, rows, length):
        return self.is_quick

    def bucket_length(self, length: int) -> int:
        return next((bucket for bucket in self.lengths if bucket >= length), length)

    def run(self, parts, rows, length):
        assert not self.closed
        self.started.set()
        assert self.gate.wait(5)
        self.batches.append(rows)
        if self.fault is not None:
            raise self.fault
        rows = np.concatenate([part["x"] for part in parts])
        if self.bad_row is not None and (rows == self.bad_row).any():
            raise ValueError("a bad row")
        return [rows * 2]

    def is_sound(self):
        return self.sound

    def close(self) -> None:
        self.closed = True
