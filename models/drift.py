"""What a version's inputs and answers were like in training, and how far those of today are from it.

A signal is one number a row: the ink of a picture, the tokens of a text, the level of a column, the confidence of an
answer. Training counts it over its own rows in about equally full bins; the service counts the same bins. The distance
is the population stability index; by its users' rule of thumb below 0.1 nothing has moved, above 0.25 much has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

BINS = 10
_LEAST = 0.5
"""Added to every count: a bin that was empty once must not make the index infinite."""


class Signal(BaseModel):
    """Counts of one signal in training; bin i holds values from `edges[i - 1]` to below `edges[i]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: list[float]
    counts: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _fits(self) -> Signal:
        if len(self.counts) != len(self.edges) + 1 or not sum(self.counts):
            raise ValueError("there must be one bin more than edges, and rows in them")
        if self.edges != sorted(set(self.edges)):
            raise ValueError("edges must ascend without repeats")
        return self

    def psi(self, counts: Sequence[float]) -> float:
        """The population stability index of other counts in the same bins; 0 where they have the same shares."""
        before, after = _shares(self.counts), _shares(counts)
        return sum((now - then) * math.log(now / then) for then, now in zip(before, after, strict=True))


class Drift(BaseModel):
    """The signals of one version by name; those of inputs over training rows, `confidence` over the validation split.

    `unknown_id` is the token that stands for what a tokenizer does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Annotated[int, Field(ge=1)]
    signals: dict[str, Signal]
    unknown_id: int | None = None


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) + _LEAST * len(counts)
    return [(count + _LEAST) / total for count in counts]


def ink(pixels: Any) -> dict[str, Any]:
    """Mean brightness, 0 to 1, of pictures uint8 [rows, 28, 28]."""
    flat = pixels.reshape(len(pixels), -1)
    return {"ink": flat.sum(1, dtype="uint32") / (255 * flat.shape[1])}  # faster than a mean


def words(token_ids: Any, pad_id: int, unknown_id: int | None) -> dict[str, Any]:
    """Tokens, and the share of unknown ones, of texts int64 [rows, length]."""
    tokens = (token_ids != pad_id).sum(1)
    found = {"tokens": tokens}
    if unknown_id is not None:
        found["unknown_share"] = (token_ids == unknown_id).sum(1) / tokens.clip(1)
    return found


def readings(values: Any, columns: Sequence[str], look_back: int) -> dict[str, Any]:
    """Mean and standard deviation of each column over the last steps of series float32 [rows, length, columns]."""
    seen = values[:, -look_back:]
    levels, spreads = seen.mean(1), seen.std(1)
    found = {f"level {name}": levels[:, place] for place, name in enumerate(columns)}
    return found | {f"spread {name}": spreads[:, place] for place, name in enumerate(columns)}


def confidence(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The highest probability of a row, or the mean width of its interval."""
    if "probabilities" in outputs:
        return {"confidence": outputs["probabilities"].max(1)}
    return {"confidence": (outputs["upper"] - outputs["lower"]).mean(1)}
