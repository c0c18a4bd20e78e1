"""Warnings on every door: each code where it should be, once, and nowhere else."""

import json
from datetime import datetime, timedelta
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from models.store import Store
from neuroserve import cli
from neuroserve.client import Client as HttpClient
from neuroserve.client import ServiceError
from tests.artifacts import publish_doubting
from tests.server import EXAMPLES, Server
from tests.service.oip import infer, outputs
from tests.service.rpc import Client, arrays, request

NAME = "digit-cnn"
INFER = f"/v2/models/{NAME}/infer"
OUTLIER = "not_like_training_data"


class Told(NamedTuple):
    """What a door said of its rows: the codes and the probabilities of each, and the codes of the whole answer."""

    codes: list
    probabilities: list
    header: str | None


def bar(outlier):
    """A bar uint8 [28, 28] that the doubting test model calls no digit with this probability."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:24, 13:16] = 255
    pixels[14, 14] = round(255 * outlier)
    return pixels


def png(pixels):
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def told(answer):
    """What the JSON of `/predict` said."""
    assert answer.status_code == 200, answer.text
    content = answer.json()
    rows = content.get("predictions", [content])
    assert all(row["warnings"] for row in rows if "warnings" in row)
    codes = [[each["code"] for each in row.get("warnings", [])] for row in rows]
    assert all(each["detail"].endswith(".") for row in rows for each in row.get("warnings", []))
    return Told(codes, [row["probabilities"] for row in rows], answer.headers.get("X-Warnings"))


def told_by_tensors(answer):
    """What the Open Inference Protocol said over HTTP."""
    found, content = outputs(answer)
    probabilities = found["probabilities"]
    parameters = content.get("parameters")
    codes = json.loads(parameters["warnings"]) if parameters else [[]] * len(probabilities)
    return Told(codes, probabilities.tolist(), answer.headers.get("X-Warnings"))


def fast(server, pictures):
    return told(server.client.post("/predict/digit", json={"pixels": pictures[0].tolist()}))


def fast_file(server, pictures):
    return told(server.client.post("/predict/digit", content=png(pictures[0]), headers={"Content-Type": "image/png"}))


def asgi(server, pictures):
    return told(server.client.post("/predict/digit?version=1", json={"pixels": pictures[0].tolist()}))


def explained(server, pictures):
    return told(server.client.post("/predict/digit?explain=true", json={"pixels": pictures[0].tolist()}))


def batch(server, pictures):
    return told(server.client.post("/predict/digit/batch", json={"pixels": [each.tolist() for each in pictures]}))


def asgi_batch(server, pictures):
    body = {"pixels": [each.tolist() for each in pictures]}
    return told(server.client.post("/predict/digit/batch?version=1", json=body))


def file_batch(server, pictures):
    files = [("file", (f"{index}.png", png(each))) for index, each in enumerate(pictures)]
    return told(server.client.post("/predict/digit/batch", files=files))


def tensors(server, pictures, path=INFER, **options):
    return told_by_tensors(server.client.post(path, **infer({"pixels": np.array(pictures)}, **options)))


def tensors_as_json(server, pictures):
    return tensors(server, pictures, binary=False)


def tensors_both_ways(server, pictures):
    return tensors(server, pictures, binary_out=True)


def tensors_of_a_version(server, pictures):
    return tensors(server, pictures, f"/v2/models/{NAME}/versions/1/infer")


def rpc(server, pictures):
    with Client(server) as client:
        response, trailing = client.infer(request(NAME, {"pixels": np.array(pictures)}))
    said = response.parameters
    codes = json.loads(said["warnings"].string_param) if "warnings" in said else [[]] * len(pictures)
    return Told(codes, arrays(response)["probabilities"].tolist(), trailing.get("x-warnings"))


def streamed(server, pictures):
    with Client(server) as client:
        (answer,) = client.stream(iter([request(NAME, {"pixels": np.array(pictures)})]))
    response = answer.infer_response
    said = response.parameters
    codes = json.loads(said["warnings"].string_param) if "warnings" in said else [[]] * len(pictures)
    found = list(dict.fromkeys(code for row in codes for code in row))
    return Told(codes, arrays(response)["probabilities"].tolist(), ", ".join(found) or None)


ONE = [fast, fast_file, asgi, explained]
MANY = [batch, asgi_batch, file_batch, tensors, tensors_as_json, tensors_both_ways, tensors_of_a_version, rpc, streamed]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One process whose live digit model doubts."""
    state = tmp_path_factory.mktemp("warnings")
    store = Store(state / "models")
    publish_doubting(store)
    store.promote(NAME, 1)
    with Server(state, workers=1, grpc_port=0) as server:
        yield server


