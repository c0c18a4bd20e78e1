"""Warnings of series, and of the command: missing and implausible readings on every door."""

import asyncio
import json
from datetime import datetime, timedelta

import numpy as np
import pytest

from models.store import Store
from neuroserve import cli
from neuroserve.client import AsyncClient, ServiceError
from neuroserve.client import Client as HttpClient
from tests.artifacts import publish_doubting
from tests.server import EXAMPLES, Server
from tests.service.oip import infer, outputs
from tests.service.rpc import Client, request
from tests.service.warned import NAME, OUTLIER, bar, counted, png


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One process whose live digit model doubts."""
    state = tmp_path_factory.mktemp("readings")
    store = Store(state / "models")
    publish_doubting(store)
    store.promote(NAME, 1)
    with Server(state, workers=1, grpc_port=0) as server:
        yield server


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


def test_the_asynchronous_client_does_the_same(server):
    """Gaps, refusals and what is accepted."""
    marked = week([(100, OIL, -9999)])

    async def scenario():
        async with AsyncClient(server.url) as client:
            gap = await client.forecast(**week([(100, OIL, None)]))
            accepted = await client.forecast(**marked, accept_implausible=True)
            several = [(marked["values"], marked["start"])] * 2
            batch = await client.forecasts(several, accept_implausible=True)
            return [[each.code for each in one.warnings] for one in (gap, accepted, *batch)]

    assert asyncio.run(scenario()) == [["filled_values"], *[["implausible_values"]] * 3]


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
