"""Proxy variables: what leads to the service, what NO_PROXY excepts, and a sentence for what cannot be used."""

import os
import subprocess
import sys

import pytest

from neuroserve.client import AsyncClient, Client, UsageError
from neuroserve.proxies import Target, is_excepted, proxy_for, shown
from tests.client.scripted import Reply, Scripted
from tests.server import ROOT

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Without what the machine of the tests has set."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        *[(entry, "http://[::1]:8000") for entry in ("[::1]", "::1", "[::1]:8000", "::/64", "[::]/64", "*", "0::1")],
        *[(entry, "http://[fd12::7]") for entry in ("fd00::/8", "a.example, [fd12::7]", "FD12::7", "[fd12::7]:80")],
        *[(entry, "http://127.0.0.1:8000") for entry in ("127.0.0.1", "127.0.0.0/8", "127.0.0.1:8000", "x 127.0.0.1")],
        *[(entry, "http://localhost:8000") for entry in ("localhost", "LocalHost", "http://localhost")],
        *[(entry, "https://a.b.example") for entry in ("b.example", ".b.example", "*.b.example", "a.b.example:443")],
        ("localhost:8000", "http://localhost:8000"),
        ("example", "http://a.b.example"),
        (".b.example", "http://b.example"),
    ],
)  # fmt: skip
def test_no_proxy_is_honoured_in_every_form(monkeypatch, no_proxy, url):
    """Names, addresses with brackets or without, networks, ports; a client for it is made, whatever the proxy is."""
    monkeypatch.setenv("ALL_PROXY", "socks5://user:secret@proxy.example:1080")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(url) is None
    Client(url).close()


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        *[(entry, "http://[::1]:8000") for entry in ("", "[::2]", "[::1]:80", "::1:8000", "localhost", "[", "[::1")],
        *[(entry, "http://127.0.0.1:8000") for entry in ("127.0.0.1:80", "128.0.0.0/8", "27.0.0.1", "0.0.1")],
        ("https://127.0.0.1", "http://127.0.0.1:8000"),
        *[(entry, "http://ab.example") for entry in ("b.example", "*.ab.example.com", "x.ab.example", "%%", "a b")],
    ],
)  # fmt: skip
def test_what_no_proxy_does_not_name_goes_by_the_proxy(monkeypatch, no_proxy, url):
    """A form that means nothing excepts nothing, and is no error."""
    monkeypatch.setenv("HTTP_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(url) == "http://proxy.example:3128"
    Client(url).close()


def test_the_proxy_of_the_scheme_comes_before_that_of_all(monkeypatch):
    """As in other programs; a port is told by the scheme where none is written."""
    monkeypatch.setenv("ALL_PROXY", "http://all.example")
    monkeypatch.setenv("https_proxy", "http://tls.example")
    assert proxy_for("http://a.example") == "http://all.example"
    assert proxy_for("https://a.example") == "http://tls.example"
    assert is_excepted("a.example:443", Target("https", "a.example", 443))


@pytest.mark.parametrize("made", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ALL_PROXY", "socks5://user:secret@localhost:1080", r"pip install 'httpx\[socks\]'"),
        (
            "ALL_PROXY",
            "socks5h://localhost:1080",
            "socks5h://localhost:1080 of the environment needs one",
        ),
        ("HTTP_PROXY", "socks4://localhost:1080", "cannot be used"),
        ("http_proxy", "foo://user:secret@localhost", "foo://localhost of the environment cannot be used"),
        ("HTTP_PROXY", "http://localhost:port", "cannot be used"),
        ("HTTP_PROXY", "http://[::1", "cannot be used"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch, made, variable, value, says):
    """Of our own kind of error, with a way out, and without the password."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=says) as told:
        made("http://127.0.0.1:8000")
    assert "NO_PROXY" in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("made", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:port", "http://127.0.0.1:99999", "https://[zz]/"])
def test_an_address_that_is_none_is_a_sentence_when_the_client_is_made(made, url):
    """Not only at the first request."""
    with pytest.raises(UsageError, match="is not an address"):
        made(url)


@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_certificates_that_are_not_there_are_a_sentence(monkeypatch, made):
    """They are read when the client is made."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    with pytest.raises(UsageError, match=r"certificates .* cannot be read"):
        made("https://127.0.0.1:8000")


def test_a_proxy_that_can_be_used_is_used(monkeypatch):
    """The request comes to it, with the whole address; with NO_PROXY it goes straight there."""
    with Scripted(Reply(200, {"models": []})) as proxy, Scripted(Reply(200, {"models": []})) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with Client(server.url) as client:
            assert client.models() == []
        assert (len(proxy.asked), len(server.asked)) == (1, 0)
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        with Client(server.url) as client:
            assert client.models() == []
        assert (len(proxy.asked), len(server.asked)) == (1, 1)


def test_the_command_says_it_in_one_sentence():
    """Without a trace, as a wrong argument: the exit code is 2."""
    environment = {name: value for name, value in os.environ.items() if name.upper() not in PROXIES}
    command = [sys.executable, "-m", "neuroserve", "models"]
    environment["ALL_PROXY"] = "socks5://localhost:1"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("neuroserve: The proxy socks5://localhost:1 of the environment needs")


def test_a_password_of_a_proxy_is_not_shown():
    """Whatever else it holds."""
    assert shown("http://user:p@ss@proxy:3128") == "http://proxy:3128"
