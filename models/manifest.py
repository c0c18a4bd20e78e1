"""The artifact contract, version 1: what a published model says about itself.

A version is one folder with `manifest.json`, the ONNX file and whatever else the manifest lists. Training writes
it, the service believes nothing that is not in it: tensors, labels, limits, golden sample and the hash of each file.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from models.drift import Drift

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION: Literal[1] = 1
NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"

DType = Literal["uint8", "int64", "float32"]
Kind = Literal["image", "text", "series"]


class ManifestError(ValueError):
    """A manifest that cannot be read or contradicts itself."""


class ManifestUnreadableError(ManifestError):
    """The system refused to read the file: that says nothing of what is in it."""


class Record(BaseModel):
    """Frozen, closed records: an unknown field is a mistake, not an extension."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _relative(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or "\\" in path:
        raise ValueError(f"{path!r} is not a path inside the version's folder")
    return path


class FileEntry(Record):
    """One file of the version: its hash (hex) and size in bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class TensorSpec(Record):
    """A graph input or output; a string in `shape` names a dynamic axis (`batch`, `length`)."""

    name: str
    dtype: DType
    shape: list[int | str]


class Buckets(Record):
    """Sizes that batches are padded to: rows (GPU) and, for sequences, lengths; both ascending."""

    rows: list[Annotated[int, Field(ge=1)]] = [1, 2, 4, 8, 16, 32, 64]
    lengths: list[Annotated[int, Field(ge=1)]] = []

    @model_validator(mode="after")
    def _ascending(self) -> Buckets:
        for sizes in (self.rows, self.lengths):
            if sizes != sorted(set(sizes)):
                raise ValueError("bucket sizes must ascend without repeats")
        return self


class TextSpec(Record):
    """How text becomes `token_ids` [batch, length] int64: tokenizer file, padding id, most tokens a row may have.

    A longer text keeps its first `max_length` tokens.
    """

    tokenizer: Annotated[str, AfterValidator(_relative)] = "tokenizer.json"
    pad_id: int = 0
    max_length: Annotated[int, Field(ge=1)]


class SeriesSpec(Record):
    """How readings become `values` [batch, length, columns] float32, `lengths` and `hour_of_week` [batch] int64.

    Rows of a batch are padded at the end; `hour_of_week` is that of a row's first step, 0 = Monday 00:00.
    Only the last `look_back` steps matter to the model, fewer than `min_length` are refused. `level` is the share of
    points that the interval `lower`..`upper` is meant to hold. `ranges` are the least and the largest reading of each
    column in training, by which implausible readings are told; an older version has none, and none are told there.
    """

    columns: list[str]
    target: str
    horizon: Annotated[int, Field(ge=1)]
    step_s: Annotated[int, Field(ge=1)] = 3600
    min_length: Annotated[int, Field(ge=1)]
    look_back: Annotated[int, Field(ge=1)]
    level: Annotated[float, Field(gt=0, lt=1)] = 0.8
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]] | None = None

    @model_validator(mode="after")
    def _fits(self) -> SeriesSpec:
        if self.ranges is not None and (
            set(self.ranges) != set(self.columns) or any(low > high for low, high in self.ranges.values())
        ):
            raise ValueError("ranges must hold a lower and an upper end for each column")
        if self.target not in self.columns:
            raise ValueError(f"target {self.target!r} is not one of the columns")
        if self.min_length > self.look_back:
            raise ValueError("min_length is above look_back")
        return self


class Doubt(Record):
    """How a classifier tells rows that are not like its training data.

    The graph's output `output`, float32 [batch], is the calibrated probability that a row shows none of the labels.
    The probabilities hold it already: (1 - outlier) * class probabilities + outlier / classes. An answer whose outlier
    probability is above `threshold`, which was chosen on validation rows, carries the warning `not_like_training_data`;
    a text of which more than `unknown_share` of the tokens are unknown carries `unknown_words`.
    """

    output: str = "outlier"
    threshold: Annotated[float, Field(gt=0, lt=1)]
    unknown_share: Annotated[float, Field(gt=0, le=1)] | None = None


class Golden(Record):
    """One small batch and the answer the exporter got for it; the service repeats it on its own device."""

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    atol: Annotated[float, Field(gt=0)] = 1e-3


class Parity(Record):
    """The worst difference between torch and ONNX Runtime, and the (batch, length) cases it was taken over."""

    max_abs_diff: Annotated[float, Field(ge=0)]
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    cases: list[list[int]]


class DataFile(Record):
    """A data file the weights come from, with the origin's licence."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    licence: str


