"""What pip installs into the images, read from pyproject.toml: `python requirements.py [gpu]`.

Writes base.txt (both images), service.txt and trainer.txt (what each adds). They are installed before the code is
copied, so that an edit of the code, or of a tool's settings, reinstalls nothing. Without `gpu` the package
`onnxruntime` stands in for `onnxruntime-gpu`: the same runtime without the CUDA provider, 260 MB smaller.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GPU = "gpu"


def requirements(project: dict[str, Any], extras: Sequence[str]) -> dict[str, list[str]]:
    """Requirement lines by list, from the `[project]` table. KeyError for an extra it does not have.

    The trainer never takes `gpu`: CUDA comes with its torch, whose pins would replace those libraries.
    """
    added = {extra: project["optional-dependencies"][extra] for extra in ["train", *extras]}
    base = project["dependencies"]
    return {
        "base": base if GPU in extras else [line.replace("onnxruntime-gpu", "onnxruntime") for line in base],
        "service": [line for extra in extras for line in added[extra]],
        "trainer": [line for extra, lines in added.items() if extra != GPU for line in lines],
    }


def main(extras: Sequence[str]) -> int:
    """Write the lists into the current folder; 1 for an unknown extra."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    try:
        lists = requirements(project, extras)
    except KeyError as exc:
        sys.stderr.write(f"there is no extra {exc}; there are {', '.join(project['optional-dependencies'])}\n")
        return 1
    for name, lines in lists.items():
        Path(f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
