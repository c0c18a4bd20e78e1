"""MNIST as the four original IDX files (LeCun, Cortes and Burges; http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import logging
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.manifest import DataFile
from training.datasets.files import DataDamagedError, RemoteFile, fetch

FOLDER = "mnist"
LICENCE = "none stated by the authors; widely redistributed as CC BY-SA 3.0"
VALIDATION_ROWS = 5000
"""The last rows of the training images are the validation split."""

_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_LOG = logging.getLogger(__name__)


def _file(name: str, size: int, sha256: str) -> RemoteFile:
    return RemoteFile(name, sha256, size, tuple(mirror + name for mirror in _MIRRORS))


TRAIN_IMAGES = _file(
    "train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
)
TRAIN_LABELS = _file(
    "train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
)
TEST_IMAGES = _file(
    "t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
)
TEST_LABELS = _file(
    "t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
)
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class Mnist:
    """Images uint8 [rows, 28, 28], 255 is ink; labels uint8 [rows]."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def read(data_dir: Path) -> Mnist:
    """The whole set from `data_dir/mnist`, downloaded if it is missing; errors are those of `files.fetch`."""
    folder = data_dir / FOLDER
    return Mnist(*(read_idx(fetch(folder, file, _LOG.info)) for file in FILES))


def sources() -> list[DataFile]:
    """What the manifest says of the files."""
    return [DataFile(file=f"{FOLDER}/{file.name}", sha256=file.sha256, licence=LICENCE) for file in FILES]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """A gzipped IDX file of bytes: magic 0 0 8 DIMENSIONS, each size as big-endian uint32, then the values."""
    with gzip.open(path) as stream:
        content = stream.read()
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if (zero, kind) != (0, 8):
        raise DataDamagedError(f"{path} is not an IDX file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DataDamagedError(f"{path} holds {values.size} values, its header says {' x '.join(map(str, shape))}")
    return values.reshape(shape)
