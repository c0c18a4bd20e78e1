"""The tie of a process to the one that started it, for every process that must not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def signal_when_parent_dies(parent: int, number: signal.Signals) -> None:
    """Have this process sent a signal when `parent`, the id of the process that started it, is gone.

    At once if it is gone already. Only Linux tells of a later death. The parent may well be process 1: in a container.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