def counted(server, code=OUTLIER, model=NAME):
    """How often answers of the model carried the code, by the metric."""
    line = f'neuroserve_warnings_total{{code="{code}",model="{model}"}} '
    return sum(float(row.removeprefix(line)) for row in server.client.get("/metrics").text.splitlines() if line in row)


@pytest.mark.parametrize("door", ONE)
def test_one_picture_is_warned_of_by_the_models_own_doubt(server, door):
    """Above the threshold every door warns once and counts once; the probabilities are the graph's, and hold doubt."""
    before = counted(server)
    clear = door(server, [bar(0.2)])
    assert (clear.codes, clear.header) == ([[]], None)
    doubted = door(server, [bar(0.8)])
    assert (doubted.codes, doubted.header) == ([[OUTLIER]], OUTLIER)
    outlier = round(255 * 0.8) / 255
    assert max(doubted.probabilities[0]) == pytest.approx((1 - outlier) * 0.91 + outlier / 10, abs=1e-6)
    assert sum(doubted.probabilities[0]) == pytest.approx(1, abs=1e-6)
    assert counted(server) == before + 1


@pytest.mark.parametrize("door", MANY)
def test_each_row_of_many_has_warnings_of_its_own(server, door):
    """The whole answer names each code once, however many rows have it; the metric counts every row."""
    before = counted(server)
    clear = door(server, [bar(0.1)] * 3)
    assert (clear.codes, clear.header) == ([[]] * 3, None)
    mixed = door(server, [bar(0.1), bar(0.9), bar(0.3), bar(1)])
    assert (mixed.codes, mixed.header) == ([[], [OUTLIER], [], [OUTLIER]], OUTLIER)
    assert max(mixed.probabilities[3]) == pytest.approx(0.1, abs=1e-6)
    assert counted(server) == before + 2


def test_the_client_hands_warnings_on(server):
    """One picture and many; an answer without warnings has an empty tuple."""
    with HttpClient(server.url) as client:
        assert client.predict_digit(bar(0.1)).warnings == ()
        (warning,) = client.predict_digit(bar(0.9)).warnings
        assert (warning.code, "training data" in warning.detail) == (OUTLIER, True)
        found = client.predict_digits([bar(0.1), bar(0.9)])
        assert [[each.code for each in one.warnings] for one in found] == [[], [OUTLIER]]


def test_ten_answers_are_counted_ten_times(server):
    """The same picture again and again, on the fast path and over tensors, is warned of every time."""
    before = counted(server)
    for _ in range(10):
        assert fast(server, [bar(0.9)]).codes == [[OUTLIER]]
        assert tensors(server, [bar(0.9)]).codes == [[OUTLIER]]
    assert counted(server) == before + 20


def test_the_metadata_names_both_outputs(server):
    """A client that asks for nothing gets both outputs; one that asks for the outlier probability alone gets that."""
    names = {each["name"] for each in server.client.get(f"/v2/models/{NAME}").json()["outputs"]}
    assert names == {"probabilities", "outlier"}
    asked = infer({"pixels": np.array([bar(0.8)])}, outputs=[{"name": "outlier"}])
    found, content = outputs(server.client.post(INFER, **asked))
    assert found["outlier"].tolist() == pytest.approx([0.8])
    assert json.loads(content["parameters"]["warnings"]) == [[OUTLIER]]


# ---------------------------------------------------------------------- texts

TOPIC = "topic-transformer"
BUSINESS, SPORT = "Shares of the bank rose on Wall Street today. ", "The home team won the final match by two goals. "
TEXTS = {
    "plain": ("Oil prices rise as supply fears grow", []),
    "greek": ("Καλημέρα κόσμε", ["unknown_words"]),
    "signs": ("???", ["unknown_words"]),
    "emoji": ("😀 🚀", ["unknown_words"]),
    "long": (BUSINESS * 10 + SPORT * 60, ["truncated"]),
    "long_chinese": ("你好世界 " * 400, ["truncated", "unknown_words"]),
}


