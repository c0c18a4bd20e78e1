"""The real trainer on a task that diverges: a child for `training.worker.main`, in place of `python -m training fit`.

No order that `POST /train` takes makes a loss that is no number: AdamW moves a weight by about the learning rate a
step, however steep the loss, and all networks normalise. So the loss itself grows here, tenfold each step, until
float32 cannot hold it.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from torch import Tensor, nn

from tests.training.small import SmallDigit
from training.__main__ import main
from training.tasks import digit
from training.tasks.base import Inputs


class Runaway(SmallDigit):
    """640 images, whose loss is infinite from the 38th training step or so on."""

    steps = 0

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        self.steps += module.training
        return super().loss(module, inputs, targets) * 10.0**self.steps


if __name__ == "__main__":
    digit.TASK = Runaway()
    sys.exit(main(["fit", *sys.argv[1:]]))
