"""The reader of ETTh1: what it gives, and what it refuses."""

from datetime import datetime

import numpy as np
import pytest

from training.datasets import ett
from training.datasets.files import DataDamagedError

HEADER = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"
ROWS = [f"2016-07-01 {hour:02d}:00:00,5.8,2.0,1.6,0.5,4.2,1.3,{30 + hour}.5" for hour in range(4)]


@pytest.fixture(scope="module")
def readings(data_dir):
    return ett.read(data_dir)


def write(folder, lines):
    path = folder / "readings.csv"
    path.write_text("\n".join(lines) + "\n", "ascii")
    return path


def test_the_whole_file_is_read(readings):
    """17,420 hours of seven columns from the first of July 2016 on, the first and last as the file has them."""
    assert readings.values.shape == (17420, 7)
    assert readings.values.dtype == np.float32
    assert readings.start == datetime(2016, 7, 1)  # noqa: DTZ001 (the file tells no offset)
    assert readings.values[0].tolist() == pytest.approx([5.827, 2.009, 1.599, 0.462, 4.203, 1.34, 30.531], abs=1e-6)
    assert np.isfinite(readings.values).all()


def test_the_published_unit_of_errors_is_that_of_the_training_months(readings):
    """TARGET_STD is the population standard deviation of OT over the first 8,640 hours."""
    target = readings.values[: ett.TRAIN_END, ett.COLUMNS.index(ett.TARGET)].astype(np.float64)
    assert target.std() == pytest.approx(ett.TARGET_STD, abs=1e-6)


def test_hours_of_the_week_start_on_monday(readings):
    """The file begins on a Friday at midnight, which is hour 96."""
    assert [readings.hour_of_week(hour) for hour in (0, 1, 71, 72, 168)] == [96, 97, 167, 0, 96]


def test_sources_name_file_hash_and_licence():
    """What the manifest says of the data."""
    (source,) = ett.sources()
    assert source.file == "ett/ETTh1.csv"
    assert source.sha256 == ett.HOURLY.sha256
    assert "BY-ND" in source.licence


def test_good_rows_are_read(tmp_path):
    """The small file that the refusals below are variations of."""
    found = ett.read_csv(write(tmp_path, [HEADER, *ROWS]))
    assert found.values[:, -1].tolist() == [30.5, 31.5, 32.5, 33.5]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([HEADER.replace("OT", "oil"), *ROWS], "columns"),
        ([HEADER, *ROWS[:2], *ROWS[3:]], "line 4: 2016-07-01 03:00:00 is not an hour after"),
        ([HEADER, ROWS[0], ROWS[0]], "line 3"),
        ([HEADER, ROWS[0].replace("5.8", "many")], "many"),
        ([HEADER, ROWS[0].replace("2016-07-01", "yesterday")], "yesterday"),
        ([HEADER, ROWS[0], ROWS[1] + ",1.0"], "inhomogeneous"),
        ([HEADER, *(row + ",1.0" for row in ROWS)], "rows of 7 readings"),
        ([HEADER], "no rows"),
        ([], "columns"),
    ],
)
def test_other_files_are_refused(tmp_path, lines, complaint):
    """A gap, a repeated hour, a word among the numbers: the message tells the line or the fault."""
    with pytest.raises(DataDamagedError, match=complaint):
        ett.read_csv(write(tmp_path, lines))


def test_a_changed_file_is_refused(tmp_path):
    """The hash is checked before anything is read."""
    (tmp_path / ett.FOLDER).mkdir()
    (tmp_path / ett.FOLDER / ett.HOURLY.name).write_text(HEADER, "ascii")
    with pytest.raises(DataDamagedError, match="sha256"):
        ett.read(tmp_path)
