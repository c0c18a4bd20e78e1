"""API keys as text: one line each, the secret or its hash; a reader, and a maker of new ones.

A key is `NAME:SCOPES:SECRET`. SCOPES are joined by `+`. SECRET is the key itself or, better, `sha256:` and its hash, as
`neuroserve key NAME` prints it. Only hashes are kept. Keys are long and random, so a plain SHA-256 needs no salt.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

PREDICT, ADMIN = "predict", "admin"
SCOPES = frozenset({PREDICT, ADMIN})
_SHORTEST = 16
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class KeyFormatError(ValueError):
    """A line that is no key; the message says which line and why, never the secret."""


@dataclass(frozen=True)
class Key:
    """A caller: a name for the log and limits, what it may do, and the SHA-256 of its secret."""

    name: str
    scopes: frozenset[str]
    digest: bytes

    @property
    def line(self) -> str:
        """The key as text, with its hash."""
        return f"{self.name}:{'+'.join(sorted(self.scopes))}:sha256:{self.digest.hex()}"


def parse_keys(lines: Iterable[str], where: str) -> list[Key]:
    """The keys of some lines, `#` begins a comment; KeyFormatError names the first that is none, by its place."""
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            keys.append(_parse(text, f"{where}, key {number}"))
    return one_each(keys, where)


def one_each(keys: list[Key], where: str) -> list[Key]:
    """The same keys; KeyFormatError when two have one name."""
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise KeyFormatError(f"{where}: two keys are named {name!r}; give each its own name")
    return keys


def _parse(text: str, where: str) -> Key:
    name, _, rest = text.partition(":")
    scopes, _, secret = rest.partition(":")
    wanted = frozenset(scopes.split("+"))
    if not _NAME.fullmatch(name) or not secret:
        raise KeyFormatError(f"{where} is not of the form NAME:SCOPES:SECRET")
    if not wanted <= SCOPES:
        raise KeyFormatError(f"{where} ({name}) has an unknown scope; there are: {', '.join(sorted(SCOPES))}")
    if (hashed := _HASHED.fullmatch(secret)) is not None:
        return Key(name, wanted, bytes.fromhex(hashed[1]))
    if secret.startswith("sha256:"):
        raise KeyFormatError(f"{where} ({name}) has a hash that is not 64 small hexadecimal digits")
    if len(secret) < _SHORTEST or not (secret.isascii() and secret.isprintable()):
        raise KeyFormatError(f"{where} ({name}) needs a secret of at least {_SHORTEST} printable ASCII characters")
    return Key(name, wanted, hashlib.sha256(secret.encode()).digest())


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, Key]:
    """A new random secret, and the key to keep for it. KeyFormatError for a name or scope that cannot be."""
    secret = "ns_" + secrets.token_urlsafe(32)
    return secret, _parse(f"{name}:{'+'.join(scopes)}:{secret}", "the new key")
