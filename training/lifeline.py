"""The tie of a training child to the process that started it: when that is gone, nobody listens and the child ends."""

from __future__ import annotations

import os
import signal
import threading
import time

from models.lifeline import signal_when_parent_dies


def die_with_parent(parent: int, every_s: float = 1.0) -> None:
    """End this process soon after `parent`, the id of the process that started it, is gone.

    Linux tells by a signal. A thread looks every `every_s` seconds as well: for other systems, and for a parent that
    went before the signal was asked for.
    """
    signal_when_parent_dies(parent, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(every_s)
        os._exit(1)

    threading.Thread(target=look, name="parent-watch", daemon=True).start()
