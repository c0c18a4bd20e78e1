"""The JSON that clients send and get, for `/docs` and for answers that FastAPI writes. Examples are true answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.inputs.fields import LARGEST_VERSION
from service.warnings import Code


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelRef(Schema):
    """The model and version that answered."""

    name: str = Field(examples=["digit-cnn"])
    version: int = Field(examples=[1])


class AnswerWarning(Schema):
    """Something that makes the answer less reliable; an answer without warnings lacks the field."""

    code: Code
    detail: str = Field(description="a sentence for people, with the figures or the place")


_WARNINGS = Field(None, description="only where there are some; see the codes at the top of this page")


class DigitExplanation(Schema):
    """Which ink the answer rests on, and the picture as the model saw it."""

    saliency: list[list[float]] = Field(
        description="28 rows of 28 weights 0..1. Ink is erased window by window (4x4), always the window whose loss "
        "costs the answer's log-odds most for its ink, until the answer is lost. The first erased pixels weigh 1, the "
        "last ones 0.5: together their loss changes the answer. Weights below 0.5: how much the answer's log-odds "
        "still hang on that ink then. 0: no ink, or its loss changes nothing; all are 0 where the loss of no ink makes "
        "the answer less sure"
    )
    input: str = Field(description="base64 of a 28x28 grey PNG: the pixels the model saw, 255 is ink")


class DigitPrediction(Schema):
    """The answer for one picture."""

    digit: int = Field(ge=0, le=9, examples=[7])
    confidence: float = Field(ge=0, le=1, examples=[0.9987])
    probabilities: list[float] = Field(description="ten numbers, in the order of the digits; they sum to 1")
    model: ModelRef
    explanation: DigitExplanation | None = Field(None, description="only with `explain=true`")
    warnings: list[AnswerWarning] | None = _WARNINGS


class DigitRow(Schema):
    """The answer for one picture of a batch."""

    digit: int = Field(ge=0, le=9)
    confidence: float = Field(ge=0, le=1)
    probabilities: list[float]
    explanation: DigitExplanation | None = Field(None, description="only with `explain=true`")
    warnings: list[AnswerWarning] | None = _WARNINGS


class DigitPredictions(Schema):
    """The answers, in the order of the pictures."""

    predictions: list[DigitRow]
    model: ModelRef


class ImageJson(Schema):
    """A picture file as base64 or as a `data:` URL."""

    image: str = Field(min_length=1)


class PixelsJson(Schema):
    """28 rows of 28 integers 0..255, read as the same picture in a file: ink may be light on dark or dark on light."""

    pixels: list[list[int]]


class ImagesJson(Schema):
    images: list[str] = Field(min_length=1)


class PixelBatchJson(Schema):
    pixels: list[list[list[int]]]


class TextInput(Schema):
    """A text for the topic model."""

    text: str = Field(max_length=20_000)
    model: str | None = None
    version: int | None = Field(None, ge=1, le=LARGEST_VERSION)
    explain: bool = Field(False, description="tell the weight of each word too")


class SeriesInput(Schema):
    """Hourly readings for the forecast model, oldest first, one row of seven numbers an hour."""

    values: list[list[float | None]] = Field(
        description="`null` is a missing reading: up to 6 in a row and 10 % of a column are filled, among the steps "
        "that the model reads"
    )
    start: str = Field(description="RFC 3339 time of the first row")
    model: str | None = None
    version: int | None = Field(None, ge=1, le=LARGEST_VERSION)
    explain: bool = Field(False, description="tell the weight of each step and column too")
    accept_implausible: bool = Field(
        False, description="take readings that would be refused as `implausible_values` as they are, with a warning"
    )


class SequenceInputs(Schema):
    inputs: list[TextInput | SeriesInput] = Field(min_length=1)


class WordWeight(Schema):
    """One word as it was written, with its punctuation, and what it weighs."""

    text: str = Field(examples=["Oil"])
    start: int = Field(ge=0, description="characters (code points) of the text before it")
    end: int = Field(ge=1, description="characters of the text up to its end")
    weight: float = Field(ge=0, le=1, examples=[0.84])


class TopicExplanation(Schema):
    """Which words the answer rests on."""

    words: list[WordWeight] = Field(
        description="every run of characters between white space, in order. A weight is how far the log-odds of the "
        "answered label fall when this word alone is left out, divided by the largest such fall; 0: they do not fall, "
        "or the word is beyond the tokens the model reads; all are 0 where no word's loss lowers them. In texts of "
        "more than 96 words neighbours are left out together first, and words of the groups that matter less share "
        "their group's fall equally"
    )


class TopicPrediction(Schema):
    """The answer for a text."""

    label: str
    confidence: float = Field(ge=0, le=1)
    probabilities: dict[str, float]
    model: ModelRef
    explanation: TopicExplanation | None = Field(None, description="only with `explain: true`")
    warnings: list[AnswerWarning] | None = _WARNINGS


class ForecastExplanation(Schema):
    """Which readings the forecast rests on."""

    columns: list[str] = Field(examples=[["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]])
    weights: list[list[float]] = Field(
        description="one row for each step that was sent, one weight 0..1 for each column. A weight is how far `mean` "
        "moves on average over the horizon when readings around this one are replaced by their column's mean over the "
        "steps the model reads, for each replaced reading, divided by the largest such movement. Spans of readings "
        "are replaced together, single ones at the end of the series and longer ones the older they are. Steps before "
        "the model's look-back have 0; all are 0 where nothing moves `mean`, as in a constant series"
    )


class ForecastPrediction(Schema):
    """The answer for a series: the next `horizon` steps of `target`, with the interval that holds `level` of them."""

    target: str
    horizon: int
    times: list[str]
    mean: list[float]
    lower: list[float]
    upper: list[float]
    level: float
    model: ModelRef
    explanation: ForecastExplanation | None = Field(None, description="only with `explain: true`")
    warnings: list[AnswerWarning] | None = _WARNINGS


class SequencePredictions(Schema):
    predictions: list[TopicPrediction | ForecastPrediction]


class FieldError(Schema):
    loc: list[str | int]
    msg: str


class Problem(Schema):
    """An error, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None


