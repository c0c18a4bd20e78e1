"""The pip requirements of an image, read from pyproject.toml: `python requirements.py [EXTRA ...]`.

They are installed before the code is copied, so that an edit of the code, or of a tool's settings, reinstalls nothing.
An image without the extra `gpu` takes the package `onnxruntime` in place of `onnxruntime-gpu`: the same runtime without
the CUDA libraries, 260 MB smaller.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GPU = "gpu"


def requirements(project: dict[str, Any], extras: Sequence[str]) -> list[str]:
    """Requirement lines of the `[project]` table with these extras. KeyError for an extra it does not have."""
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    if GPU in extras:
        return lines
    return [line.replace("onnxruntime-gpu", "onnxruntime") for line in lines]


def main(extras: Sequence[str]) -> int:
    """Print the lines; 1 for an unknown extra."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    try:
        lines = requirements(project, extras)
    except KeyError as exc:
        sys.stderr.write(f"there is no extra {exc}; there are {', '.join(project['optional-dependencies'])}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