def without_outliers(found):
    """What a door said, without what the network itself thinks of the input."""
    kept = [[code for code in row if code != OUTLIER] for row in found.codes]
    named = [code for code in (found.header or "").split(", ") if code and code != OUTLIER]
    return kept, sorted(named)


def text_on_the_fast_path(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text}))


def text_of_a_model(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text, "model": TOPIC}))


def text_explained(server, text):
    return told(server.client.post("/predict/sequence", json={"text": text, "explain": True}))


@pytest.mark.parametrize("door", [text_on_the_fast_path, text_of_a_model, text_explained])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_warned_of_by_what_was_read_of_it(server, door, name):
    """The codes are in the answer and in the header, and each is counted."""
    text, codes = TEXTS[name]
    before = {code: counted(server, code, TOPIC) for code in ("truncated", "unknown_words")}
    assert without_outliers(door(server, text)) == ([codes], sorted(codes))
    after = {code: counted(server, code, TOPIC) for code in before}
    assert {code: after[code] - before[code] for code in before} == {code: float(code in codes) for code in before}


def test_texts_of_a_batch_have_warnings_of_their_own(server):
    """In order, with one header for all."""
    answer = server.client.post(
        "/predict/sequence/batch", json={"inputs": [{"text": text} for text, _ in TEXTS.values()]}
    )
    rows, named = without_outliers(told(answer))
    assert rows == [codes for _, codes in TEXTS.values()]
    assert named == ["truncated", "unknown_words"]


def test_a_cut_text_names_both_counts(server):
    """The sentence says how many tokens were read and how many were given."""
    answer = server.client.post("/predict/sequence", json={"text": "oil " * 812}).json()
    (detail,) = [each["detail"] for each in answer["warnings"] if each["code"] == "truncated"]
    assert "256 of 812 tokens" in detail


@pytest.mark.parametrize("binary", [True, False])
def test_token_ids_are_warned_of_where_most_are_unknown(server, binary):
    """Over tensors the unknown id alone tells; padding does not count, and nothing is refused."""
    ids = np.array([[40, 41, 42, 43, 0, 0], [1, 1, 1, 40, 0, 0], [1, 40, 41, 42, 43, 44]])
    answer = server.client.post(f"/v2/models/{TOPIC}/infer", **infer({"token_ids": ids}, binary=binary))
    rows, named = without_outliers(told_by_tensors(answer))
    assert (rows, named) == ([[], ["unknown_words"], []], ["unknown_words"])
    with Client(server) as client:
        response, trailing = client.infer(request(TOPIC, {"token_ids": ids}))
    assert "unknown_words" in json.loads(response.parameters["warnings"].string_param)[1]
    assert "unknown_words" in trailing["x-warnings"]


# ---------------------------------------------------------------------- series

SERIES = "forecast-lstm"
WEEK = json.loads((EXAMPLES / "week.json").read_text("utf-8"))
LAST = len(WEEK["values"]) - 1
OIL = 6
READINGS = {
    "plain": ([], []),
    "gap": ([(100, OIL, None), (101, OIL, None)], ["filled_values"]),
    "gap at the end": ([(LAST, column, None) for column in range(7)], ["filled_values"]),
    "unlikely": ([(100, OIL, 120)], ["implausible_values"]),
    "both": ([(100, OIL, 120), (90, 0, None)], ["filled_values", "implausible_values"]),
}


def week(changes):
    """The example series with other values at some places."""
    values = [list(row) for row in WEEK["values"]]
    for row, column, value in changes:
        values[row][column] = value
    return {"values": values, "start": WEEK["start"]}


def forecast(server, body):
    answer = server.client.post("/predict/sequence", json=body)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    return [each["code"] for each in content.get("warnings", [])], answer.headers.get("X-Warnings"), content


@pytest.mark.parametrize("options", [{}, {"model": SERIES}, {"explain": True}])
@pytest.mark.parametrize("name", READINGS)
def test_a_series_is_warned_of_by_its_readings(server, name, options):
    """The codes are in the answer and in the header, and each is counted."""
    changes, codes = READINGS[name]
    before = {code: counted(server, code, SERIES) for code in ("filled_values", "implausible_values")}
    found, header, _ = forecast(server, week(changes) | options)
    assert (found, header) == (codes, ", ".join(codes) or None)
    after = {code: counted(server, code, SERIES) for code in before}
    assert {code: after[code] - before[code] for code in before} == {code: float(code in codes) for code in before}


