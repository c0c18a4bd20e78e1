"""The real trainer on a few hundred images, with a diary of the epochs it begins and has safe: see `child.py`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.training.child import note
from tests.training.small import SmallDigit
from training import checkpoint, fit
from training.__main__ import main
from training.tasks import digit

PLAN: dict[str, Any] = json.loads(Path(os.environ["CHILD_PLAN"]).read_text())
WORK = Path(sys.argv[sys.argv.index("--work") + 1])


def keep_diary() -> None:
    """Note the beginning of each epoch, and each checkpoint once it is on disk."""
    train, save = fit._Fit._train, checkpoint.save

    def noted_train(run: fit._Fit, epoch: int) -> float:
        note(PLAN, WORK, "epoch", epoch)
        time.sleep(PLAN.get("epoch_s", 0.0))
        return train(run, epoch)

    def noted_save(path: Path, run: dict[str, Any], state: dict[str, Any]) -> None:
        save(path, run, state)
        note(PLAN, WORK, "done", len(state["history"]))
        if len(state["history"]) == run["epochs"]:
            note(PLAN, WORK, "export")

    fit._Fit._train, checkpoint.save = noted_train, noted_save  # type: ignore[method-assign]


if __name__ == "__main__":
    digit.TASK = SmallDigit()
    keep_diary()
    note(PLAN, WORK, "data")
    sys.exit(main(["fit", *sys.argv[1:]]))
