"""Bad input over real HTTP: always the contract's status and shape, never a 5xx, and the service lives on."""

import base64
import json
import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from tests.server import EXAMPLES, shipped

SEVEN = (EXAMPLES / "seven.png").read_bytes()
WEEK = json.loads((EXAMPLES / "week.json").read_text())
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def png_header(width, height):
    """A PNG that promises a size and holds nothing."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def blank():
    out = BytesIO()
    Image.new("L", (64, 64), 200).save(out, "PNG")
    return out.getvalue()


def series(**changes):
    return json.dumps({**WEEK, **changes})


def values(row=3, column=2, value=None, rows=None):
    table = [list(each) for each in WEEK["values"][: rows or 168]]
    table[row][column] = value
    return table


CASES = {
    "not an image": ("/predict/digit", b"hello", PNG, 400, "unreadable_image"),
    "truncated PNG": ("/predict/digit", SEVEN[:120], PNG, 400, "unreadable_image"),
    "empty body": ("/predict/digit", b"", PNG, 400, "unreadable_image"),
    "a 900-megapixel header": ("/predict/digit", png_header(30_000, 30_000), PNG, 422, "image_too_large"),
    "blank image": ("/predict/digit", blank(), PNG, 422, "blank_image"),
    "wrong media type": ("/predict/digit", b"7", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    "no media type": ("/predict/digit", SEVEN, {}, 415, "unsupported_media_type"),
    "form without boundary": ("/predict/digit", SEVEN, {"Content-Type": "multipart/form-data"}, 400, "unreadable_form"),
    "body over the limit": ("/predict/digit", bytes(11 * 2**20), PNG, 413, "body_too_large"),
    "broken base64": ("/predict/digit", b'{"image": "@@@"}', JSON, 422, "unreadable_image"),
    "base64 of no image": (
        "/predict/digit",
        json.dumps({"image": base64.b64encode(b"hello").decode()}),
        JSON,
        422,
        "unreadable_image",
    ),
    "pixel rows missing": ("/predict/digit", json.dumps({"pixels": [[0] * 28] * 27}), JSON, 422, "invalid_input"),
    "pixel out of range": ("/predict/digit", json.dumps({"pixels": [[256] * 28] * 28}), JSON, 422, "invalid_input"),
    "pixel is true": ("/predict/digit", json.dumps({"pixels": [[True] * 28] * 28}), JSON, 422, "invalid_input"),
    "empty object": ("/predict/digit", b"{}", JSON, 422, "invalid_input"),
    "image and pixels": ("/predict/digit", b'{"image": "", "pixels": []}', JSON, 422, "invalid_input"),
    "unknown field": ("/predict/digit", b'{"picture": ""}', JSON, 422, "invalid_input"),
    "broken JSON": ("/predict/digit", b'{"pixels": [', JSON, 400, "unreadable_json"),
    "deep JSON": ("/predict/sequence", b"[" * 100_000, JSON, 400, "unreadable_json"),
    "deep JSON with NaN": ("/predict/sequence", b"[" * 100_000 + b"NaN", JSON, 400, "unreadable_json"),
    "bad UTF-8": ("/predict/sequence", b'{"text": "\xff\xfe"}', JSON, 400, "unreadable_json"),
    "a list": ("/predict/sequence", b"[]", JSON, 422, "invalid_input"),
    "empty sequence object": ("/predict/sequence", b"{}", JSON, 422, "invalid_input"),
    "empty text": ("/predict/sequence", b'{"text": ""}', JSON, 422, "empty_text"),
    "blank text": ("/predict/sequence", b'{"text": " \\n\\t "}', JSON, 422, "empty_text"),
    "text is a number": ("/predict/sequence", b'{"text": 7}', JSON, 422, "invalid_text"),
    "a megabyte of text": ("/predict/sequence", json.dumps({"text": "news " * 200_000}), JSON, 422, "text_too_long"),
    "text as form": ("/predict/sequence", b"text=hello", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
    "explain is a word": ("/predict/sequence", b'{"text": "hi", "explain": "yes"}', JSON, 422, "invalid_input"),
    "explain is a number": ("/predict/sequence", b'{"text": "hi", "explain": 1}', JSON, 422, "invalid_input"),
    "explain a picture, perhaps": ("/predict/digit?explain=perhaps", SEVEN, PNG, 422, "invalid_input"),
    "explain too many texts": (
        "/predict/sequence/batch",
        json.dumps({"inputs": [{"text": "hi", "explain": True}] * 17}),
        JSON,
        422,
        "too_many_items",
    ),
    "explain too many pictures": (
        "/predict/digit/batch?explain=1",
        json.dumps({"pixels": [[[0] * 14 + [255] * 14] * 28] * 17}),
        JSON,
        422,
        "too_many_items",
    ),
    "empty series": ("/predict/sequence", series(values=[]), JSON, 422, "series_too_short"),
    "short series": ("/predict/sequence", series(values=WEEK["values"][:5]), JSON, 422, "series_too_short"),
    "long series": ("/predict/sequence", series(values=WEEK["values"] * 30), JSON, 422, "series_too_long"),
    "wide series": (
        "/predict/sequence",
        series(values=[[*row, 1.0] for row in WEEK["values"]]),
        JSON,
        422,
        "invalid_series",
    ),
    "ragged series": ("/predict/sequence", series(values=[*WEEK["values"], [1.0]]), JSON, 422, "invalid_series"),
    "NaN": ("/predict/sequence", series(values=values(value=float("nan"))), JSON, 422, "invalid_series"),
    "Infinity": ("/predict/sequence", series(values=values(value=float("inf"))), JSON, 422, "invalid_series"),
    "1e400": ("/predict/sequence", series().replace("12.257", "1e400", 1), JSON, 422, "invalid_series"),
    "a word": ("/predict/sequence", series(values=values(value="warm")), JSON, 422, "invalid_series"),
    "the word null": ("/predict/sequence", series(values=values(value="null")), JSON, 422, "invalid_series"),
    "a week of nulls": ("/predict/sequence", series(values=[[None] * 7] * 168), JSON, 422, "missing_values"),
    "a marker": ("/predict/sequence", series(values=values(value=-9999)), JSON, 422, "implausible_values"),
    "wrong start": ("/predict/sequence", series(start="yesterday"), JSON, 422, "invalid_start"),
    "no start": ("/predict/sequence", json.dumps({"values": WEEK["values"]}), JSON, 422, "invalid_start"),
    "text and values": ("/predict/sequence", series(text="hello"), JSON, 422, "invalid_input"),
    "unknown model": ("/predict/digit?model=digit-gan", SEVEN, PNG, 404, "model_not_found"),
    "a path for a model": ("/predict/digit?model=../zoo", SEVEN, PNG, 404, "model_not_found"),
    "another kind's model": ("/predict/digit?model=topic-transformer", SEVEN, PNG, 422, "wrong_kind"),
    "unknown version": ("/predict/digit?version=99", SEVEN, PNG, 404, "version_not_found"),
    "version zero": ("/predict/digit?version=0", SEVEN, PNG, 422, "invalid_input"),
    "version of words": ("/predict/digit?version=newest", SEVEN, PNG, 422, "invalid_input"),
    "endless version": (f"/predict/digit?version={'9' * 5000}", SEVEN, PNG, 422, "invalid_input"),
    "unknown text model": ("/predict/sequence", b'{"text": "hi", "model": "x"}', JSON, 404, "model_not_found"),
    "unknown text version": ("/predict/sequence", b'{"text": "hi", "version": 99}', JSON, 404, "version_not_found"),
    "version is true": ("/predict/sequence", b'{"text": "hi", "version": true}', JSON, 422, "invalid_input"),
    "empty batch": ("/predict/digit/batch", b'{"images": []}', JSON, 422, "invalid_input"),
    "batch too large": ("/predict/digit/batch", json.dumps({"images": ["x"] * 257}), JSON, 422, "too_many_items"),
    "sequence batch too large": (
        "/predict/sequence/batch",
        json.dumps({"inputs": [{}] * 257}),
        JSON,
        422,
        "too_many_items",
    ),
    "batch of a raw picture": ("/predict/digit/batch", SEVEN, PNG, 415, "unsupported_media_type"),
    "nowhere": ("/predict/letter", SEVEN, PNG, 404, "not_found"),
}


def check_problem(answer, status, code):
    """The answer is a problem of API.md's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["type"]
    assert body["title"]
    assert len(body["detail"]) > 10
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_a_problem_that_says_what_to_do(service, case):
    """Each wrong request gets its status, its code and a sentence; the next right one is answered."""
    path, content, headers, status, code = CASES[case]
    check_problem(service.client.post(path, content=content, headers=headers), status, code)
    assert service.client.post("/predict/digit", content=SEVEN, headers=PNG).json()["digit"] == 7


