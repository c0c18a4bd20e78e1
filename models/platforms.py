"""Where neuroserve runs. Imported before anything that would fail elsewhere, so it needs nothing but the language."""

from __future__ import annotations

import platform
import sys

_RUNS_ON = "neuroserve runs on 64-bit Linux and on Macs with Apple silicon"
_ELSEWHERE = "its client, neuroserve.client, runs everywhere"


def refusal() -> str | None:
    """Why the service and the training cannot run on this machine, in a sentence; None where they can."""
    if sys.platform in {"win32", "cygwin", "msys"}:
        return f"{_RUNS_ON}, not on Windows: use WSL 2 or a container; {_ELSEWHERE}."
    if sys.maxsize <= 2**32:
        return f"{_RUNS_ON}, and this Python is a 32-bit one: install a 64-bit Python; {_ELSEWHERE}."
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return (
            f"{_RUNS_ON}, and this Python is one for Intel Macs, for which there is no ONNX Runtime: use an arm64 "
            f"Python on Apple silicon, a container or another machine; {_ELSEWHERE}."
        )
    return None
