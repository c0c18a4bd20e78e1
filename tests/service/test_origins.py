"""Host names and pages: whom a service without keys answers, and what it says to the browser of another page."""

import socket

import pytest

from service.errors import Forbidden
from service.origins import opens_to_pages, parse_hosts, parse_origins
from service.security import Guard
from service.settings import Settings

OWN = b"127.0.0.1:8000"


def asked(guard, method="POST", path="/train", host=OWN, origin=None, forwarded=None):
    """The code of the refusal of such a request, or None."""
    headers = [] if host is None else [(b"host", host)]
    headers += [] if origin is None else [(b"origin", origin)]
    try:
        guard.check(method, path, headers, forwarded)
    except Forbidden as error:
        return error.code
    return None


@pytest.fixture(scope="module")
def guard():
    return Guard(Settings(allowed_hosts="Models.example.com, *.lab.example:8000, fd00::5"))


@pytest.mark.parametrize(
    "host",
    [
        *(b"127.0.0.1", b"127.0.0.1:8000", b"192.168.1.7:80", b"0.0.0.0:8000", b"[::1]", b"[::1]:80", b"[fe80::1%25a]"),
        *(b"localhost", b"LOCALHOST:8000", b"localhost.", b"app.localhost:3000", None),
        *(b"models.example.com", b"MODELS.example.com:443", b"a.lab.example", b"a.b.lab.example:9", b"[fd00::5]"),
        *(socket.gethostname().encode(), socket.gethostname().encode() + b":8000"),
    ],
)  # fmt: skip
def test_addresses_and_known_names_are_answered(guard, host):
    """With a port or without, in any case; and a client that names no host at all."""
    assert asked(guard, host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        *(b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"127.0.0.1.evil.example", b"xlocalhost"),
        *(b"lab.example", b"xlab.example", b"models.example.com.evil", b"evil@localhost", b"localhost:80@a", b"api"),
        *(b"", b"[::1", b"::1]", b"127.0.0.1:x", b"2130706433", b"0x7f.1", b"a b", b"\xff", b"localhost/evil.a"),
    ],
)  # fmt: skip
def test_strange_host_names_are_refused(guard, host):
    """A page that pointed its own name at this machine is not the service's own; the refusal names the setting."""
    assert asked(guard, host=host) == "host_not_allowed"
    with pytest.raises(Forbidden, match="NEUROSERVE_ALLOWED_HOSTS"):
        guard.check("GET", "/", [(b"host", host)])
    for path in ("/health/live", "/health/ready", "/v2/health/live", "/metrics"):
        assert asked(guard, "GET", path, host) is None, "monitors call a machine by any name"


def test_two_hosts_in_a_request_must_both_be_known(guard):
    """Whichever of them a program reads, it is not a stranger's."""
    with pytest.raises(Forbidden):
        guard.check("POST", "/train", [(b"host", OWN), (b"host", b"evil.example")])


def test_a_star_answers_to_every_name():
    """For who has something else that keeps strangers out."""
    assert asked(Guard(Settings(allowed_hosts="*")), host=b"any.example") is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "GET", "HEAD"])
@pytest.mark.parametrize(
    "path", ["/train", "/predict/digit", "/v2/models/digit-cnn/infer", "/models/digit-cnn/rollback"]
)
@pytest.mark.parametrize(
    "origin",
    [
        *(b"http://evil.example", b"null", b"https://127.0.0.1.evil.example", b"http://127.0.0.1:3000", b"http://127.0.0.1"),
        *(b"http://localhost:8000", b"file://", b"chrome-extension://abc", b"", b"127.0.0.1:8000", b"http://127.0.0.1:8000/"),
        *(b"http://127.0.0.1:8000@evil.example", b"http://127.0.0.1:8000, http://evil.example", b"\xff"),
    ],
)  # fmt: skip
def test_a_page_from_elsewhere_is_refused(guard, method, path, origin):
    """Every method of every path that is no public page, /v2 and the predict routes included."""
    assert asked(guard, method, path, origin=origin) == "origin_not_allowed"


