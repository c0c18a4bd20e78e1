"""How numbers are written."""

from __future__ import annotations


def percent(value: float, digits: int = 1) -> str:
    """A share in per cent; the sign stays with its number at the end of a line."""
    return f"{value * 100:.{digits}f}\u00a0%"


def round_percent(value: float) -> str:
    """A round share without idle zeros."""
    return f"{round(value * 100, 4):g}\u00a0%"


def size(count: int) -> str:
    """Bytes as a reader likes them."""
    return f"{count / 1e6:.2f}\u00a0MB" if count >= 1_000_000 else f"{count / 1e3:.0f}\u00a0kB"
