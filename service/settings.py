"""Settings from the environment, prefix `NEUROSERVE_`; the table in README is checked against this class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.database import address
from models.environment import is_address
from service.keys import parse_keys
from service.origins import parse_hosts, parse_origins
from service.proxies import parse_prefix

ZOO = Path(__file__).resolve().parent.parent / "models" / "zoo"


class Settings(BaseSettings):
    """Everything an operator may set; a wrong value refuses to start with a sentence."""

    model_config = SettingsConfigDict(env_prefix="NEUROSERVE_", env_ignore_empty=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="port to listen on; 0 takes a free one")
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None, description="port for the Open Inference Protocol over gRPC; 0 takes a free one; default: not spoken"
    )
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="HTTP processes; default: 1 on a GPU, else the CPU quota, at most 4"
    )
    worker_silent_s: Annotated[float, Field(ge=2)] = Field(
        6.0, description="a process that is stopped, or whose event loop has not turned for so long, is replaced"
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="`cuda` refuses to start without CUDA; `auto` takes it where it works and says what it got"
    )
    gpu_mem_limit_mb: Annotated[int, Field(ge=64)] | None = Field(
        None, description="GPU memory each model's session may take; default: no limit"
    )
    train_gpu_mem_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="share of the GPU's memory that a training may take"
    )
    cuda_graphs: Literal["off", "auto", "on"] = Field(
        "off", description="`on` refuses a version that cannot be captured as CUDA graphs; `auto` runs it without"
    )
    tensorrt: bool = Field(
        False, description="run on TensorRT, CUDA behind it; its engines are kept in the state folder"
    )
    state: Path = Field(Path("var"), description="folder of the model store, the job database, checkpoints, data sets")
    trainer: Literal["embedded", "external", "off"] | None = Field(
        None, description="who runs training jobs; default: `embedded` where torch is installed, else `external`"
    )
    train_concurrency: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="training jobs that one worker runs at a time; they share its CPUs"
    )
    trainer_silent_s: Annotated[float, Field(ge=2)] = Field(
        20.0, description="a training worker not heard of for so long has died, and its jobs go on elsewhere"
    )
    database_url: str | None = Field(
        None,
        repr=False,
        description="job database, `postgresql://USER:PASSWORD@HOST/NAME`; default: `jobs.sqlite` in the state folder",
    )
    keep_versions: Annotated[int, Field(ge=0)] = Field(
        50, description="newest versions of a model that stay, beside those in use and shipped; 0 keeps all"
    )
    keep_jobs_days: Annotated[float, Field(ge=0)] = Field(
        90.0, description="days for which the records of ended training jobs stay; 0 keeps all"
    )
    max_queued_jobs: Annotated[int, Field(ge=1)] = Field(16, description="training jobs that may wait")
    job_time_limit_s: Annotated[float, Field(gt=0)] = Field(21_600.0, description="longest time a training job may run")
    max_queue_rows: Annotated[int, Field(ge=1)] = Field(2048, description="rows that may wait for one model")
    max_batch_rows: Annotated[int, Field(ge=1, le=1024)] = Field(64, description="rows of one run of a model")
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)] = Field(0.0, description="time a batch is held for company")
    deadline_ms: Annotated[float, Field(gt=0)] = Field(10_000.0, description="longest time to an answer, else 504")
    read_timeout_s: Annotated[float, Field(gt=0)] = Field(
        60.0, description="time a client has to send a request (else 408), and to take some more of an answer"
    )
    keep_alive_s: Annotated[float, Field(gt=0)] = Field(
        75.0, description="time from an answer to the next request of a connection; more than a proxy keeps one idle"
    )
    drain_s: Annotated[float, Field(ge=0)] = Field(
        2.0, description="time from SIGTERM, with ready 503, until no new connection is accepted"
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(10 * 2**20, description="largest request body")
    max_bodies_bytes: Annotated[int, Field(ge=65_536)] = Field(
        128 * 2**20, description="bytes of request bodies above 64 KiB that one process holds at once, else 429"
    )
    max_decode_requests: Annotated[int, Field(ge=1)] = Field(
        128, description="requests of one process that may wait to be decoded, large and small ones apart, else 429"
    )
    max_decode_pixels: Annotated[int, Field(ge=784)] = Field(
        250_000_000, description="pixels of large pictures that may wait to be decoded in one process, else 429"
    )
    max_image_pixels: Annotated[int, Field(ge=784)] = Field(25_000_000, description="largest picture, width x height")
    max_text_chars: Annotated[int, Field(ge=1)] = Field(20_000, description="longest text")
    max_series_steps: Annotated[int, Field(ge=1)] = Field(4096, description="longest series")
    max_batch_items: Annotated[int, Field(ge=1)] = Field(256, description="items of one batch request")
    api_keys: str | None = Field(
        None, repr=False, description="who may call: `NAME:SCOPES:SECRET`, separated by commas; default: everybody"
    )
    api_keys_file: Path | None = Field(None, description="the same in a file, one a line; read again when it changes")
    key_requests_per_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="predictions a second that one key may ask for; default: no limit"
    )
    key_concurrency: Annotated[int, Field(ge=1)] | None = Field(
        None, description="predictions of one key that may be in hand at once; default: no limit"
    )
    allow_open_network: bool = Field(
        False, description="`true` lets a service without keys listen beyond the loopback address"
    )
    allowed_hosts: str | None = Field(
        None,
        description="further host names to answer to without keys, separated by commas; `*.example.com` is all below; "
        "default: addresses, `localhost`, this machine's name",
    )
    cors_origins: str | None = Field(
        None,
        description="web pages that may ask for predictions, `https://app.example.com`, separated by commas; "
        "default: none but the service's own",
    )
    root_path: str | None = Field(
        None, description="path under which a proxy shows the service and that it takes away, `/api/neuro`"
    )
    access_log: bool = Field(False, description="one log line a request")
    log_format: Literal["human", "json"] = Field("human", description="form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    shutdown_grace_s: Annotated[float, Field(gt=0)] = Field(10.0, description="time running requests get at shutdown")

    @model_validator(mode="before")
    @classmethod
    def _without_addresses(cls, given: dict[str, object]) -> dict[str, object]:
        """Without what Kubernetes puts into the environment of a service that is named `neuroserve`."""
        return {name: value for name, value in given.items() if not is_address(value)}

    @field_validator("database_url", mode="after")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value:
            address(value)
        return value or None

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _are_hosts(cls, value: str | None) -> str | None:
        return ",".join(parse_hosts(value or "")) or None

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        return ",".join(parse_origins(value or "")) or None

    @field_validator("root_path", mode="after")
    @classmethod
    def _is_a_prefix(cls, value: str | None) -> str | None:
        return parse_prefix(value or "") or None

    @field_validator("api_keys", mode="after")
    @classmethod
    def _only_hashes(cls, given: str | None) -> str | None:
        """The secrets themselves are not kept."""
        keys = parse_keys((given or "").split(","), "the setting")
        return ",".join(key.line for key in keys) or None

    @property
    def store_dir(self) -> Path:
        return self.state / "models"

    @property
    def gpu_mem_limit_bytes(self) -> int | None:
        return None if self.gpu_mem_limit_mb is None else self.gpu_mem_limit_mb * 2**20

    @property
    def tensorrt_cache(self) -> Path | None:
        return self.state / "tensorrt" if self.tensorrt else None

    @property
    def jobs_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.state / 'jobs.sqlite').resolve()}"