@pytest.mark.parametrize(
    ("path", "body", "loc"),
    [
        ("/predict/sequence", series(values=values(17, 3, float("nan"))), ["body", "values", 17, 3]),
        ("/predict/sequence", series(values=[*WEEK["values"], [1.0]]), ["body", "values", 168]),
        ("/predict/digit", json.dumps({"pixels": [[1] * 28] * 27 + [[1] * 27 + [-1]]}), ["body", "pixels", 27, 27]),
        (
            "/predict/sequence/batch",
            json.dumps({"inputs": [{"text": "hi"}, {"text": ""}]}),
            ["body", "inputs", 1, "text"],
        ),
    ],
)
def test_the_place_of_a_bad_value_is_named(service, path, body, loc):
    """`errors` points at the one wrong number among thousands."""
    answer = check_problem_422(service.client.post(path, content=body, headers=JSON))
    assert answer["errors"][0]["loc"] == loc


def check_problem_422(answer):
    assert answer.status_code == 422, answer.text
    return answer.json()


def test_one_bad_picture_of_a_batch_is_named(service):
    """Nothing of the batch is answered, and the index says which picture to mend."""
    files = [("file", ("a.png", SEVEN)), ("file", ("b.png", b"no picture")), ("file", ("c.png", SEVEN))]
    body = check_problem(service.client.post("/predict/digit/batch", files=files), 422, "unreadable_image")
    assert body["errors"][0]["loc"] == ["body", "file", 1]