def test_filled_readings_widen_the_interval(server):
    """Around the same kind of forecast; most for the next hour where the last readings are missing."""

    def widths(changes):
        _, _, content = forecast(server, week(changes))
        return np.array(content["upper"]) - content["lower"], np.array(content["mean"])

    (whole, mean), (filled, near) = widths([]), widths([(100, OIL, None)])
    blind, _ = widths([(LAST - step, OIL, None) for step in range(3)])
    assert (filled > whole).all()
    assert np.abs(near - mean).max() < 0.5
    assert blind[0] > 2 * whole[0]
    assert (blind > filled).all()


@pytest.mark.parametrize("path", ["/predict/sequence", "/predict/sequence?x=1", "/predict/sequence/batch"])
@pytest.mark.parametrize("value", [-9999, -999.0, 9999, 1e20])
def test_a_marker_is_refused_with_its_row_and_column(server, path, value):
    """On both ways and in a batch; the last row counts as every other."""
    body, place = week([(LAST, OIL, value)]), ["body", "values", LAST, OIL]
    if path.endswith("batch"):
        body, place = {"inputs": [week([]), body]}, ["body", "inputs", 1, "values", LAST, OIL]
    answer = server.client.post(path, json=body)
    told = answer.json()
    assert (answer.status_code, told["code"], told["errors"][0]["loc"]) == (422, "implausible_values", place)
    assert f"Row {LAST}, column OT" in told["detail"]


def test_accepted_values_become_a_warning_for_each_input_of_its_own(server):
    """One input of a batch accepts what the other may not hold."""
    accepted = week([(100, OIL, -9999)]) | {"accept_implausible": True}
    assert forecast(server, accepted)[0] == ["implausible_values"]
    inputs = [accepted, week([(3, 0, None)]), {"text": "???"}, {"text": "Oil prices rise"}]
    answer = server.client.post("/predict/sequence/batch", json={"inputs": inputs})
    rows = [[each["code"] for each in row.get("warnings", [])] for row in answer.json()["predictions"]]
    assert rows[:2] == [["implausible_values"], ["filled_values"]]
    assert "unknown_words" in rows[2]
    assert answer.headers["X-Warnings"].startswith("implausible_values, filled_values, unknown_words")
    refused = server.client.post("/predict/sequence/batch", json={"inputs": [accepted, week([(3, 0, -9999)])]})
    assert refused.json()["errors"][0]["loc"] == ["body", "inputs", 1, "values", 3, 0]


@pytest.mark.parametrize("value", [1, "true", None])
def test_the_option_is_a_boolean(server, value):
    """Anything else is a 422 at the field; a text has no such option."""
    answer = server.client.post("/predict/sequence", json=week([]) | {"accept_implausible": value})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["body", "accept_implausible"])
    answer = server.client.post("/predict/sequence", json={"text": "oil", "accept_implausible": True})
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, ["body", "accept_implausible"])


