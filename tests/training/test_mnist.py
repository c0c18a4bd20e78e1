"""Reading MNIST from its original files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from training.datasets import mnist
from training.datasets.files import DataDamagedError

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_whole_set_is_read_with_the_published_label_counts(data_dir: Path) -> None:
    """All 70,000 images come out in shape, and each class is there as often as the authors say."""
    raw = mnist.read(data_dir)
    assert raw.train_images.shape == (60000, 28, 28)
    assert raw.test_images.shape == (10000, 28, 28)
    assert np.bincount(raw.train_labels).tolist() == TRAIN_COUNTS
    assert np.bincount(raw.test_labels).tolist() == TEST_COUNTS


def test_ink_is_bright_and_paper_is_zero(data_dir: Path) -> None:
    """255 is ink: the corners of every test image are empty and every image has bright ink."""
    images = mnist.read(data_dir).test_images
    assert images[:, 0, 0].max() == 0
    assert images.reshape(len(images), -1).max(1).min() > 150


def test_the_sources_name_every_file_with_hash_and_licence() -> None:
    """The manifest's provenance can list what the weights come from."""
    sources = mnist.sources()
    assert [source.file for source in sources] == [f"mnist/{file.name}" for file in mnist.FILES]
    assert all(source.licence for source in sources)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack(">HBBI", 0, 8, 1, 3) + b"ab", "holds 2 values, its header says 3"),
        (struct.pack(">HBBI", 0, 13, 1, 2) + b"ab", "not an IDX file of bytes"),
    ],
)
def test_a_file_that_contradicts_its_header_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """A wrong type or size is an error that names the file, not a reshaped array."""
    path = tmp_path / "odd.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataDamagedError, match=words):
        mnist.read_idx(path)