def test_public_pages_may_be_read_from_anywhere(guard):
    """They show what is in the repository, and probes no secret; no other method of them is open."""
    for path in ("/", "/docs", "/openapi.json", "/playground/main.js", "/health/ready", "/v2/health/live"):
        assert asked(guard, "GET", path, origin=b"null") is None
        assert asked(guard, "HEAD", path, origin=b"http://evil.example") is None
        assert asked(guard, "POST", path, origin=b"null") == "origin_not_allowed"
    assert asked(guard, "GET", "/models", origin=b"http://evil.example") == "origin_not_allowed"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (OWN, b"http://127.0.0.1:8000"),
        (b"localhost:8000", b"http://LOCALHOST:8000"),
        (b"[::1]:8000", b"http://[::1]:8000"),
        (b"models.example.com", b"https://models.example.com"),
        (b"models.example.com:443", b"https://models.example.com"),
        (b"models.example.com", b"http://models.example.com:80"),
        (b"models.example.com:8443", b"https://models.example.com:8443"),
    ],
)
def test_its_own_pages_pass(guard, host, origin):
    """Over any scheme, as a proxy may speak TLS; a default port may be written or not."""
    assert asked(guard, host=host, origin=origin) is None


def test_a_trusted_proxy_says_which_host_was_asked_for(guard):
    """That name must be known too, and it alone makes the page the service's own."""
    page = b"https://models.example.com"
    assert asked(guard, origin=page) == "origin_not_allowed"
    assert asked(guard, origin=page, forwarded=b"models.example.com") is None
    assert asked(guard, origin=b"https://evil.example", forwarded=b"evil.example") == "host_not_allowed"


def test_with_keys_the_key_is_the_guard():
    """A page that has a key is as good as a program that has one."""
    guard = Guard(Settings(api_keys=f"web:predict:{'x' * 20}"))
    headers = [(b"host", b"evil.example"), (b"origin", b"null"), (b"authorization", b"Bearer " + b"x" * 20)]
    assert guard.check("POST", "/predict/digit", headers).name == "web"


@pytest.mark.parametrize(
    ("path", "opened"),
    [
        *[(path, True) for path in ("/predict/digit", "/predict/sequence/batch", "/models/a/predict")],
        *[(path, True) for path in ("/models/a/predict/batch", "/v2/models/a/infer", "/v2/models/a/versions/2/infer")],
        *[(path, False) for path in ("/train", "/models", "/models/a", "/models/predict", "/models/a/rollback", "/")],
        *[(path, False) for path in ("/v2/models/a", "/v2/models/infer", "/v2/repository/index", "/metrics")],
        ("/models/a/b/predict", False),
    ],
)  # fmt: skip
def test_the_predict_routes_and_no_others_open_to_listed_pages(path, opened):
    """What NEUROSERVE_CORS_ORIGINS opens changes nothing and shows no one's data."""
    guard = Guard(Settings(cors_origins="https://app.example.com/, http://localhost:3000"))
    assert opens_to_pages(path) is opened
    for origin in (b"https://app.example.com", b"http://localhost:3000"):
        assert asked(guard, "POST", path, origin=origin) == (None if opened else "origin_not_allowed")
        headers = [(b"origin", origin), (b"access-control-request-method", b"POST")]
        assert (guard.origins.preflight("OPTIONS", path, headers) is not None) is opened
        assert ((b"access-control-allow-origin", origin) in guard.origins.headers(path, headers)) is opened
    for origin in (b"https://app.example.com:8443", b"http://app.example.com", b"https://x.app.example.com", b"null"):
        assert asked(guard, "POST", path, origin=origin) == "origin_not_allowed"
        headers = [(b"origin", origin), (b"access-control-request-method", b"POST")]
        assert guard.origins.preflight("OPTIONS", path, headers) is None


def test_a_star_opens_the_predict_routes_to_every_page():
    """Of any origin that a page on the web has; `null` is none."""
    guard = Guard(Settings(cors_origins="*"))
    assert asked(guard, path="/predict/digit", origin=b"https://any.example") is None
    assert asked(guard, path="/train", origin=b"https://any.example") == "origin_not_allowed"


@pytest.mark.parametrize("given", ["https://a.example", "a b", "a/b", "*.", "a.*.b", "-*", "user@host"])
def test_what_is_no_host_name_is_refused_at_the_start(given):
    """With a sentence that shows how one is written."""
    with pytest.raises(ValueError, match="is not a host name; give names such as"):
        parse_hosts(given)


@pytest.mark.parametrize(
    "given", ["app.example.com", "https://a.example/path", "null", "ftp://a.example", "https://*.a", "https://"]
)
def test_what_is_no_origin_is_refused_at_the_start(given):
    """With a sentence that shows how one is written."""
    with pytest.raises(ValueError, match=r"write it as https://app\.example\.com"):
        parse_origins(given)
