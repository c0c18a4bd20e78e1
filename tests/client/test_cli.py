"""The `neuroserve` command as a user types it, against a real service."""

import json
import os
import pty
import subprocess
import sys

import pytest

from neuroserve import cli
from neuroserve.answers import Gate, GateCheck, read
from neuroserve.readings import read_readings
from neuroserve.terminal import sparkline
from tests.client.scripted import Reply, Scripted, job, problem, stream
from tests.server import EXAMPLES, ROOT, free_port, shipped

SEVEN = str(EXAMPLES / "seven.png")
SAMPLE = ROOT / "service" / "playground" / "sample.csv"


@pytest.fixture
def run(service, capsys, monkeypatch):
    """Runs the command here; its exit code, standard output and standard error."""
    monkeypatch.setenv("NEUROSERVE_URL", service.url)

    def command(*arguments):
        try:
            code = cli.main([str(each) for each in arguments])
        except SystemExit as exc:
            code = exc.code
        return code, *capsys.readouterr()

    return command


def on_a_terminal(url, *arguments):
    """What the command writes on a real terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "NEUROSERVE_URL": url, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "neuroserve", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=follower, stderr=follower)
    os.close(follower)
    written = b""
    try:
        while data := os.read(leader, 65536):
            written += data
    except OSError:  # how Linux tells that nobody holds the other end any more
        pass
    finally:
        os.close(leader)
    return process.wait(20), written.decode().replace("\r\n", "\n")


def test_a_digit_as_a_line_and_as_json(run):
    """A table line for each picture; `--json` one object, or a list for many."""
    code, out, err = run("predict", "digit", SEVEN, SEVEN)
    assert (code, err) == (0, "")
    assert [line.split("\t")[:2] for line in out.splitlines()] == [[SEVEN, "7"]] * 2
    one = json.loads(run("predict", "digit", SEVEN, "--json", "--model", "digit-mlp")[1])
    assert (one["digit"], one["model"]["name"]) == (7, "digit-mlp")
    assert len(json.loads(run("predict", "digit", SEVEN, SEVEN, "--json")[1])) == 2


def test_a_digit_on_a_terminal_shows_what_the_model_saw(service):
    """14 lines of half blocks with ink in the middle, ten bars, and the model."""
    code, out = on_a_terminal(service.url, "predict", "digit", SEVEN)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 14 + 10 + 1
    picture = lines[:14]
    assert {len(line) for line in picture} == {28}
    assert set("".join(picture)) <= set(" ▀▄█")
    assert any(mark in picture[7] for mark in "▀▄█")
    assert lines[14 + 7].startswith("7 ███")
    assert lines[-1] == f"digit-cnn version {shipped('digit-cnn')}"


def test_a_text(run, service):
    """A line, JSON, and bars on a terminal with the likeliest on top."""
    words = "Oil prices rise as supply fears grow"
    assert run("predict", "text", words)[1].startswith("Business\t0.")
    assert json.loads(run("predict", "text", words, "--json")[1])["label"] == "Business"
    code, out = on_a_terminal(service.url, "predict", "text", words)
    assert code == 0
    assert out.splitlines()[0].split()[0] == "Business"


def test_a_forecast(run, service):
    """CSV for a program, JSON with times, a sparkline of 24 hours on a terminal."""
    code, out, _ = run("predict", "forecast", SAMPLE)
    assert code == 0
    head, *rows = out.splitlines()
    assert head == "time,mean,lower,upper"
    assert len(rows) == 24
    assert rows[0].startswith("2026-03-17T00:00:00,")
    assert json.loads(run("predict", "forecast", SAMPLE, "--json")[1])["times"][0] == "2026-03-17T00:00:00"
    code, out = on_a_terminal(service.url, "predict", "forecast", SAMPLE)
    assert code == 0
    name, line, *_ = out.splitlines()[0].split()
    assert (name, len(line)) == ("OT", 24)
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_a_long_file_is_cut_to_its_end_and_told(run, tmp_path):
    """5,000 hours: the last 4,096 are sent, the forecast follows the last row, and a sentence says so."""
    lines = SAMPLE.read_text().splitlines()
    start, _ = read_readings(SAMPLE)
    rows = [
        f"{start.fromtimestamp(start.timestamp() + 3600 * hour):%Y-%m-%d %H:%M:%S},{lines[1].partition(',')[2]}"
        for hour in range(5000)
    ]
    (tmp_path / "long.csv").write_text("\n".join([lines[0], *rows]))
    code, out, err = run("predict", "forecast", tmp_path / "long.csv")
    assert code == 0
    assert err == "neuroserve: the last 4096 of 5000 rows are sent\n"
    last = rows[-1].partition(",")[0].replace(" ", "T")
    assert out.splitlines()[1].partition(",")[0] > last


def test_models(run):
    """A table with every model, and the store as JSON."""
    code, out, _ = run("models")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.startswith("digit-cnn "))
    assert row[1:3] == ["digit", str(shipped("digit-cnn"))]
    assert {"digit-cnn", "topic-gru"} <= {model["name"] for model in json.loads(run("models", "--json")[1])}


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("predict", "digit", "nowhere.png"), 2, "nowhere.png: No such file"),
        (("predict", "digit", ROOT / "pyproject.toml"), 2, "not a picture file"),
        (("predict", "forecast", ROOT / "pyproject.toml"), 2, "lacks a column for the time"),
        (("predict", "text", "  "), 1, "422"),
        (("predict", "digit", SEVEN, "--model", "nobody"), 1, "There is no model"),
        (("train", "sonnets"), 1, "There is no task 'sonnets'"),
        (("rollback", "digit-cnn"), 1, "409"),
        (("predict",), 2, "usage: neuroserve predict"),
        (("models", "--url", "localhost"), 2, "must begin with http://"),
    ],
)
def test_failures_are_a_sentence_and_an_exit_code(run, arguments, code, sentence):
    """Nothing on standard output, one sentence on standard error, no trace."""
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_nobody_there_is_exit_code_3(run):
    """The sentence names the address."""
    port = free_port()
    code, _, err = run("models", "--url", f"http://127.0.0.1:{port}")
    assert code == 3
    assert f"No service answers at http://127.0.0.1:{port}" in err


WAITS = {"code": "no_worker", "detail": "No training worker is running."}


def test_a_training_that_no_worker_can_take_says_so(run):
    """On standard error, so that a script still reads the job's id; in JSON it is part of the job."""
    with Scripted(Reply(202, {**job(), "warnings": [WAITS]})) as server:
        code, out, err = run("train", "digit", "--url", server.url)
        assert (code, out) == (0, "j1\tqueued\n")
        assert err == "neuroserve: No training worker is running.\n"
        _, out, _ = run("train", "digit", "--json", "--url", server.url)
        assert json.loads(out)["warnings"] == [WAITS]
    told = stream((1, "status", {"status": "queued"}), (None, "warnings", {"warnings": [WAITS]}), DONE)
    with Scripted(Reply(202, job()), told, Reply(200, REJECTED)) as server:
        _, _, err = run("train", "digit", "--watch", "--url", server.url)
    assert err.splitlines()[1:] == ["queued", "No training worker is running.", "rejected"]


