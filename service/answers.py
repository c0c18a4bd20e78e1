"""Model outputs to the JSON of API answers; labels, units and steps come from the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.manifest import Manifest
from service.batch import Answer
from service.engine import Array
from service.wire import Header


def model_of(manifest: Manifest) -> dict[str, Any]:
    return {"name": manifest.name, "version": manifest.version}


def digits(probabilities: Array) -> list[dict[str, Any]]:
    """One for each row of probabilities float32 [rows, 10], in the order of the digits."""
    best, confidence = probabilities.argmax(1).tolist(), probabilities.max(1)
    return [
        {"digit": one, "confidence": sure, "probabilities": row}
        for one, sure, row in zip(best, confidence, probabilities, strict=True)
    ]


def topic(probabilities: Array, manifest: Manifest) -> dict[str, Any]:
    """Probabilities float32 [classes], in the order of the manifest's labels."""
    best = int(probabilities.argmax())
    return {
        "label": manifest.labels[best],
        "confidence": probabilities[best],
        "probabilities": dict(zip(manifest.labels, probabilities, strict=True)),
        "model": model_of(manifest),
    }


def forecast(outputs: Sequence[Array], times: list[str], manifest: Manifest) -> dict[str, Any]:
    """Outputs `mean`, `lower` and `upper`, each float32 [horizon], in the target's unit."""
    series = manifest.series
    if series is None:
        raise TypeError(f"{manifest.name} is no series model")
    by_name = {spec.name: output for spec, output in zip(manifest.outputs, outputs, strict=True)}
    return {
        "target": series.target,
        "horizon": series.horizon,
        "times": times,
        "mean": by_name["mean"],
        "lower": by_name["lower"],
        "upper": by_name["upper"],
        "level": series.level,
        "model": model_of(manifest),
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
