"""ETTh1: two years of hourly loads and oil temperature of one electricity transformer.

H. Zhou et al., "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting", AAAI 2021;
https://github.com/zhouhaoyi/ETDataset. The split is theirs: 12, 4 and 4 months of 30 days.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import DataFile
from training.datasets.files import DataDamagedError, RemoteFile, fetch

FOLDER = "ett"
LICENCE = "CC BY-ND 4.0"
COLUMNS = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
TARGET = "OT"
STEP_S = 3600
TRAIN_END, VALIDATION_END, TEST_END = 12 * 30 * 24, 16 * 30 * 24, 20 * 30 * 24
"""The hours that end each split."""
TARGET_STD = 9.176491
"""Standard deviation of the target over the training months, in degrees Celsius: the unit of published errors."""

HOURLY = RemoteFile(
    name="ETTh1.csv",
    sha256="f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    bytes=2589657,
    urls=(
        "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
        "https://cdn.jsdelivr.net/gh/zhouhaoyi/ETDataset@main/ETT-small/ETTh1.csv",
    ),
)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Readings:
    """`values` float32 [hours, 7] in the order of COLUMNS, without a gap from `start` on."""

    values: NDArray[np.float32]
    start: datetime

    def hour_of_week(self, hour: int) -> int:
        """Of the reading numbered `hour`, by the local clock; 0 is Monday 00:00."""
        return (self.start.weekday() * 24 + self.start.hour + hour) % 168


def read(data_dir: Path) -> Readings:
    """The readings from `data_dir/ett`, downloaded if they are missing; errors are those of `files.fetch`."""
    return read_csv(fetch(data_dir / FOLDER, HOURLY, _LOG.info))


def sources() -> list[DataFile]:
    """What the manifest says of the file."""
    return [DataFile(file=f"{FOLDER}/{HOURLY.name}", sha256=HOURLY.sha256, licence=LICENCE)]


def read_csv(path: Path) -> Readings:
    """Hourly readings with a `date` column before the seven; DataDamagedError names the line that is not as said."""
    with path.open(newline="", encoding="ascii") as stream:
        header, *lines = csv.reader(stream)
    if header != ["date", *COLUMNS]:
        raise DataDamagedError(f"{path} has the columns {', '.join(header)}")
    try:
        dates = [datetime.fromisoformat(line[0]) for line in lines]
        # by way of float64, as a reading in JSON comes too
        values = np.array([line[1:] for line in lines], dtype=np.float64).astype(np.float32)
    except (ValueError, IndexError) as exc:
        raise DataDamagedError(f"{path}: {exc}") from exc
    step = timedelta(seconds=STEP_S)
    for number, date in enumerate(dates):
        if date != dates[0] + number * step:
            raise DataDamagedError(f"{path}, line {number + 2}: {date} is not an hour after the line before it")
    if values.shape[1:] != (len(COLUMNS),):
        raise DataDamagedError(f"{path} holds no rows of {len(COLUMNS)} readings")
    return Readings(values, dates[0])