class Provenance(Record):
    """How the version came to be; enough to make it again."""

    command: str
    seed: int
    data: list[DataFile]
    settings: dict[str, Any] = {}
    weights: Annotated[int, Field(ge=0)] = 0
    epochs_run: Annotated[int, Field(ge=0)] = 0
    train_seconds: Annotated[float, Field(ge=0)] = 0.0
    history: list[dict[str, Any]] = []
    libraries: dict[str, str] = {}
    job_id: str | None = None


class GateCheck(Record):
    """One rule of the gate: whether the version passed it, a sentence, and the measured value beside its limit."""

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None


class GateVerdict(Record):
    """What the gate said of the version when it was published: its checks, failed ones first, and the figures used.

    `reasons` are the sentences of the checks. `compared_with` is the reference version, or the live one where there was
    no reference.
    """

    passed: bool
    reasons: list[str]
    compared_with: int | None = None
    checks: list[GateCheck] = []
    figures: dict[str, Any] = {}


class Losses(Record):
    """The exported graph's loss on each validation row, for a series on each block of one horizon.

    `file` holds them as a NumPy array float32 [count]; `rows_sha256` identifies the validation rows. Classifiers:
    negative log likelihood in nats. Series: squared error in units of the target's variance over the training rows.
    """

    file: Annotated[str, AfterValidator(_relative)] = "validation-losses.npy"
    rows_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    count: Annotated[int, Field(ge=1)]
    mean: float


class Manifest(Record):
    """Everything the service needs to know about one version of one model."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
    version: Annotated[int, Field(ge=1)]
    task: Annotated[str, Field(pattern=NAME_PATTERN)]
    network: Annotated[str, Field(pattern=NAME_PATTERN)]
    kind: Kind
    created_at: datetime
    model_file: Annotated[str, AfterValidator(_relative)] = "model.onnx"
    files: dict[Annotated[str, AfterValidator(_relative)], FileEntry]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    buckets: Buckets = Buckets()
    labels: list[str] = []
    text: TextSpec | None = None
    series: SeriesSpec | None = None
    metrics: dict[str, dict[str, float]]
    calibration: dict[str, float] = {}
    golden: Golden
    parity: Parity
    provenance: Provenance
    gate: GateVerdict | None = None
    drift: Drift | None = None
    doubt: Doubt | None = None
    losses: Losses | None = None

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if self.model_file not in self.files:
            raise ValueError(f"{self.model_file} is not among the files")
        if self.kind == "text" and (self.text is None or self.text.tokenizer not in self.files):
            raise ValueError("a text model needs `text` and its tokenizer among the files")
        if self.kind == "series" and self.series is None:
            raise ValueError("a series model needs `series`")
        if self.kind != "series" and not self.labels:
            raise ValueError("a classifier needs its labels")
        if self.losses is not None and self.losses.file not in self.files:
            raise ValueError(f"{self.losses.file} is not among the files")
        if self.doubt is not None and self.doubt.output not in {spec.name for spec in self.outputs}:
            raise ValueError(f"the graph has no output {self.doubt.output!r} for the doubt")
        return self

    @property
    def contract(self) -> dict[str, Any]:
        """What a client can see of the model's shape; its successors must keep that (see `broken_by`)."""
        seen = self.model_dump(include={"task", "kind", "inputs", "outputs", "labels"})
        if self.series is not None:
            seen["series"] = self.series.model_dump(include={"columns", "target", "horizon", "step_s"})
        return seen

    def keeps_contract_of(self, other: Manifest) -> bool:
        """Whether clients of `other` can use this version: the same contract, but for outputs that it gives besides."""
        return not other.broken_by(self)

    def broken_by(self, successor: Manifest) -> list[str]:
        """What of this version's contract another version changes or drops; added outputs change nothing."""
        mine, theirs = self.contract, successor.contract
        if all(output in theirs["outputs"] for output in mine["outputs"]):
            theirs["outputs"] = mine["outputs"]
        return sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`; ManifestError says what is wrong with it."""
    path = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(f"{path.name} is missing") from None
    except OSError as exc:
        raise ManifestUnreadableError(f"{path.name} cannot be read: {exc.strerror}") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ManifestError(f"{path.name} is not a version 1 manifest: {place}: {first['msg']}") from exc


def file_entry(path: Path) -> FileEntry:
    """Hash and size of a file on disk."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileEntry(sha256=digest, bytes=path.stat().st_size)


def now() -> datetime:
    """The present in UTC, as every record of the product writes it."""
    return datetime.now(UTC)
