"""Who may do what: every request is judged by its bearer key, or by its origin, before its body is read.

Keys come from the setting `NEUROSERVE_API_KEYS` (separated by commas) and from the file that
`NEUROSERVE_API_KEYS_FILE` names (one a line), which is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from service.errors import Forbidden, Unauthorized
from service.keys import ADMIN, PREDICT, Key, KeyFormatError, one_each, parse_keys
from service.origins import Origins, forwarded_hosts
from service.settings import Settings
from service.wire import Header

log = logging.getLogger(__name__)

ANY = "any"
WATCH_S = 0.5
_OPEN_PAGES = frozenset({"/", "/docs", "/redoc", "/openapi.json"})
_OPEN_BELOW = ("/health/", "/v2/health/", "/docs/static/", "/playground/")
"""What needs no key: probes, and pages that show nothing but what is in the repository."""
_ANY_KEY = frozenset({"/metrics", "/models", "/train/recipes"})
_BEARER = b"bearer "
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


def needed_scope(method: str, path: str) -> str | None:
    """The scope a request needs; `any` when every key will do, None when it needs no key.

    What no rule names needs `admin`, so that a route is closed until somebody has thought about it.
    """
    if path in _OPEN_PAGES or path.startswith(_OPEN_BELOW):
        return None
    if is_prediction(path):
        return PREDICT
    reads = method in _READING
    if reads and (path in _ANY_KEY or _is_about_a_model(path.split("/"))):
        return ANY
    return ADMIN


def is_prediction(path: str) -> bool:
    """Whether a path asks a model, or what a model takes."""
    if _under(path, "/predict") or _under(path, "/v1"):
        return True
    parts = path.split("/")[1:]
    if parts[0] == "models":
        return parts[2:] in (["predict"], ["predict", "batch"])
    return parts == ["v2"] or parts[:2] == ["v2", "models"] or parts == ["v2", "repository", "index"]


def _is_about_a_model(parts: list[str]) -> bool:
    """Whether a path tells a model's names, labels and figures: the model itself, its drift, its split, its reports."""
    if len(parts) < 3 or parts[1] != "models":
        return False
    rest = parts[3:]
    return rest in ([], ["drift"], ["canary"]) or (len(rest) == 3 and (rest[0], rest[2]) == ("versions", "report"))


def _is_public(method: str, path: str) -> bool:
    return needed_scope(method, path) is None


def _under(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


class Guard:
    """Judges every request by its key. With no key configured it asks for a host and an origin that are known."""

    def __init__(self, settings: Settings) -> None:
        self._listed = parse_keys((settings.api_keys or "").split(","), "NEUROSERVE_API_KEYS")
        self._file = settings.api_keys_file
        self.origins = Origins(settings.allowed_hosts, settings.cors_origins, settings.host, _is_public)
        self._stamp: tuple[int, int, int] | None = None
        self._told = ""
        self._changed: list[Callable[[], None]] = []
        self._keys = self._listed
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._keys = self._with_those_in(self._file)

    @property
    def closed(self) -> bool:
        """Whether keys are asked for."""
        return bool(self._listed) or self._file is not None

    def on_change(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever other keys hold: what was let in before must be judged anew."""
        self._changed.append(call)

    def check(
        self, method: str, path: str, headers: Iterable[Header], forwarded_host: bytes | None = None
    ) -> Key | None:
        """The key a request came with, or None where it needs none. Unauthorized or Forbidden say what is missing.

        `forwarded_host` is the host that a trusted proxy was asked for.
        """
        if not self.closed:
            self.origins.check(method, path, headers, forwarded_host)
            return None
        scope = needed_scope(method, path)
        if scope is None:
            return None
        secret = _bearer(headers)
        if secret is None:
            raise Unauthorized("This needs an API key: send the header Authorization: Bearer KEY.", code="key_missing")
        key = self._find(secret)
        if key is None:
            raise Unauthorized("This API key is not known here.", code="key_unknown")
        if scope != ANY and scope not in key.scopes:
            raise Forbidden(f"The key {key.name!r} lacks the scope {scope!r} that this needs.", code="scope_missing")
        return key

    def lets_in(self, method: str, path: str, headers: Iterable[Header]) -> bool:
        """Whether `check` has nothing against a request, and its answer needs no headers for a page elsewhere."""
        if not self.closed and self.origins.is_plain(headers):
            return True
        if self.origins.allowed_origin(path, headers) is not None:
            return False
        try:
            self.check(method, path, headers)
            if not self.closed:  # whether the proxy is trusted is not known here: its name must be right in any case
                self.origins.check(method, path, [(b"host", host) for host in forwarded_hosts(headers)])
        except (Unauthorized, Forbidden):
            return False
        return True

    def name_of(self, headers: Iterable[Header]) -> str | None:
        """The name of the key that a request shows, for the log; None where it shows none that is known."""
        secret = _bearer(headers) if self.closed else None
        key = self._find(secret) if secret is not None else None
        return key.name if key is not None else None

    def refresh(self) -> bool:
        """Read the key file again if it has changed; a file that cannot be used changes nothing and is told once."""
        if self._file is None:
            return False
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return False
        try:
            keys = self._with_those_in(self._file)
        except (OSError, KeyFormatError) as exc:
            if str(exc) != self._told:
                self._told = str(exc)
                log.error("the API keys stay as they were: %s", exc)
            return False
        self._stamp, self._told, self._keys = stamp, "", keys
        log.info("%d API keys are in force", len(keys))
        for call in self._changed:
            call()
        return True

    def _find(self, secret: bytes) -> Key | None:
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self._keys:  # all of them: the time must not tell which one is near
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _with_those_in(self, file: Path) -> list[Key]:
        lines = file.read_text("utf-8").splitlines()
        return one_each([*self._listed, *parse_keys(lines, str(file))], str(file))


def _bearer(headers: Iterable[Header]) -> bytes | None:
    found = [value for name, value in headers if name == b"authorization"]
    if len(found) != 1 or found[0][: len(_BEARER)].lower() != _BEARER:
        return None
    return found[0][len(_BEARER) :].strip() or None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def exposed(settings: Settings) -> str | None:
    """Why the service must not start as it is set: open to a network without keys. None when all is well."""
    if settings.api_keys or settings.api_keys_file or settings.allow_open_network or _is_loopback(settings.host):
        return None
    return (
        f"NEUROSERVE_HOST={settings.host} is open to the network, and no API key is set: anyone could use and change "
        "the models. Set NEUROSERVE_API_KEYS or NEUROSERVE_API_KEYS_FILE (`neuroserve key NAME` makes one), listen on "
        "127.0.0.1, or say NEUROSERVE_ALLOW_OPEN_NETWORK=true if something else keeps strangers out."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
