"""The loader's thread: low priority for its own work, normal for the threads that a session keeps."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from service import engine
from service.device import choose
from service.loader import Loader
from tests.server import SHIPPED, shipped


def priorities():
    """The nice of each thread of this process, by its number."""
    return {
        int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path("/proc/self/task").iterdir()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nice per thread")
def test_a_session_loaded_politely_answers_at_normal_priority():
    """The loader works at nice 10; the threads of the session it builds, which answer requests later, do not."""
    version = shipped("digit-cnn")
    device = choose("cpu", 3)

    async def load():
        loader = Loader()
        loader.be_polite()
        nice = await loader.run(lambda: os.getpriority(os.PRIO_PROCESS, 0))
        before = priorities()
        loaded = await loader.run(
            engine.load, SHIPPED.folder("digit-cnn", version), SHIPPED.manifest("digit-cnn", version), device
        )
        new = {number: nice for number, nice in priorities().items() if number not in before}
        loaded.close()
        loader.close()
        return nice, new

    own, new = asyncio.run(load())
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    assert own == max(10, normal)
    assert len(new) >= 2
    assert set(new.values()) == {normal}
