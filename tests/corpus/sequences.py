"""Requests for texts and series: lengths, options, warnings, explanations, batches, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.corpus.calls import Call, both, post
from tests.server import EXAMPLES, shipped

ONE, MANY = "/predict/sequence", "/predict/sequence/batch"
HEADLINE = "Oil prices rise as supply fears grow"
TEXTS = {
    "headline": HEADLINE,
    "sports": "Champions lose the final after extra time, coach resigns",
    "technology": "New chip doubles the speed of phones, maker says",
    "world": "Ministers meet in Geneva for talks on a ceasefire",
    "one word": "stocks",
    "unknown words": "zxqv wrtk plmf gghh qqzz",
    "Chinese": "石油价格上涨",
    "emoji": "🎉🎉🎉 goal goal goal",
    "with lines": "Oil prices\nrise\tas supply  fears grow",
    "capitals": HEADLINE.upper(),
    "long": " ".join([HEADLINE] * 40),
    "longer": " ".join([HEADLINE] * 300),
}


@cache
def week() -> dict[str, Any]:
    """The example of the documents: 168 hours."""
    return dict(json.loads((EXAMPLES / "week.json").read_bytes()))


def series(rows: int | None = None, **cells: float | None) -> dict[str, Any]:
    """The week, cut or grown to so many rows; `r5c6` sets a reading."""
    values = [list(row) for row in week()["values"]]
    values = (values * 30)[:rows] if rows is not None else values
    for place, value in cells.items():
        row, column = place[1:].split("c")
        values[int(row)][int(column)] = value  # type: ignore[call-overload]
    return {"values": values, "start": week()["start"]}


def requests() -> Iterator[Call]:
    """All of them."""
    for call in (*_texts(), *_series(), *_options(), *_batches()):
        yield from both(call)
    yield from _explanations()


def _texts() -> Iterator[Any]:
    for name, text in TEXTS.items():
        yield post(f"text {name}", ONE, {"text": text})
    for name, content in {
        "empty": "", "blank": "  \n ", "a null character": "\x00", "too long": "word " * 4001, "null": None,
        "number": 7, "a list": ["a"], "signs alone": "?!", "half a surrogate": "\ud800",
    }.items():  # fmt: skip
        yield post(f"text wrong, {name}", ONE, {"text": content})


def _series() -> Iterator[Any]:
    hours = len(week()["values"])
    yield post("series week", ONE, week())
    yield post("series without a start", ONE, {"values": week()["values"]})
    for rows in (0, 1, 10, 24, 96, 167, 169, 400, 4096, 4097):
        yield post(f"series of {rows} rows", ONE, series(rows))
    for name, cells in {
        "one null": {"r5c6": None},
        "six nulls": {f"r{row}c6": None for row in range(20, 26)},
        "seven nulls": {f"r{row}c6": None for row in range(20, 27)},
        "a null in the end": {f"r{hours - 1}c6": None},
        "a marker": {"r5c6": -999.0},
        "a large marker": {"r9c0": 1e20},
        "implausible": {"r5c6": 100.0},
        "far out": {"r5c6": 5000.0},
        "a text": {"r5c6": "30"},
        "true": {"r5c6": True},
        "larger than a float": {"r5c6": 1e300},
    }.items():
        yield post(f"series with {name}", ONE, series(**cells))
        if name in {"a marker", "implausible", "far out", "a large marker"}:
            yield post(f"series accepted, {name}", ONE, {**series(**cells), "accept_implausible": True})
    for name, start in {
        "a day": "2018-06-01", "a zone": "2018-06-01T00:00:00+02:00", "UTC": "2018-06-01T00:00:00Z",
        "no date": "yesterday", "a number": 5, "null": None, "the last year": "9999-12-31T23:00:00",
        "half an hour": "2018-06-01T00:30:00",
    }.items():  # fmt: skip
        yield post(f"series start is {name}", ONE, {**week(), "start": start})
    for name, values in {
        "ragged": [*week()["values"][:-1], [1.0]], "narrow": [[1.0]] * hours, "flat": [1.0] * hours, "text": "1,2,3",
        "null": None, "wide": [[1.0] * 8] * hours,
    }.items():  # fmt: skip
        yield post(f"series {name}", ONE, {"values": values})
    raw = json.dumps(week()).encode()
    yield post("series with NaN", ONE, raw.replace(b"[[", b"[[NaN, ", 1), content_type="application/json")
    yield post("series with Infinity", ONE, raw.replace(b"[[", b"[[Infinity, ", 1), content_type="application/json")
    yield post("series in another spelling", ONE, json.dumps(week(), indent=2).encode(),
               content_type="application/json; charset=utf-8")  # fmt: skip


def _options() -> Iterator[Any]:
    topic, lstm = shipped("topic-transformer"), shipped("forecast-lstm")
    for name, more in {
        "version": {"version": topic}, "other model": {"model": "topic-gru"}, "image model": {"model": "digit-cnn"},
        "series model": {"model": "forecast-lstm"}, "unknown model": {"model": "nobody"}, "version 99": {"version": 99},
        "version a text": {"version": "1"}, "version true": {"version": True}, "explain a text": {"explain": "yes"},
        "unknown field": {"extra": 1}, "values too": {"values": [[1.0] * 7]}, "start": {"start": "2018-06-01"},
    }.items():  # fmt: skip
        yield post(f"option of a text, {name}", ONE, {"text": HEADLINE, **more})
    for name, more in {
        "version": {"version": lstm}, "other model": {"model": "forecast-transformer"},
        "gru": {"model": "forecast-gru"}, "text model": {"model": "topic-lstm"},
        "accept a text": {"accept_implausible": "yes"}, "unknown": {"extra": 1},
    }.items():  # fmt: skip
        yield post(f"option of a series, {name}", ONE, {**week(), **more})
    for name, data, kind in (
        ("nothing", b"", "application/json"),
        ("null", b"null", "application/json"), ("a list", b"[]", "application/json"),
        ("empty object", b"{}", "application/json"),
        ("cut", b'{"text": "a', "application/json"),
        ("no UTF-8", b'{"text": "\xff"}', "application/json"), ("deep", b"[" * 2000, "application/json"),
        ("a form", b"text=a", "application/x-www-form-urlencoded"), ("plain", b"a", "text/plain"),
        ("trailing", b'{"text": "a"} x', "application/json"), ("two", b'{"text":"a","text":"b"}', "application/json"),
    ):  # fmt: skip
        yield post(f"body {name}", ONE, data, content_type=kind)


def _batches() -> Iterator[Any]:
    mixed = [{"text": HEADLINE}, week(), {"text": TEXTS["sports"], "model": "topic-gru"}]
    yield post("inputs of texts", MANY, {"inputs": [{"text": text} for text in list(TEXTS.values())[:10]]})
    yield post("inputs of series", MANY, {"inputs": [series(rows) for rows in (96, 120, 168)]})
    yield post("inputs mixed", MANY, {"inputs": mixed})
    for name, inputs in {
        "none": [], "null": None, "a text": [HEADLINE], "a bad one": [{"text": HEADLINE}, {"text": ""}],
        "a bad series": [week(), series(1)], "257": [{"text": "a"}] * 257, "an unknown model": [
            {"text": "a"}, {"text": "a", "model": "nobody"}],
    }.items():  # fmt: skip
        yield post(f"inputs wrong, {name}", MANY, {"inputs": inputs})
    yield post("inputs under another name", MANY, {"items": mixed})
    yield post("inputs with warnings", MANY, {"inputs": [
        {"text": TEXTS["unknown words"]}, {"text": TEXTS["longer"]}, series(r5c6=None)]})  # fmt: skip


def _explanations() -> Iterator[Call]:
    yield post("explain text", ONE, {"text": HEADLINE, "explain": True})
    yield post("explain text of topic-gru", ONE, {"text": TEXTS["world"], "explain": True, "model": "topic-gru"})
    yield post("explain text of unknown words", ONE, {"text": TEXTS["unknown words"], "explain": True})
    yield post("explain series", ONE, {**week(), "explain": True})
    yield post("explain series of the transformer", ONE, {**week(), "explain": True, "model": "forecast-transformer"})
    yield post("explain inputs", MANY, {"inputs": [{"text": HEADLINE, "explain": True}, {"text": HEADLINE}]})
