"""What the gate said of a version and the figures it rests on, set into a report that was drawn before the verdict."""

from __future__ import annotations

from typing import Any

from models.manifest import GateVerdict
from training.reports.facts import name_of, value_of
from training.reports.html import Html, join, paragraph, section, table, tag, text
from training.reports.words import size

PLACE = Html("<!-- the gate's verdict -->")


def add(page: str, verdict: GateVerdict) -> str:
    """The page with the verdict in its place; as it is when it has no such place."""
    return page.replace(PLACE, draw(verdict), 1)


def draw(verdict: GateVerdict) -> Html:
    """The checks as a list, failed ones first, then both versions' figures side by side."""
    said = "It passed the gate" if verdict.passed else "The gate refused it"
    beside = f", compared with version {verdict.compared_with}" if verdict.compared_with else ""
    rows = _rows(verdict.figures)
    parts = [paragraph(f"{said}{beside}."), _checks(verdict)]
    if rows:
        number = verdict.figures.get("live_version")
        live = f"live version {number}" if number else "live version"
        parts.append(table("What the verdict rests on.", ["figure", "this version", live, "bound"], rows))
    return section("What the gate said", *parts)


def _checks(verdict: GateVerdict) -> Html:
    """Each check with a mark and a word; verdicts of earlier releases have sentences only."""
    if not verdict.checks:
        return tag("ul", join(tag("li", reason) for reason in verdict.reasons))
    lines = []
    for check in sorted(verdict.checks, key=lambda check: check.passed):
        mark = tag("strong", "✓ Passed" if check.passed else "✗ Failed")
        lines.append(tag("li", join([mark, Html(": "), text(check.detail)])))
    return tag("ul", join(lines))


def _rows(figures: dict[str, Any]) -> list[list[str]]:
    metric, floor = figures.get("metric"), figures.get("floor")
    validation, times = figures.get("validation") or {}, figures.get("latency_ms") or {}
    new, old = validation.get("candidate") or {}, validation.get("live") or {}
    rows = []
    for name, value in new.items():
        bound = f"floor {value_of(name, floor)}" if name == metric and floor is not None else ""
        rows.append(
            [
                f"{name_of(name)}, validation",
                value_of(name, value),
                value_of(name, old[name]) if name in old else "",
                bound,
            ]
        )
    if found := figures.get("loss"):
        theirs = f"{found['reference']:.5f} (reference version {found['version']})"
        bound = f"one standard error more, {found['standard_error']:.5f}"
        rows.append([f"Mean loss over {found['count']:,} {found['unit']}", f"{found['candidate']:.5f}", theirs, bound])
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
