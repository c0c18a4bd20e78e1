"""Model outputs to the JSON of API answers; labels, units and steps come from the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from models.manifest import Manifest
from service.batch import Answer
from service.engine import Array
from service.warnings import NOTHING, AnswerWarning, Findings, OutlierCheck, as_field, with_evidence
from service.wire import Header

PROBABILITIES = "probabilities"


def model_of(manifest: Manifest) -> dict[str, Any]:
    return {"name": manifest.name, "version": manifest.version}


class Classifier:
    """Reads the outputs of one version of a classifier, which are found by name."""

    def __init__(self, manifest: Manifest) -> None:
        self.model = model_of(manifest)
        self.labels = manifest.labels
        self._outliers = OutlierCheck(manifest)
        self._doubts = manifest.doubt is not None
        self.place = place_of_probabilities(manifest)

    def digits(self, answer: Answer, findings: Sequence[Findings] = ()) -> list[dict[str, Any]]:
        """One prediction for each row, without its model; `findings` are those of the rows, or none at all."""
        probabilities = self.probabilities(answer, findings)
        best, confidence = probabilities.argmax(1).tolist(), probabilities.max(1)
        told: list[dict[str, Any]] = [
            {"digit": one, "confidence": sure, "probabilities": row}
            for one, sure, row in zip(best, confidence, probabilities, strict=True)
        ]
        if warnings := self.warnings(answer, findings):
            for row, mine in zip(told, warnings, strict=True):
                row.update(as_field(mine))
        return told

    def topic(self, answer: Answer, findings: Findings = NOTHING) -> dict[str, Any]:
        """The prediction for an answer of one row, with the probabilities by label."""
        (probabilities,) = self.probabilities(answer, (findings,))
        best = int(probabilities.argmax())
        told = {
            "label": self.labels[best],
            "confidence": probabilities[best],
            "probabilities": dict(zip(self.labels, probabilities, strict=True)),
            "model": self.model,
        }
        for warnings in self.warnings(answer, (findings,)):
            told |= as_field(warnings)
        return told

    def probabilities(self, answer: Answer, findings: Sequence[Findings] = ()) -> Array:
        """The probabilities float32 [rows, labels], after the evidence in `findings`."""
        given = answer.outputs[self.place]
        if not findings or not any(found.no_label for found in findings):
            return given
        return with_evidence(given, [found.no_label for found in findings])

    def warnings(self, answer: Answer, findings: Sequence[Findings] = ()) -> list[list[AnswerWarning]]:
        """The warnings of each row; an empty list where no row has one."""
        outliers = self._outliers.rows(answer.outputs) if self._doubts else []
        if not outliers and not (findings and any(found.warnings for found in findings)):
            return []
        rows = zip_longest(findings, outliers)
        return [[*(found.warnings if found else ()), *([outlier] if outlier else ())] for found, outlier in rows]


def place_of_probabilities(manifest: Manifest) -> int:
    """The place of a classifier's probabilities among the outputs of its graph."""
    names = [spec.name for spec in manifest.outputs]
    return names.index(PROBABILITIES) if PROBABILITIES in names else 0


def forecast(
    outputs: Sequence[Array], times: list[str], manifest: Manifest, findings: Findings = NOTHING
) -> dict[str, Any]:
    """Outputs `mean`, `lower` and `upper`, each float32 [horizon], in the target's unit.

    The distance of both limits from the mean grows by `findings.widening`.
    """
    series = manifest.series
    if series is None:
        raise TypeError(f"{manifest.name} is no series model")
    by_name = {spec.name: output for spec, output in zip(manifest.outputs, outputs, strict=True)}
    mean, lower, upper = by_name["mean"], by_name["lower"], by_name["upper"]
    if (factor := findings.widening) is not None:
        lower, upper = mean - factor * (mean - lower), mean + factor * (upper - mean)
    return {
        "target": series.target,
        "horizon": series.horizon,
        "times": times,
        "mean": mean,
        "lower": lower,
        "upper": upper,
        "level": series.level,
        "model": model_of(manifest),
        **as_field(findings.warnings),
    }


def explaining_headers(answers: Sequence[Answer]) -> list[Header]:
    """How the answer came about; for a request of several batches the slowest times and the largest batch."""
    if len(answers) == 1:
        (answer,) = answers
        version, provider = str(answer.version), answer.provider
        queue_ms, run_ms, rows = answer.queue_ms, answer.run_ms, answer.batch_rows
    else:
        version = ", ".join(dict.fromkeys(str(answer.version) for answer in answers))
        provider = ", ".join(dict.fromkeys(answer.provider for answer in answers))
        queue_ms, run_ms = max(answer.queue_ms for answer in answers), max(answer.run_ms for answer in answers)
        rows = max(answer.batch_rows for answer in answers)
    return [
        (b"x-model-version", version.encode()),
        (b"x-queue-ms", b"%.3f" % queue_ms),
        (b"x-run-ms", b"%.3f" % run_ms),
        (b"x-batch-rows", b"%d" % rows),
        (b"x-provider", provider.encode()),
    ]
