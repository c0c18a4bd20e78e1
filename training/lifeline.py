"""The tie of a training child to the process that started it: when that is gone, nobody listens and the child ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent: int, every_s: float = 1.0) -> None:
    """End this process soon after `parent`, the id of the process that started it, is gone.

    Linux tells by a signal. A thread looks every `every_s` seconds as well: for other systems, and for a parent that
    went before the signal was asked for.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os._exit(1)

    threading.Thread(target=look, name="parent-watch", daemon=True).start()