def test_nan_in_json_stays_a_refusal(server):
    """Only null is a missing reading."""
    body = json.dumps(week([(100, OIL, None)])).replace("null", "NaN")
    answer = server.client.post("/predict/sequence", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_series")
    assert answer.json()["errors"][0]["loc"] == ["body", "values", 100, OIL]


def test_tensors_of_a_series_are_only_warned_of(server):
    """-9999 is run as it is and warned of, over HTTP and gRPC; padding and steps before the look-back do not count."""
    values = np.array([week([])["values"]] * 3, np.float32)
    values[1, 100, OIL] = -9999
    values[2, 160:] = 1e6
    lengths = np.array([168, 168, 160])
    tensors = {"values": values, "lengths": lengths, "hour_of_week": np.zeros(3, np.int64)}
    answer = server.client.post(f"/v2/models/{SERIES}/infer", **infer(tensors))
    _, content = outputs(answer)
    assert json.loads(content["parameters"]["warnings"]) == [[], ["implausible_values"], []]
    assert answer.headers["X-Warnings"] == "implausible_values"
    with Client(server) as client:
        response, trailing = client.infer(request(SERIES, tensors))
    assert json.loads(response.parameters["warnings"].string_param) == [[], ["implausible_values"], []]
    assert trailing["x-warnings"] == "implausible_values"


def test_the_client_sends_gaps_as_missing(server):
    """None and NaN, in lists and in arrays, alone and in a batch; -9999 is refused until it is accepted."""
    body = week([(100, OIL, float("nan")), (101, OIL, None)])
    marked = week([(100, OIL, -9999)])
    with HttpClient(server.url) as client:
        assert [each.code for each in client.forecast(**body).warnings] == ["filled_values"]
        array = np.array(body["values"], np.float64)
        assert [each.code for each in client.forecast(array, WEEK["start"]).warnings] == ["filled_values"]
        both = client.forecasts([(array, WEEK["start"]), (WEEK["values"], WEEK["start"])])
        assert [[each.code for each in one.warnings] for one in both] == [["filled_values"], []]
        with pytest.raises(ServiceError) as caught:
            client.forecast(**marked)
        assert caught.value.code == "implausible_values"
        found = client.forecast(**marked, accept_implausible=True)
        assert [each.code for each in found.warnings] == ["implausible_values"]
        series = [(marked["values"], marked["start"])]
        (found,) = client.forecasts(series, accept_implausible=True)
        assert [each.code for each in found.warnings] == ["implausible_values"]


# ---------------------------------------------------------------------- the command


@pytest.fixture
def run(server, capsys, monkeypatch):
    """Runs the command here; its exit code, standard output and standard error."""
    monkeypatch.setenv("NEUROSERVE_URL", server.url)

    def command(*arguments):
        return cli.main([str(each) for each in arguments]), *capsys.readouterr()

    return command


def csv_of(folder, changes):
    """The example series as a file."""
    lines = ["date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"]
    start = datetime.fromisoformat(WEEK["start"])
    cells = {(row, column): value for row, column, value in changes}
    for row, values in enumerate(WEEK["values"]):
        said = [str(cells.get((row, column), value)) for column, value in enumerate(values)]
        lines.append(",".join([f"{start + timedelta(hours=row):%Y-%m-%d %H:%M:%S}", *said]))
    path = folder / "readings.csv"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.mark.parametrize("cell", ["", "NaN", "NA", "null"])
def test_the_command_takes_empty_cells_as_missing(run, tmp_path, cell):
    """The answer stands on standard output, the warning on standard error; as JSON both in one object."""
    path = csv_of(tmp_path, [(100, OIL, cell)])
    code, out, err = run("predict", "forecast", path)
    assert (code, len(out.splitlines())) == (0, 25)
    assert err.startswith("neuroserve: warning filled_values: ")
    code, out, err = run("predict", "forecast", path, "--json")
    assert (code, err) == (0, "")
    assert [each["code"] for each in json.loads(out)["warnings"]] == ["filled_values"]


def test_the_command_names_the_row_of_a_marker(run, tmp_path):
    """-9999 in a file is refused, and taken where the user says so."""
    path = csv_of(tmp_path, [(161, column, "-9999.0") for column in range(7)])
    code, out, err = run("predict", "forecast", path)
    assert (code, out) == (1, "")
    assert "Row 161, column HUFL" in err
    code, out, err = run("predict", "forecast", path, "--accept-implausible")
    assert (code, len(out.splitlines())) == (0, 25)
    assert "warning implausible_values" in err


def test_the_command_warns_of_the_picture_and_the_text_it_means(run, tmp_path):
    """Of many each warning says which one it is about."""
    paths = []
    for name, outlier in (("clear.png", 0.1), ("odd.png", 0.9)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(png(bar(outlier)))
    code, out, err = run("predict", "digit", *paths)
    assert (code, len(out.splitlines())) == (0, 2)
    assert err.startswith(f"neuroserve: {paths[1]}: warning {OUTLIER}: ")
    assert len(err.splitlines()) == 1
    code, _, err = run("predict", "text", "Oil prices rise", "???")
    assert code == 0
    assert "neuroserve: text 2: warning unknown_words: " in err
    assert json.loads(run("predict", "digit", paths[1], "--json")[1])["warnings"][0]["code"] == OUTLIER
