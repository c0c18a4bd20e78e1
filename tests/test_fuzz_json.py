"""Spoilt JSON, texts and times, drawn by a seed and by hypothesis: rows of the model, or a refusal of our own.

Where there is a short way beside the general one, both must say the same. `test_fuzz.py` counts the inputs.
"""

import datetime as dt
import functools
import json
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.manifest import read_manifest
from service.decoding import DecodeQueue
from service.errors import ServiceError, attempt
from service.exchange import Ready, Request
from service.inputs import image, numbers, series
from service.inputs.text import TextEncoder
from service.oip.errors import refusal
from service.routes.digit import Digit, DigitBatch
from service.routes.sequence import SequenceBatch, Sequences
from service.settings import Settings
from service.slot import Loaded
from service.wire import parse_json
from tests.fuzzing import INPUTS, base64_of, opened, spoil, strange_json
from tests.server import EXAMPLES, ROOT, shipped
from tests.test_oip_fuzz import check, seeds, spoil_bytes, spoil_fields

pytestmark = pytest.mark.slow

JSON = b"application/json"
NUMBERS = [-1, 0, 255, 256, 2**31, 2**63, 2**64, 10**30, 1e308, -1e30, 0.5, float("nan"), float("inf")]
STRANGE = [None, True, "", "x", "\0", "\ud800", "7", [], {}, [[]], [[1, 2], [3]], [0] * 28, *NUMBERS]
PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\0",
    b"\xff",
    b"NaN",
    b"1e999",
    b"-",
    b'"pixels":',
    b"9" * 30,
)
OTHER_NUMBERS = (
    b"0 -0 7 255 256 1.5 -0.0 4.35 1e3 1E-400 2e308 1e22 9007199254740993 18446744073709551615 01 1. .5".split()
)
OTHER_NUMBERS += [b"18446744073709551616", b"-9223372036854775809", b"3.141592653589793238462643383279", b"NaN", b"+1"]
DRAWN = settings(
    max_examples=600, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def manifest_of(name):
    return read_manifest(ROOT / "models" / "zoo" / name / str(shipped(name)))


TOPIC, FORECAST = manifest_of("topic-transformer"), manifest_of("forecast-lstm")
TOKENIZER = ROOT / "models" / "zoo" / "topic-transformer" / str(TOPIC.version) / "tokenizer.json"
ENCODER, WHOLE = TextEncoder(TOKENIZER, TOPIC.text), Tokenizer.from_file(str(TOKENIZER))
WEEK = json.loads((EXAMPLES / "week.json").read_text("utf-8"))
HEADLINE = json.loads((EXAMPLES / "headline.json").read_text("utf-8"))
SEVEN = (EXAMPLES / "seven.png").read_bytes()
DAY = WEEK["values"][:24]


class Zoo:
    """Stands for the registry: the default models, without their engines."""

    def at_once(self, kind):
        manifest, encoder = (TOPIC, ENCODER) if kind == "text" else (FORECAST, None)
        return SimpleNamespace(batcher=None), Loaded(SimpleNamespace(manifest=manifest), encoder)


@pytest.fixture
def book(tmp_path):
    """The account of a decoder, and the draws of its inputs."""
    return functools.partial(opened, tmp_path)


ONE, MANY, LONE, SERIES = (
    kind(Zoo(), Settings(), DecodeQueue(Settings())) for kind in (Digit, DigitBatch, Sequences, SequenceBatch)
)


def answered(found):
    """What a short way says: its rows, or its error raised as the routes do."""
    if isinstance(found, ServiceError):
        assert refusal(found, "/predict", "id").body
        assert refusal(found, "/v2", "id").body
        raise found
    return found


def test_json_of_the_digit_routes(book):
    """Pixels and base64, one and many: from the body's bytes to rows."""
    account, draw = book("digit json")
    grid, text = image.from_bytes(SEVEN).tolist(), base64_of(random.Random(1), SEVEN)
    good = [(ONE, {"pixels": grid}), (ONE, {"image": text}), (MANY, {"pixels": [grid]}), (MANY, {"images": [text] * 3})]

    def rows(given):
        route, body = given
        return answered(route._rows_at_once([Request(JSON, body)])[0])

    bodies = [json.dumps(content).encode() for _, content in good]
    while account.count < INPUTS["digit json"]:
        at = draw.randrange(len(good))
        body = (
            strange_json(draw, good[at][1], STRANGE) if draw.random() < 0.4 else spoil(draw, bodies[at], bodies, PIECES)
        )
        found = account.run(rows, (good[at][0], body))
        if isinstance(found, np.ndarray):
            assert (found.shape[1:], found.dtype) == ((28, 28), np.uint8)
    account.close(inputs=INPUTS["digit json"])


def test_json_of_the_sequence_routes(book):
    """Texts and series, one and many: from the body's bytes to the tensors of a row."""
    account, draw = book("sequence json")
    day = {"values": DAY, "start": WEEK["start"]}
    good = [HEADLINE, day, {"inputs": [HEADLINE, day]}, {**HEADLINE, "explain": True, "model": "a", "version": 1}]

    def rows(body):
        content = parse_json(body)
        if isinstance(content, dict) and isinstance(items := content.get("inputs"), list):
            asked = [SERIES._asked(item, ("body", "inputs", at)) for at, item in enumerate(items)]
            return [SERIES._decode(*LONE.registry.at_once(each.kind), each, ("body", "inputs")).part for each in asked]
        found = answered(LONE.at_once([Request(JSON, body)])[0])
        return [found.part] if isinstance(found, Ready) else []

    bodies = [json.dumps(content).encode() for content in good]
    while account.count < INPUTS["sequence json"]:
        at = draw.randrange(len(good))
        body = strange_json(draw, good[at], STRANGE) if draw.random() < 0.5 else spoil(draw, bodies[at], bodies, PIECES)
        found = account.run(rows, body)
        for part in found if isinstance(found, list) else ():
            assert all(np.isfinite(array).all() for array in part.inputs.values())
    account.close(inputs=INPUTS["sequence json"])


def test_numbers_read_in_the_short_way(book):
    """The simdjson reader gives what the general parser gives, and the same refusal follows from both."""
    account, draw = book("numbers", (ServiceError, ValueError))
    grid = json.dumps({"pixels": [[draw.randrange(256) for _ in range(28)] for _ in range(28)], "a": [1]}).encode()
    rows = json.dumps({"start": WEEK["start"], "values": DAY}).encode()
    few = [b'{"pixels":[[1,2],[3,4]],"b":"x,]"}', b'{"values":[[1.5,-2e3],[0,4]]}', b'{"pixels":[[[1],[2]]]}']
    good = [grid, rows, *few, *few]

    def both(body):
        key, of = ("pixels", "u") if b'"pixels"' in body else ("values", "d")
        read = numbers.read(body, key, of)
        if read is None:
            raise ValueError("left to the general parser")
        content = parse_json(body)
        assert content == {key: content[key], **read[1]}
        assert np.array_equal(read[0], np.array(content[key], read[0].dtype)), "other numbers"
        if key == "pixels":
            ways = [attempt(image.from_pixels, value) for value in (read[0], content[key])]
        else:
            start = content.get("start")
            ways = [attempt(series.parse, value, start, FORECAST.series) for value in (read[0], content[key])]
        said = [(each.detail, each.errors) if isinstance(each, ServiceError) else None for each in ways]
        assert said[0] == said[1], said
        return read

    def other_number(_):
        return draw.choice(OTHER_NUMBERS)

    while account.count < INPUTS["numbers"]:
        body = draw.choice(good)
        if draw.random() < 0.5:
            body = re.sub(rb"-?[0-9][0-9.e-]*(?=[\],])", other_number, body, count=draw.choice((1, 1, 3)))
        account.run(both, spoil(draw, body, good, PIECES) if draw.random() < 0.5 else body)
    account.close(inputs=INPUTS["numbers"])


def test_texts(book):
    """Ids, the same word by word as by the whole tokenizer, or a refusal."""
    account, draw = book("text")
    words = [
        "Oil",
        "AT&T",
        "&amp;",
        "&#39;",
        "<b>",
        "\\",
        "U.S.",
        "\u00e9",
        "\u200b",
        "\0",
        "\U0001f600",
        "\ud800",
        "\u202e",
        "a\u0301",
    ]
    words += ["$5.2m", "_x", "\t", "\x85", "&lt;", "1e9", "\ufeff", "x" * 300, "don't", "\u0130", "\u1e9e", "\uff21"]

    def ids(text):
        found = ENCODER.encode(text)
        expected = WHOLE.encode(text, add_special_tokens=False).ids[: TOPIC.text.max_length]
        assert found.tolist() == expected
        return found

    while account.count < INPUTS["text"]:
        text = draw.choice((" ", "", " ")).join(draw.choices(words, k=draw.choice((0, 1, 2, 5, 30))))
        if draw.random() < 0.4:
            text = spoil(draw, HEADLINE["text"].encode(), [text.encode("utf-8", "surrogatepass")]).decode(
                "utf-8", "replace"
            )
        account.run(ids, draw.choice((text, text, text, text * 40)))
    account.close(inputs=INPUTS["text"])


def test_infer_requests(book):
    """The protocol's JSON and binary tensors, by bytes and by fields."""
    account, draw = book("infer")
    good = seeds()
    while account.count < INPUTS["infer"]:
        name, head, tail = draw.choice(good)
        body, length = draw.choice((spoil_bytes, spoil_fields))(draw, head, tail)
        account.run(lambda given: check(*given), (name, body, length))
    account.close(inputs=INPUTS["infer"])


def test_starts_of_forecasts(book):
    """A time and what follows from it, or a refusal; from the year 1 to 9999."""
    account, draw = book("start")
    good = ["2018-06-01T00:00:00", "2018-06-01T00:00:00Z", "9999-12-31T23:00:00+00:00", "0001-01-01T00:00:00-23:59"]
    good += ["20180601T000000,5", "2018-W22-5T10", "0001-01-01T00:00:00+23:59", "2018-06-01t00:00:00.999999z"]
    written = [text.encode() for text in good]
    pieces = (b"Z", b"+", b"-", b":", b"T", b" ", b".", b"24", b"\xd9\xa3", b"\0", b"W", b"99")
    while account.count < INPUTS["start"]:
        start = spoil(draw, draw.choice(written), written, pieces).decode("utf-8", "replace")
        start = draw.choice((start, start, start, draw.choice(good), draw.choice(STRANGE)))
        found = account.run(lambda given: series.parse(DAY, given, FORECAST.series), start)
        if not isinstance(found, ServiceError):
            assert len(found.times) == FORECAST.series.horizon
            assert 0 <= found.hour_of_week < 168
            assert all(dt.datetime.fromisoformat(time) for time in found.times)
    account.close(inputs=INPUTS["start"])


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["text", "values", "start", "model", "version", "explain", "image", "pixels", "images", "inputs"]
)


