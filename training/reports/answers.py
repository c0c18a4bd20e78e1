"""What the exported graph answered to every row of the test split, with the truth: what reports are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.manifest import Manifest

Array = NDArray[Any]


@dataclass(frozen=True)
class Answers:
    """`inputs` and `outputs` by name and `targets`, rows first; `folder` is that of the version."""

    manifest: Manifest
    inputs: Mapping[str, Array]
    targets: Array
    outputs: Mapping[str, Array]
    folder: Path
