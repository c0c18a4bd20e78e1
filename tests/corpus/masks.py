"""What of an answer is not compared: the list of masks; and the comparison of the rest.

All text is compared byte for byte but for numbers with a fraction: those may differ by the last bits that another CPU
gives. What is masked:

- ids that the service draws: requests, jobs; the `Date` header; points in time since 2020 in UTC;
- the service's address and its state folder;
- times it took: `X-Queue-Ms`, `X-Run-Ms`, and fields of JSON named in `_TIMES`;
- the reason phrases of 413 and 422, which Python renamed;
- the PNG in an explanation, compared by its pixels; the text, tag and date of pages;
- the values of metrics, and all of GPUs; the text of what comes compressed.
"""

from __future__ import annotations

import base64
import difflib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image

from tests.corpus.calls import Call, Http
from tests.corpus.wire import Answer

_TIMES = "latency_ms_mean|latency_ms_p50|latency_ms_p99|queue_ms_mean|run_ms_per_row"
_MASKS = [
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"(?<![.\w])(?:[0-9a-f]{16}|[0-9a-f]{32})\b"), "<id>"),
    (re.compile(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "<time>"),
    (re.compile(rf'("(?:{_TIMES})": ?"?)[\d.e+-]+'), r"\1<number>"),
    (re.compile(r"Unprocessable Entity"), "Unprocessable Content"),
    (re.compile(r"Request Entity Too Large"), "Content Too Large"),
]
_PICTURE = re.compile(r'("input":")([A-Za-z0-9+/=]+)(")')
_MASKED_HEADERS = {"date", "x-queue-ms", "x-run-ms"}
_PAGE_HEADERS = {"etag", "content-length", "last-modified"}
_WIDEST = 1_000
_NUMBER = re.compile(r"-?\d+\.\d+(?:[eE][+-]?\d+)?|-?\d+[eE][+-]?\d+")
_LAST_PLACE = 1.01e-4
"""One unit of the last place of weights in explanations, which are rounded to four decimals."""


def masked(call: Call, answer: Answer, known: Mapping[str, str]) -> Answer:
    """An answer without what differs from run to run; `known` are texts of this run by their name."""
    view = call.view if isinstance(call, Http) and answer.status.startswith("200") else "all"
    headers = [(name, _header(name, _text(value, known), view)) for name, value in answer.headers]
    body = _text(_PICTURE.sub(_pixels, answer.body), known)
    if view == "names":
        body = _names(body)
    elif view == "page" and body:
        body = "<page>"
    return replace(answer, status=_text(answer.status, known), headers=headers, body=body)


def difference(expected: Answer, got: Answer) -> str:
    """Nothing where two masked answers are the same, else the lines that differ."""
    told, came = _lines(expected), _lines(got)
    if len(told) == len(came) and all(_alike(*pair) for pair in zip(told, came, strict=True)):
        return ""
    lines = difflib.unified_diff(told, came, "expected", "got", lineterm="", n=1)
    return "\n".join(line if len(line) <= _WIDEST else f"{line[:_WIDEST]} …" for line in lines)


def _lines(answer: Answer) -> list[str]:
    headers = [f"{name}: {value}" for name, value in answer.headers]
    tensors = [" ".join(map(repr, each)) for each in answer.tensors]
    body = answer.body.replace("],[", "],\n[").replace('],"', '],\n"').replace('},"', '},\n"').splitlines()
    return [answer.status, *headers, "", *body, *tensors]


def _alike(one: str, other: str) -> bool:
    if one == other:
        return True
    return _NUMBER.sub("#", one) == _NUMBER.sub("#", other) and all(
        _close(*pair) for pair in zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    )


def _close(one: str, other: str) -> bool:
    numbers = [text.partition(".")[2] for text in (one, other)]
    rounded = abs(float(one)) <= 1 and all(len(digits) <= 4 and "e" not in digits for digits in numbers)
    absolute = _LAST_PLACE if rounded else 2e-6
    return math.isclose(float(one), float(other), rel_tol=1e-5, abs_tol=absolute)


def _text(text: str, known: Mapping[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(value, f"<{name}>")
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text


def _header(name: str, value: str, view: str) -> str:
    hidden = name in _MASKED_HEADERS or (view == "page" and name in _PAGE_HEADERS)
    return f"<{name}>" if hidden else value


def _pixels(found: re.Match[str]) -> str:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[2]))))
    return f"{found[1]}<{pixels.shape} of sum {int(pixels.sum())}>{found[3]}"


def _names(text: str) -> str:
    """The metrics of an exposition, without those of GPUs: families' kind and help, names of samples and labels."""
    named = {
        line if line.startswith("#") else re.sub(r'="[^"]*"', "", line.rsplit(" ", 1)[0]) for line in text.splitlines()
    }
    return "\n".join(sorted(line for line in named if "_gpu_" not in line))