@DRAWN
@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=4))
@example({"text": "\ud800", "version": float("nan")})
def test_any_json_at_all(content):
    """Whatever values the known fields have, every route of predictions takes it or refuses it with its own error."""
    body = json.dumps(content).encode()
    for route in (ONE, MANY):
        found = route._rows_at_once([Request(JSON, body)])
        assert all(each is None or isinstance(each, np.ndarray | ServiceError) for each in found)
    found = LONE.at_once([Request(JSON, body)])
    assert all(each is None or isinstance(each, Ready | ServiceError) for each in found)
    assert all(refusal(each, "/predict", "id").body for each in found if isinstance(each, ServiceError))


@DRAWN
@given(st.text(max_size=400))
def test_any_text_at_all(text):
    """The same ids word by word as by the whole tokenizer, for any characters there are."""
    found = attempt(ENCODER.encode, text)
    if isinstance(found, np.ndarray):
        assert found.tolist() == WHOLE.encode(text, add_special_tokens=False).ids[: TOPIC.text.max_length]


@DRAWN
@given(st.datetimes(timezones=st.none() | st.timezones()) | st.text(max_size=40))
def test_any_start_at_all(start):
    """Every moment and offset that Python can write."""
    found = attempt(series.parse, DAY, start if isinstance(start, str) else start.isoformat(), FORECAST.series)
    assert isinstance(found, ServiceError) or len(found.times) == FORECAST.series.horizon