GATE = {"passed": False, "reasons": ["accuracy 0.91 is below 0.97"], "compared_with": 3, "figures": {}}
REJECTED = {**job("rejected"), "result": {"model": None, "metrics": {}, "gate": GATE}}
DONE = (2, "done", {"status": "rejected", "result": None, "error": None})


def test_a_watched_training_tells_its_end(run):
    """A rejected job is exit code 4 with the gate's reasons; without `--watch` the job's id is all."""
    replies = Reply(202, job()), stream((1, "status", {"status": "queued"}), DONE), Reply(200, REJECTED)
    with Scripted(*replies) as server:
        code, out, err = run("train", "digit", "--epochs", "1", "--watch", "--url", server.url)
    assert code == 4
    assert out == "rejected\n- accuracy 0.91 is below 0.97\n"
    assert err.splitlines()[1:] == ["queued", "rejected"]
    assert json.loads(server.asked[0][3]) == {"task": "digit", "epochs": 1}
    with Scripted(Reply(202, job())) as server:
        assert run("train", "digit", "--url", server.url) == (0, "j1\tqueued\n", "")
    with Scripted(problem(429, "queue_full", **{"Retry-After": "3600"})) as server:
        code, _, err = run("train", "digit", "--url", server.url)
    assert code == 1
    assert "queue_full" in err


