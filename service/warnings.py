"""What an answer says of its own reliability: warnings of its request and of its model, as JSON, header and counts.

A request has findings before the model runs (a text that was cut, readings that were filled). The model adds its own:
the output that its manifest names in `doubt` is the probability that a row shows none of the labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from models.manifest import Manifest
from service.tensors import Array
from service.wire import Header

Code = Literal[
    "several_marks", "not_like_training_data", "unknown_words", "truncated", "implausible_values", "filled_values"
]
MEANINGS: dict[Code, str] = {
    "several_marks": "the picture may hold several digits, or something beside one; the probabilities hold this doubt",
    "not_like_training_data": "the input is not like the training data; the probabilities hold this doubt",
    "unknown_words": "the model does not know most words of the text, or the text has none",
    "truncated": "the text is longer than the model reads; the detail says how many tokens were read and given",
    "implausible_values": "a reading lies more than the width of its column's training range outside of it, or was let "
    "in by `accept_implausible`; beyond three widths, and for markers such as -9999, it is a 422 without that",
    "filled_values": "missing readings (`null`) were filled, up to 6 in a row and 10 % of a column among the steps "
    "that the model reads; the interval is wider for it",
}
HEADER = b"x-warnings"
PARAMETER = "warnings"
"""Name of the response parameter of the Open Inference Protocol."""


class AnswerWarning(NamedTuple):
    """One warning about one answer: a stable code and a sentence."""

    code: Code
    detail: str

    @property
    def json(self) -> dict[str, str]:
        return {"code": self.code, "detail": self.detail}


class Findings(NamedTuple):
    """What is known about a row before the model runs.

    `no_label` is the fitted probability that the row shows none of the labels, by evidence that the network cannot see.
    `widening` float32 [horizon] is by what factor a forecast's interval is wider than the graph gives it.
    """

    warnings: tuple[AnswerWarning, ...] = ()
    no_label: float = 0.0
    widening: Array | None = None


NOTHING = Findings()


class Warned(NamedTuple):
    """A warning that an answer carries, as it is counted: once a row."""

    model: str
    code: str


class OutlierCheck:
    """Tells rows that are not like the training data of one version; a version without `doubt` never does."""

    def __init__(self, manifest: Manifest) -> None:
        doubt = manifest.doubt
        names = [spec.name for spec in manifest.outputs]
        self.place = names.index(doubt.output) if doubt is not None else None
        self.threshold = doubt.threshold if doubt is not None else 1.0
        self._noun = {"image": "picture", "text": "text", "series": "series"}[manifest.kind]

    def rows(self, outputs: Sequence[Array]) -> list[AnswerWarning | None]:
        """The warning of each row, from the graph's outputs in order; an empty list where no row has one."""
        if self.place is None:
            return []
        found = outputs[self.place].tolist()
        if max(found) <= self.threshold:
            return []
        return [self.warning(each) if each > self.threshold else None for each in found]

    def warning(self, outlier: float) -> AnswerWarning:
        """The warning for a row with this outlier probability."""
        said = f"{outlier:.2f}" if outlier < 0.995 else "more than 0.99"
        return AnswerWarning(
            "not_like_training_data",
            f"The {self._noun} is not like the training data: with a probability of {said} it shows none of "
            "the labels. Do not rely on this answer.",
        )


def with_evidence(probabilities: Array, no_label: Sequence[float]) -> Array:
    """Probabilities float32 [rows, labels] after evidence that no label fits: (1 - e) * p + e / labels."""
    e = np.array(no_label)[:, np.newaxis]
    mixed: Array = ((1 - e) * probabilities.astype(np.float64) + e / probabilities.shape[1]).astype(np.float32)
    return mixed


def as_field(warnings: Sequence[AnswerWarning]) -> dict[str, Any]:
    """The field `warnings` of an answer; nothing where there are none."""
    return {"warnings": [each.json for each in warnings]} if warnings else {}


def found_in(content: Mapping[str, Any]) -> list[Warned]:
    """The warnings in the JSON of an answer, or of all predictions of a batch."""
    predictions = content.get("predictions")
    if predictions is None:
        return _found(content, content) if "warnings" in content else []
    return [each for row in predictions if "warnings" in row for each in _found(row, content)]


def headers(warned: Iterable[Warned]) -> list[Header]:
    """The header that names the codes of an answer, each once; none without warnings."""
    codes = dict.fromkeys(each.code for each in warned)
    return [(HEADER, ", ".join(codes).encode())] if codes else []


def codes_by_row(counts: int, *findings: Sequence[Sequence[str]]) -> list[list[str]]:
    """The codes of `counts` rows from several findings, each either empty or one sequence a row."""
    rows: list[list[str]] = [[] for _ in range(counts)]
    for found in findings:
        for row, codes in zip(rows, found, strict=False):
            row.extend(codes)
    return rows


def as_parameter(rows: Sequence[Sequence[str]]) -> str:
    """The response parameter of the Open Inference Protocol: a JSON string with one list of codes for each row."""
    return json.dumps([list(row) for row in rows], separators=(",", ":"))


def _found(row: Mapping[str, Any], content: Mapping[str, Any]) -> list[Warned]:
    model: Mapping[str, Any] = row.get("model") or content["model"]
    return [Warned(model["name"], each["code"]) for each in row["warnings"]]
