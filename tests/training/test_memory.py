"""Want of memory is known by what is said and counted, never by a guess."""

import asyncio
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.server import ROOT
from training.attempt import Attempt
from training.memory import Batch, is_out_of_memory, oom_kills, says_out_of_memory


def refused(call):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        call()
    return caught.value


def test_a_refused_allocation_is_known_whoever_refuses():
    """NumPy's and torch's own errors on this machine, and CUDA's by its class."""
    assert is_out_of_memory(refused(lambda: np.empty(1 << 60, np.uint8)))
    assert is_out_of_memory(refused(lambda: torch.empty(1 << 60, dtype=torch.uint8)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))


@pytest.mark.parametrize(
    "text",
    [
        "low 0\nhigh 0\noom 3\noom_kill 2\noom_group_kill 0\n",  # memory.events of a cgroup, version 2
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",  # memory.oom_control, version 1
        "nr_free_pages 5\noom_kill 2\nnuma_hit 7\n",  # /proc/vmstat
    ],
)
def test_the_kernels_count_is_read_wherever_it_stands(tmp_path, text):
    """The first place that counts is believed; without any there is no number."""
    (tmp_path / "silent").write_text("low 0\n")
    (tmp_path / "counts").write_text(text)
    assert oom_kills([tmp_path / "absent", tmp_path / "silent", tmp_path / "counts"]) == 2
    assert oom_kills([tmp_path / "absent", tmp_path / "silent"]) is None


def test_this_machine_counts():
    """One of the places that are looked at by default exists on every Linux that CI uses."""
    assert (oom_kills() or 0) >= 0
    assert oom_kills() is not None


@pytest.mark.parametrize(
    ("code", "counts", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", [4, 4], False),
        ("import os; os.kill(os.getpid(), 9)", [4, 5], True),
        ("import os; os.kill(os.getpid(), 9)", [None, None], False),
        ("import sys; sys.exit('terminate called after throwing an instance of std::bad_alloc')", [4, 4], True),
        ("import sys; sys.exit('disk quota exceeded')", [4, 4], False),
    ],
)
def test_a_killed_process_needs_evidence(code, counts, expected):
    """SIGKILL alone may be anybody's; with the kernel's count risen, or with the process's own words, it is memory."""
    left = list(counts)

    async def run():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        attempt = Attempt(process, lambda: left.pop(0))
        words = await attempt.ended()
        return attempt.out_of_memory, words

    found, words = asyncio.run(run())
    assert found is expected
    assert (signal.SIGKILL.name in words) == ("os.kill" in code)


def test_a_batch_is_halved_once_and_for_good(tmp_path):
    """The next process, of another worker perhaps, is given the half; a second time there is none."""
    batch = Batch(tmp_path, 65)
    assert (batch.size, batch.halved) == (65, False)
    assert batch.halve()
    assert not batch.halve()
    again = Batch(tmp_path, 65)
    assert (again.size, again.full, again.halved) == (32, 65, True)
    assert not Batch(tmp_path / "nothing", 1).halve()


def test_words_that_are_no_want_of_memory():
    """A loss that is no number and a cancelled step are other things."""
    for words in ("the training diverged in epoch 4", "exit code 1", "Segmentation fault"):
        assert not says_out_of_memory(words)


HEAPS = """
import threading
from training.memory import give_back, share_arenas

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

share_arenas()
before = resident()
held = [[bytes(5000) for _ in range(200)] for _ in range(100)]
pins = [each[-1] for each in held]  # what stays keeps the heap from shrinking at its end
grown = resident()
del held
give_back()
after = resident()
assert grown - before > 80_000_000, (before, grown)
assert after - before < 20_000_000, (before, after)
"""


def test_free_memory_goes_back_to_the_system_though_something_is_held_above_it():
    """What a job needed is not kept by the worker for ever."""
    done = subprocess.run([sys.executable, "-c", HEAPS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
