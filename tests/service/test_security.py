"""The guard: which request needs which scope, who is let in, and when the key file is read again."""

import pytest

from service.app import create_app
from service.errors import Forbidden, Unauthorized
from service.security import Guard, exposed, needed_scope
from service.settings import Settings

SECRETS = {name: f"{name}-{'x' * 20}" for name in ("web", "ops", "new")}


def bearer(secret):
    return [(b"host", b"here"), (b"authorization", b"Bearer " + secret.encode())]


def line(name, scopes):
    return f"{name}:{scopes}:{SECRETS[name]}"


@pytest.fixture
def guard():
    return Guard(Settings(api_keys=f"{line('web', 'predict')},{line('ops', 'admin')}"))


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/", None),
        ("GET", "/health/ready", None),
        ("GET", "/v2/health/ready", None),
        ("GET", "/docs", None),
        ("GET", "/openapi.json", None),
        ("POST", "/predict/digit", "predict"),
        ("POST", "/v2/models/digit-cnn/infer", "predict"),
        ("GET", "/v2", "predict"),
        ("GET", "/train", "admin"),
        ("POST", "/train", "admin"),
        ("GET", "/train/recipes", "any"),
        ("POST", "/train/recipes", "admin"),
        ("POST", "/models/digit-cnn/predict", "predict"),
        ("POST", "/models/digit-cnn/predict/batch", "predict"),
        ("POST", "/v1/embeddings", "predict"),
        ("POST", "/v2/repository/index", "predict"),
        ("POST", "/v2/repository/models/digit-cnn/load", "admin"),
        ("GET", "/models/digit-cnn/versions/1/files/model.onnx", "admin"),
        ("PUT", "/datasets/flowers", "admin"),
        ("GET", "/models", "any"),
        ("GET", "/models/digit-cnn", "any"),
        ("POST", "/models/digit-cnn/promote", "admin"),
        ("DELETE", "/models/digit-cnn/versions/1", "admin"),
        ("GET", "/metrics", "any"),
        ("GET", "/predictable", "admin"),
        ("GET", "/healthy", "admin"),
        ("GET", "/docsx", "admin"),
    ],
)
def test_each_path_has_its_scope(method, path, scope):
    """Probes and pages are open, predictions and changes are not, and what no rule names needs `admin`."""
    assert needed_scope(method, path) == scope


def test_every_route_has_a_rule():
    """A route that somebody adds is closed to all but `admin` until this table and the rules name it."""
    admin = {(method, route) for method, route in _routes() if needed_scope(method, route) == "admin"}
    assert admin == {
        ("POST", "/train"),
        ("GET", "/train"),
        ("GET", "/train/{job_id}"),
        ("DELETE", "/train/{job_id}"),
        ("GET", "/train/{job_id}/events"),
        ("POST", "/models/{name}/promote"),
        ("POST", "/models/{name}/rollback"),
        ("POST", "/models/{name}/canary"),
        ("DELETE", "/models/{name}/canary"),
        ("DELETE", "/models/{name}/versions/{version}"),
    }
    changing = {(method, route) for method, route in _routes() if method not in {"GET", "HEAD", "OPTIONS"}}
    assert {needed_scope(*each) for each in changing} == {"admin", "predict"}


def _routes():
    """The methods and paths that the document tells, which another test holds to be all."""
    paths = create_app(Settings()).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods} - {
        (method, path) for method in ("HEAD", "OPTIONS") for path in paths
    }


def test_without_keys_every_request_of_a_program_passes():
    """The default on the loopback address."""
    assert Guard(Settings()).check("POST", "/train", []) is None


def test_a_key_opens_what_its_scopes_say(guard):
    """Each scope opens its own part and both see the models."""
    assert guard.check("POST", "/predict/digit", bearer(SECRETS["web"])).name == "web"
    assert guard.check("POST", "/train", bearer(SECRETS["ops"])).name == "ops"
    assert guard.check("GET", "/models", bearer(SECRETS["web"])).name == "web"
    assert guard.check("GET", "/health/live", []) is None
    with pytest.raises(Forbidden, match="'web' lacks the scope 'admin'"):
        guard.check("POST", "/train", bearer(SECRETS["web"]))
    with pytest.raises(Forbidden, match="'ops' lacks the scope 'predict'"):
        guard.check("POST", "/predict/digit", bearer(SECRETS["ops"]))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "key_missing"),
        ([(b"authorization", b"Basic d2ViOng=")], "key_missing"),
        ([(b"authorization", b"Bearer ")], "key_missing"),
        ([(b"authorization", b"Bearer")], "key_missing"),
        (bearer(SECRETS["web"]) + bearer(SECRETS["ops"]), "key_missing"),
        (bearer(SECRETS["new"]), "key_unknown"),
        (bearer(SECRETS["web"] + "x"), "key_unknown"),
        ([(b"authorization", b"Bearer \xff\xfe")], "key_unknown"),
    ],
)
def test_no_key_and_a_wrong_key_are_told_apart(guard, headers, code):
    """Both are a 401, and neither says more."""
    with pytest.raises(Unauthorized) as error:
        guard.check("POST", "/predict/digit", headers)
    assert error.value.code == code


def test_the_scheme_is_taken_in_any_case(guard):
    """RFC 9110: the name of a scheme has no case."""
    assert guard.check("GET", "/models", [(b"authorization", b"bearer " + SECRETS["web"].encode())]).name == "web"


def test_the_key_file_is_read_again_when_it_changes(tmp_path, caplog):
    """A new key holds, an old one no longer, and a broken file changes nothing."""
    file = tmp_path / "keys"
    file.write_text(line("web", "predict") + "\n")
    guard = Guard(Settings(api_keys_file=file))
    heard = []
    guard.on_change(lambda: heard.append(1))
    assert not guard.refresh()

    write(file, line("new", "predict+admin"))
    assert guard.refresh()
    assert heard == [1]
    assert guard.check("POST", "/train", bearer(SECRETS["new"])).name == "new"
    with pytest.raises(Unauthorized):
        guard.check("POST", "/predict/digit", bearer(SECRETS["web"]))

    write(file, "nonsense")
    assert not guard.refresh()
    assert not guard.refresh()
    assert guard.check("POST", "/train", bearer(SECRETS["new"])).name == "new"
    assert len([record for record in caplog.records if "stay as they were" in record.message]) == 1
    file.unlink()
    assert not guard.refresh()
    assert guard.check("POST", "/train", bearer(SECRETS["new"])).name == "new"

    write(file, "")
    assert guard.refresh(), "an empty file closes the door for all"
    with pytest.raises(Unauthorized):
        guard.check("POST", "/train", bearer(SECRETS["new"]))


def write(file, text):
    """Replace the file as editors do, so that its identity changes even within one tick of the clock."""
    draft = file.with_suffix(".draft")
    draft.write_text(text + "\n")
    draft.replace(file)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, False),
        ({"host": "localhost"}, False),
        ({"host": "::1"}, False),
        ({"host": "127.0.0.2"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "::"}, True),
        ({"host": "192.168.1.7"}, True),
        ({"host": "box.example"}, True),
        ({"host": "0.0.0.0", "allow_open_network": True}, False),
        ({"host": "0.0.0.0", "api_keys": line("web", "predict")}, False),
        ({"host": "0.0.0.0", "api_keys_file": "keys"}, False),
    ],
)
def test_a_service_without_keys_stays_on_this_machine(settings, refused):
    """Beyond the loopback address it wants keys, or to be told so in so many words."""
    sentence = exposed(Settings(**settings))
    assert (sentence is not None) == refused
    if refused:
        assert "NEUROSERVE_API_KEYS" in sentence
