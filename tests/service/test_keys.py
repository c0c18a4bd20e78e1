"""API keys as text: what is taken, what is refused, and that no secret stays."""

import hashlib

import pytest

from service.keys import KeyFormatError, new_key, parse_keys
from service.settings import Settings

SECRET = "a-secret-of-some-length"


def test_keys_are_read_with_their_scopes_and_kept_as_hashes():
    """Plain and hashed secrets are the same key; comments and empty lines are nothing."""
    hashed = "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()
    lines = ["# who may call", "", f"web:predict:{SECRET}", f"ops:predict+admin:{hashed}  # by night"]
    web, ops = parse_keys(lines, "keys")
    assert (web.name, web.scopes, ops.name, ops.scopes) == ("web", {"predict"}, "ops", {"predict", "admin"})
    assert web.digest == ops.digest == hashlib.sha256(SECRET.encode()).digest()
    assert parse_keys([web.line], "again") == [web]
    assert SECRET not in repr(web) + web.line


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (SECRET, "NAME:SCOPES:SECRET"),
        (f"web:{SECRET}", "NAME:SCOPES:SECRET"),
        (f"two words:predict:{SECRET}", "NAME:SCOPES:SECRET"),
        (f"web:root:{SECRET}", "unknown scope; there are: admin, predict"),
        (f"web::{SECRET}", "unknown scope"),
        ("web:predict:short", "at least 16"),
        ("web:predict:sha256:1234", "64 small hexadecimal digits"),
        (f"web:predict:{SECRET}ä", "printable ASCII"),
    ],
)
def test_a_wrong_line_is_named_by_its_place_and_never_repeated(line, says):
    """The error tells where and why, and keeps the secret to itself."""
    with pytest.raises(KeyFormatError, match="keys, key 2") as error:
        parse_keys([f"a:admin:{SECRET}", line], "keys")
    assert says in str(error.value)
    assert SECRET not in str(error.value)


def test_two_keys_need_two_names():
    """A name in the log must mean one caller."""
    with pytest.raises(KeyFormatError, match="two keys are named 'web'"):
        parse_keys([f"web:predict:{SECRET}", f"web:admin:{SECRET}2"], "keys")


def test_a_new_key_is_random_and_its_line_is_its_hash():
    """What `neuroserve key` prints can be used at once."""
    secret, key = new_key("web", ["predict"])
    assert secret != new_key("web", ["predict"])[0]
    assert len(secret) > 40
    [read] = parse_keys([key.line], "keys")
    assert read.digest == hashlib.sha256(secret.encode()).digest()
    with pytest.raises(KeyFormatError):
        new_key("web", ["everything"])


def test_settings_keep_no_secret(monkeypatch):
    """Neither the settings nor their text show what the environment held."""
    monkeypatch.setenv("NEUROSERVE_API_KEYS", f"web:predict:{SECRET},ops:admin:{SECRET}2")
    settings = Settings()
    assert SECRET not in repr(settings) + settings.model_dump_json()
    assert [key.name for key in parse_keys(settings.api_keys.split(","), "kept")] == ["web", "ops"]
