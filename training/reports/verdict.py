"""What the gate said of a version and the figures it rests on, set into a report that was drawn before the verdict."""

from __future__ import annotations

from typing import Any

from models.manifest import GateVerdict
from training.reports.facts import name_of, value_of
from training.reports.html import Html, join, paragraph, section, table, tag
from training.reports.words import size

PLACE = Html("<!-- the gate's verdict -->")


def add(page: str, verdict: GateVerdict) -> str:
    """The page with the verdict in its place; as it is when it has no such place."""
    return page.replace(PLACE, draw(verdict), 1)


def draw(verdict: GateVerdict) -> Html:
    """The reasons as a list, then both versions' figures side by side."""
    said = "It passed the gate" if verdict.passed else "The gate refused it"
    beside = f", compared with live version {verdict.compared_with}" if verdict.compared_with else ""
    reasons = tag("ul", join(tag("li", reason) for reason in verdict.reasons))
    rows = _rows(verdict.figures)
    parts = [paragraph(f"{said}{beside}."), reasons]
    if rows:
        live = f"live version {verdict.compared_with}" if verdict.compared_with else "live version"
        parts.append(table("What the verdict rests on.", ["figure", "this version", live, "bound"], rows))
    return section("What the gate said", *parts)


def _rows(figures: dict[str, Any]) -> list[list[str]]:
    metric, floor, margin = figures.get("metric"), figures.get("floor"), figures.get("margin")
    validation, times = figures.get("validation") or {}, figures.get("latency_ms") or {}
    new, old = validation.get("candidate") or {}, validation.get("live") or {}
    rows = []
    for name, value in new.items():
        bound = ""
        if name == metric and floor is not None:
            bound = f"floor {value_of(name, floor)}" + ("" if margin is None else f", margin {margin:g}")
        rows.append(
            [
                f"{name_of(name)}, validation",
                value_of(name, value),
                value_of(name, old[name]) if name in old else "",
                bound,
            ]
        )
    for key, words in (("parity", "Torch and ONNX Runtime differ by"), ("self_test", "The golden sample differs by")):
        if (found := figures.get(key)) and found["max_abs_diff"] is not None:
            rows.append([words, f"{found['max_abs_diff']:.1e}", "", f"{found['tolerance']:.0e}"])
    if found := figures.get("bytes"):
        rows.append(
            ["Size", size(found["candidate"]), size(found["live"]) if "live" in found else "", size(found["limit"])]
        )
    rows += [
        [f"Latency of {name}, one thread", f"{found['candidate']:.3g} ms", _ms(found.get("live")), ""]
        for name, found in times.items()
    ]
    return rows


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"
