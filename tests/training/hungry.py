"""The real trainer with little memory: a child for `training.worker.main`, in place of `python -m training fit`.

Each step asks for 8 MiB a row under an address space limit (RLIMIT_AS) that leaves room for so many rows as the plan's
`room_rows` says, from the allocator that its `allocator` names: `torch` or `numpy`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor, nn

from tests.training.small import SmallDigit
from training.__main__ import main
from training.tasks import digit
from training.tasks.base import Inputs

PLAN = json.loads(Path(os.environ["CHILD_PLAN"]).read_text())
ROW = 8 * 2**20


class Hungry(SmallDigit):
    """640 images that need much room on their way through the network."""

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        if module.training:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            room = PLAN["room_rows"] * ROW + 16 * 2**20
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
            try:
                if PLAN["allocator"] == "torch":
                    torch.empty(len(targets) * ROW, dtype=torch.uint8)
                else:
                    np.empty(len(targets) * ROW, np.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return super().loss(module, inputs, targets)


if __name__ == "__main__":
    digit.TASK = Hungry()
    sys.exit(main(["fit", *sys.argv[1:]]))