def test_a_refused_training_tells_failed_checks_first(run):
    """Each line says in a word whether the check passed."""
    checks = [
        {"name": "reference", "passed": False, "detail": "mean validation loss is higher", "value": 0.2, "limit": 0.1},
        {"name": "contract", "passed": True, "detail": "it takes and gives the same", "value": None, "limit": None},
    ]
    gate = {**GATE, "reasons": [check["detail"] for check in checks], "checks": checks}
    ended = {**job("rejected"), "result": {"model": None, "metrics": {}, "gate": gate}}
    replies = Reply(202, job()), stream((1, "status", {"status": "queued"}), DONE), Reply(200, ended)
    with Scripted(*replies) as server:
        code, out, _ = run("train", "digit", "--watch", "--url", server.url)
    assert code == 4
    assert out == ("rejected\n- FAILED: mean validation loss is higher\n- passed: it takes and gives the same\n")
    found = read(Gate, gate)
    assert found.compared_with == 3
    assert found.checks[0] == GateCheck("reference", False, "mean validation loss is higher", 0.2, 0.1)
    assert found.checks[1].value is None


def test_the_services_verbs_are_still_there(capsys):
    """`key` goes to the service's own command; both it and `serve` are in the help."""
    assert cli.main(["key", "me"]) == 0
    assert capsys.readouterr().out.startswith("me:predict:sha256:")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("serve", "key", "predict", "train", "models", "promote", "rollback"))


def test_a_reader_that_leaves_early_gets_no_trace(service):
    """As with `neuroserve models | true`: exit code 1 and silence."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "neuroserve", "models", "--url", service.url]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("when,OT\n1,2\n", "lacks a column for the time"),
        ("date,OT\n2026-01-01,2\n", "lacks HUFL"),
        ("date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\n2026-01-01,1,2,3,4,5,six,7\n", "line 2 has no number in LULL"),
        ("date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\nyesterday,1,2,3,4,5,6,7\n", "line 2 has no time"),
        (
            "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\n\n2026-01-01 00:00,1,2,3,4,5,6,7\n2026-01-01 02:00,1,2,3,4,5,6,7\n",
            "line 4 is not one hour after",
        ),
    ],
)
def test_a_csv_that_is_wrong_names_its_line(run, tmp_path, text, said):
    """Exit code 2 and the place, before anything is sent."""
    (tmp_path / "readings.csv").write_text(text)
    code, _, err = run("predict", "forecast", tmp_path / "readings.csv")
    assert code == 2
    assert said in err


def test_semicolons_and_any_order_of_columns_are_read(tmp_path):
    """As the service's own page reads them."""
    path = tmp_path / "readings.csv"
    path.write_text("\ufeffOT;HULL;HUFL;MUFL;MULL;LUFL;LULL;Date\n7;2;1;3;4;5;6;2026-01-01T00:00:00Z\n")
    start, values = read_readings(path)
    assert (start.isoformat(), values) == ("2026-01-01T00:00:00+00:00", [[1, 2, 3, 4, 5, 6, 7]])


def test_a_sparkline_of_a_flat_series_is_flat():
    """No division by nothing."""
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([0.0, 7.0, 3.0]) == "▁█▄"