def test_a_wrong_method_says_which_are_right(service):
    """405 with an Allow header."""
    answer = service.client.get("/predict/digit")
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"


def test_the_clients_request_id_is_kept_if_it_is_sane(service):
    """A good id comes back; one that could break a log line is replaced."""
    for given, kept in (("job-42.a:b", True), ("x" * 200, False), ("a b", False)):
        answer = service.client.get("/health/live", headers={"X-Request-ID": given})
        assert (answer.headers["x-request-id"] == given) is kept


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/models/digit-gan", None, 404, "model_not_found"),
        ("POST", "/models/digit-cnn/promote", {"version": 99}, 404, "version_not_found"),
        ("POST", "/models/digit-cnn/promote", {"version": "best"}, 422, "invalid_input"),
        ("POST", "/models/digit-cnn/promote", {}, 422, "invalid_input"),
        ("POST", "/models/digit-gan/promote", {"version": 1}, 404, "model_not_found"),
        ("POST", "/models/digit-cnn/rollback", None, 409, "nothing_to_roll_back"),
        ("POST", "/models/digit-gan/rollback", None, 404, "model_not_found"),
        ("DELETE", f"/models/digit-cnn/versions/{shipped('digit-cnn')}", None, 409, "version_live"),
        ("DELETE", "/models/digit-cnn/versions/99", None, 404, "version_not_found"),
        ("GET", "/models/digit-cnn/versions/99/report", None, 404, "version_not_found"),
    ],
)
def test_wrong_model_requests_change_nothing(service, method, path, body, status, code):
    """Each is refused with its reason, and the live version stays."""
    check_problem(service.client.request(method, path, json=body), status, code)
    assert service.client.get("/models/digit-cnn").json()["live"] == shipped("digit-cnn")


@pytest.mark.parametrize("kind", ["image/jpg", "image/jpeg", "image/webp", "image/x-png"])
def test_the_bytes_tell_what_a_picture_is(service, kind):
    """A misspelt or wrong picture type is no reason to refuse a picture."""
    answer = service.client.post("/predict/digit", content=SEVEN, headers={"Content-Type": kind})
    assert answer.json()["digit"] == 7
