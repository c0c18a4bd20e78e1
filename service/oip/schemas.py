"""The JSON of the protocol, for `/docs` and for answers that FastAPI writes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Parameters = dict[str, str | float | bool]


class Message(BaseModel):
    """Any message of the protocol; further fields are let through, as its extensions add some."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class InferInput(Message):
    """One input tensor, all rows in it. Its values are in `data`, or behind the JSON as so many bytes."""

    name: str
    shape: list[int] = Field(description="rows first")
    datatype: str = Field(description="`UINT8`, `INT64` or `FP32`, as the model's metadata says")
    parameters: Parameters | None = Field(None, description="`binary_data_size`: bytes of it behind the JSON")
    data: list[Any] | None = Field(None, description="row-major, flat or nested by the shape")


class InferWanted(Message):
    """An output that is asked for."""

    name: str
    parameters: Parameters | None = Field(
        None, description="`binary_data`: as bytes behind the JSON; `classification`: as texts of so many best classes"
    )


class InferRequest(Message):
    """Rows for a model."""

    id: str | None = Field(None, description="comes back with the answer")
    parameters: Parameters | None = Field(
        None,
        description="`timeout`: microseconds, may only shorten the service's deadline; `binary_data_output`: all "
        "outputs as bytes; `priority`: taken, all are alike",
    )
    inputs: list[InferInput] = Field(min_length=1)
    outputs: list[InferWanted] | None = Field(None, description="default: all")


class InferOutput(Message):
    """One output tensor, in `data` or behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="row-major, flat")


class InferResponse(Message):
    """The outputs of the rows."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="that of the request, if it had one")
    parameters: dict[str, str] | None = Field(
        None,
        description="only where a row has a warning: `warnings`, a JSON string with one list of codes for each row",
        examples=[{"warnings": '[[],["not_like_training_data"]]'}],
    )
    outputs: list[InferOutput]


class OpenInferenceError(Message):
    """What is wrong, and what to do."""

    error: str


class ServerLive(Message):
    """The process can answer."""

    live: bool


class ServerReady(Message):
    """Every default model can answer."""

    ready: bool


class ServerMetadata(Message):
    """Who answers, and which extensions of the protocol it knows."""

    name: str
    version: str
    extensions: list[str]


class ModelReady(Message):
    """The model can answer."""

    name: str
    ready: bool


class TensorMetadata(Message):
    """A tensor as requests name it; -1 is a size that is free, the first is that of the rows."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Message):
    """The tensors of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Count(Message):
    """How often, and how long in all."""

    count: int
    ns: int


class BatchStatistics(Message):
    """Batches of one size."""

    batch_size: int
    compute_input: Count
    compute_infer: Count
    compute_output: Count


class InferStatistics(Message):
    """Requests by what they took their time with."""

    success: Count
    fail: Count
    queue: Count
    compute_input: Count
    compute_infer: Count
    compute_output: Count
    cache_hit: Count
    cache_miss: Count


class ModelStatistics(Message):
    """The figures of one version since the service's start, of all workers."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970")
    inference_count: int = Field(description="rows")
    execution_count: int = Field(description="batches")
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]
    memory_usage: list[Any]


class Statistics(Message):
    """The figures of the versions asked for."""

    model_stats: list[ModelStatistics]


class IndexEntry(Message):
    """A version in the store."""

    name: str
    version: str
    state: str = Field(description="`READY`: answers when asked for; `UNAVAILABLE`")
    reason: str