class VersionInfo(Schema):
    """One version in the store."""

    version: int
    network: str | None = None
    created_at: datetime | None = None
    live: bool
    metrics: dict[str, dict[str, float]] = {}
    calibration: dict[str, float] = Field({}, description="what was fitted on the validation split, as in the manifest")
    provenance: dict[str, Any] = {}
    gate: dict[str, Any] | None = None
    bytes: int = 0
    problem: str | None = Field(None, description="why the version cannot be served")


class CanaryRef(Schema):
    """The canary that a model has; `GET /models/{name}/canary` tells how it does."""

    version: int
    percent: float
    mode: Literal["split", "shadow"]


class ModelInfo(Schema):
    """One model: what is live, what rollback goes to, what runs it."""

    name: str
    task: str | None
    kind: str | None
    default: bool
    live: int | None
    previous: int | None
    serving: int | None = Field(description="the version that answers in this process; `null` until it is asked for")
    provider: str | None
    swaps: int
    canary: CanaryRef | None = Field(None, description="the version on trial, if one is")
    problem: str | None
    versions: list[VersionInfo]


class ModelList(Schema):
    models: list[ModelInfo]


class Promotion(Schema):
    """Which version goes live."""

    version: int = Field(strict=True, ge=1, le=LARGEST_VERSION, examples=[3])


class Alive(Schema):
    status: Literal["alive"] = "alive"


class ModelReadiness(Schema):
    ready: bool
    version: int | None
    provider: str | None
    problem: str | None


class Readiness(Schema):
    """Whether every default model is loaded, warmed and on the asked-for device."""

    status: Literal["ready", "not_ready"]
    device: str = Field(description="the asked-for device mode")
    device_note: str | None = Field(description="why the GPU is not used, or what a model does without on it")
    trainer: str
    detail: str | None = Field(None, description="what else keeps this process from being ready")
    models: dict[str, ModelReadiness]
