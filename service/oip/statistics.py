"""Triton's metric names, and `/stats`, from the service's own metrics: totals since the start, of all workers.

A request is counted here for each batch it took part in, by whatever door it came. Packing and scattering of rows are
part of the run; there is no cache.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import Metric

from models.manifest import Manifest

Key = tuple[str, str]
_LABELS = ["model", "version"]
_ALIASES = {
    "request_success": "Requests answered, once for each batch",
    "request_failure": "Requests not answered, by reason",
    "count": "Rows answered",
    "exec_count": "Batches run",
    "request_duration_us": "Waiting and running",
    "queue_duration_us": "Waiting",
    "compute_infer_duration_us": "Running, for every request the whole time of its batch",
    "pending_request_count": "Rows that wait now",
}


class Totals:
    """The figures of every model and version that has run, read once from the metric families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for family in families:
            for sample in family.samples:
                labels = sample.labels
                rest = tuple(value for name, value in sorted(labels.items()) if name not in _LABELS)
                place = (labels.get("model", ""), labels.get("version", ""), *rest)
                self._values[sample.name][place] = sample.value

    def keys(self) -> list[Key]:
        """The models and versions that have figures."""
        names = ("neuroserve_model_requests_total", "neuroserve_model_failures_total")
        return sorted({(place[0], place[1]) for name in names for place in self._values[name]})

    def of(self, name: str, key: Key) -> float:
        """One figure, the sum over further labels."""
        return sum(value for place, value in self._values[name].items() if place[:2] == key)

    def by(self, name: str, key: Key) -> dict[str, float]:
        """One figure for each value of its further label."""
        return {place[2]: value for place, value in self._values[name].items() if place[:2] == key}

    def waiting(self) -> dict[str, float]:
        """Rows that wait now, by model and live version."""
        live = {place[0]: value for place, value in self._values["neuroserve_live_version"].items()}
        rows = {place[0]: value for place, value in self._values["neuroserve_queue_rows"].items()}
        return {name: rows.get(name, 0.0) for name in live}

    def live(self, name: str) -> str:
        """The version of a model that answers."""
        return f"{self._values['neuroserve_live_version'].get((name, ''), 0):.0f}"


def aliases(own: Iterable[Metric]) -> list[Metric]:
    """The families under Triton's names, labelled by model and version; durations in microseconds."""
    totals = Totals(own)
    families = {name: Metric(f"nv_inference_{name}", text, "unknown") for name, text in _ALIASES.items()}

    def count(name: str, key: Key, value: float, **more: str) -> None:
        labels = {**dict(zip(_LABELS, key, strict=True)), **more}
        families[name].add_sample(f"nv_inference_{name}", labels, value)

    for key in totals.keys():  # noqa: SIM118
        figures = _figures(totals, key)
        count("request_success", key, figures["requests"])
        count("count", key, totals.of("neuroserve_rows_total", key))
        count("exec_count", key, totals.of("neuroserve_model_batches_total", key))
        count("request_duration_us", key, (figures["queue"] + figures["run"]) * 1e6)
        count("queue_duration_us", key, figures["queue"] * 1e6)
        count("compute_infer_duration_us", key, figures["run"] * 1e6)
        for reason, value in totals.by("neuroserve_model_failures_total", key).items():
            count("request_failure", key, value, reason=reason)
    for name, rows in totals.waiting().items():
        count("pending_request_count", (name, totals.live(name)), rows)
    return list(families.values())


def of_all(totals: Totals) -> dict[str, Any]:
    """The figures of every model and version that has run."""
    return {"model_stats": [statistics(totals, key) for key in totals.keys()]}  # noqa: SIM118


def of_model(totals: Totals, manifest: Manifest, versions: Sequence[int]) -> dict[str, Any]:
    """The figures of the manifest's version, and of those of `versions` that have run."""
    ran = {int(number) for model, number in totals.keys() if model == manifest.name}  # noqa: SIM118
    wanted = {manifest.version} | ran.intersection(versions)
    return {"model_stats": [statistics(totals, (manifest.name, str(number))) for number in sorted(wanted)]}


def statistics(totals: Totals, key: Key) -> dict[str, Any]:
    """One entry of `model_stats`; a version that has not run has zeros."""
    figures = _figures(totals, key)
    requests = figures["requests"]
    failed = totals.of("neuroserve_model_failures_total", key)
    batches = totals.by("neuroserve_model_batches_total", key)
    seconds = totals.by("neuroserve_model_batch_seconds_total", key)
    return {
        "name": key[0],
        "version": key[1],
        "last_inference": int(totals.of("neuroserve_last_inference_timestamp_seconds", key) * 1000),
        "inference_count": int(totals.of("neuroserve_rows_total", key)),
        "execution_count": int(sum(batches.values())),
        "inference_stats": {
            "success": _pair(requests, figures["queue"] + figures["run"]),
            "fail": _pair(failed, totals.of("neuroserve_model_failure_seconds_total", key)),
            "queue": _pair(requests, figures["queue"]),
            "compute_input": _pair(requests, 0),
            "compute_infer": _pair(requests, figures["run"]),
            "compute_output": _pair(requests, 0),
            "cache_hit": _pair(0, 0),
            "cache_miss": _pair(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": int(rows),
                "compute_input": _pair(batches[rows], 0),
                "compute_infer": _pair(batches[rows], seconds[rows]),
                "compute_output": _pair(batches[rows], 0),
            }
            for rows in sorted(batches, key=int)
        ],
        "memory_usage": [],
    }


def _figures(totals: Totals, key: Key) -> dict[str, float]:
    return {
        "requests": totals.of("neuroserve_model_requests_total", key),
        "queue": totals.of("neuroserve_model_queue_seconds_total", key),
        "run": totals.of("neuroserve_model_run_seconds_total", key),
    }


def _pair(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(seconds * 1e9)}
