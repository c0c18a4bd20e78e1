"""Which host names and which web pages a service without keys answers, and which pages may ask for predictions.

A browser on the machine of the service reaches it for every page it shows. Such a page can send requests (cross-site
request forgery), or point its own host name at this address (DNS rebinding). The first shows in `Origin`, the second
in `Host`. Programs that are no browser send no `Origin`, and mostly an address as `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from service.errors import Forbidden
from service.wire import Header

_HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")
_NAME = re.compile(r"(?:\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)")
_PORTS = {"http": "80", "https": "443"}
_MOST_KNOWN = 256
_NEVER_BY_HOST = ("/health/", "/v2/health/")
_ALLOWED_HEADERS = (
    b"authorization, content-type, content-encoding, inference-header-content-length, x-canary-key, x-request-id, "
    b"traceparent, tracestate"
)
_EXPOSED_HEADERS = (
    b"x-request-id, x-model-version, x-queue-ms, x-run-ms, x-batch-rows, x-provider, x-warnings, x-canary, "
    b"retry-after, inference-header-content-length"
)
_TELLING = frozenset({b"host", b"origin", b"x-forwarded-host"})
_PREFLIGHT_S = b"600"
"""How long a browser may remember what a preflight said."""


class Host(NamedTuple):
    """A host in lower case, and its port as text if there is one."""

    name: str
    port: str | None


def parse_hosts(given: str) -> list[str]:
    """Host names separated by commas, in lower case and without ports; `*.name` is every name below, `*` any.

    ValueError with a sentence for what is no host name.
    """
    names = []
    for each in filter(None, (part.strip().lower() for part in given.split(","))):
        name = each if _is_address(each) else each.partition(":")[0].removesuffix(".")
        if not (_is_address(name) or _NAME.fullmatch(name)) or "/" in each or (name == "*" and each != "*"):
            raise ValueError(f"{each!r} is not a host name; give names such as models.example.com or *.example.com")
        names.append(name)
    return names


def parse_origins(given: str) -> list[str]:
    """Origins of web pages separated by commas, as browsers write them; `*` is any.

    ValueError with a sentence for what is no origin.
    """
    found = []
    for each in filter(None, (part.strip() for part in given.split(","))):
        origin = "*" if each == "*" else _normal(each.rstrip("/"))
        if origin is None:
            raise ValueError(f"{each!r} is not the origin of a web page; write it as https://app.example.com")
        found.append(origin)
    return found


def opens_to_pages(path: str) -> bool:
    """Whether a path is a predict route: what NEUROSERVE_CORS_ORIGINS opens to other pages."""
    if path.startswith("/predict/"):
        return True
    parts = path.split("/")
    if path.startswith("/models/"):
        return len(parts) in {4, 5} and parts[3:] in (["predict"], ["predict", "batch"])
    return path.startswith("/v2/models/") and parts[-1] == "infer" and len(parts) in {5, 7}


class Origins:
    """The rules of one service. `listens_on` is NEUROSERVE_HOST; `is_public` tells pages that anyone may show."""

    def __init__(
        self,
        allowed_hosts: str | None,
        cors_origins: str | None,
        listens_on: str,
        is_public: Callable[[str, str], bool],
    ) -> None:
        listed = parse_hosts(allowed_hosts or "")
        self._any_host = "*" in listed
        self._below = tuple(name[1:] for name in listed if name.startswith("*."))
        own = socket.gethostname().lower().rstrip(".")
        short = own.partition(".")[0]
        self._names = {*listed, own, short, f"{short}.local", "localhost", listens_on.lower()}
        self._known: set[bytes] = set()
        self._cors = frozenset(parse_origins(cors_origins or ""))
        self._is_public = is_public

    def look_up_own_name(self) -> None:
        """Learn this machine's full name on a thread: a name server that is gone would hold up the start."""

        def learn() -> None:
            self._names.add(socket.getfqdn().lower().rstrip("."))

        threading.Thread(target=learn, name="own-name", daemon=True).start()

    def is_plain(self, headers: Iterable[Header]) -> bool:
        """Whether a request is of the common kind that `check` lets pass: hosts seen before, no page, no proxy."""
        for name, value in headers:  # noqa: SIM110 (twice as fast as a generator)
            if name in _TELLING and (name != b"host" or value not in self._known):
                return False
        return True

    def check(self, method: str, path: str, headers: Iterable[Header], forwarded_host: bytes | None = None) -> None:
        """Forbidden when a request names a strange host, or comes from a page of another origin.

        `forwarded_host` is the host that a trusted proxy was asked for.
        """
        hosts, origins = [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
        if forwarded_host is not None:
            hosts.append(forwarded_host)
        for host in hosts:
            if host not in self._known and not self._knows(host) and not _is_probe(path):
                raise Forbidden(
                    f"This service does not answer to the host name {_shown(host)}. Call it by its address or as "
                    "localhost, or list the name in NEUROSERVE_ALLOWED_HOSTS.",
                    code="host_not_allowed",
                )
        for origin in origins:
            if not self._may_call(method, path, origin, hosts):
                raise Forbidden(
                    f"A web page from {_shown(origin)} may not call this. NEUROSERVE_CORS_ORIGINS opens the predict "
                    "routes to the origins it lists; behind a proxy, pass on the host that the browser asked for.",
                    code="origin_not_allowed",
                )

    def allowed_origin(self, path: str, headers: Iterable[Header]) -> bytes | None:
        """The origin of the page that asks, where NEUROSERVE_CORS_ORIGINS opens this path to it."""
        if not self._cors or not opens_to_pages(path):
            return None
        for name, value in headers:
            if name == b"origin":
                return value if self._is_listed(value) else None
        return None

    def headers(self, path: str, headers: Iterable[Header]) -> list[Header]:
        """What an answer says to the browser of a page; every answer of an opened path differs by origin."""
        if not self._cors or not opens_to_pages(path):
            return []
        said = [(b"vary", b"Origin")]
        if (origin := self.allowed_origin(path, headers)) is not None:
            said += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED_HEADERS)]
        return said

    def preflight(self, method: str, path: str, headers: list[Header]) -> list[Header] | None:
        """The further headers of the answer to a preflight from a listed origin; None when this is no such request."""
        if method != "OPTIONS" or not self._cors:
            return None
        asked = {name for name, _ in headers}
        if b"access-control-request-method" not in asked:
            return None
        if self.allowed_origin(path, headers) is None:
            return None
        said = [
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_S),
        ]
        if b"access-control-request-private-network" in asked:
            said.append((b"access-control-allow-private-network", b"true"))
        return said

    def _knows(self, given: bytes) -> bool:
        host = _host(given)
        if self._any_host:
            return True
        if host is None:
            return False
        known = host.name in self._names or host.name.endswith((".localhost", *self._below)) or _is_address(host.name)
        if known and len(self._known) < _MOST_KNOWN:
            self._known.add(given)
        return known

    def _may_call(self, method: str, path: str, origin: bytes, hosts: list[bytes]) -> bool:
        if method in {"GET", "HEAD"} and self._is_public(method, path):
            return True
        if any(_is_same(origin, host) for host in hosts):
            return True
        return opens_to_pages(path) and self._is_listed(origin)

    def _is_listed(self, origin: bytes) -> bool:
        return bool(self._cors) and ("*" in self._cors or _normal(origin.decode("latin-1")) in self._cors)


def forwarded_hosts(headers: Iterable[Header]) -> list[bytes]:
    """The host that a proxy says it was asked for; of several proxies the outermost, which comes first."""
    said = [value for name, value in headers if name == b"x-forwarded-host"]
    return [said[-1].partition(b",")[0].strip()] if said else []


def _is_probe(path: str) -> bool:
    """Whether monitors ask here, which call a machine by any name."""
    return path == "/metrics" or path.startswith(_NEVER_BY_HOST)


def _is_same(origin: bytes, host: bytes) -> bool:
    """Whether a page's origin is the host it now asks; a default port may be written or not."""
    page = _normal(origin.decode("latin-1"))
    asked = _host(host)
    if page is None or asked is None:
        return False
    scheme, _, rest = page.partition("://")
    port = None if asked.port == _PORTS[scheme] else asked.port
    return rest == (asked.name if port is None else f"{asked.name}:{port}")


def _normal(origin: str) -> str | None:
    """An origin of the web in lower case, without the port that its scheme has anyway; None for any other."""
    scheme, _, rest = origin.lower().partition("://")
    host = _host(rest.encode("latin-1", "replace"))
    if scheme not in _PORTS or host is None:
        return None
    plain = host.port is None or host.port == _PORTS[scheme]
    return f"{scheme}://{host.name}" if plain else f"{scheme}://{host.name}:{host.port}"


def _host(given: bytes) -> Host | None:
    text = given.decode("latin-1").strip().lower()
    found = _HOST.fullmatch(text)
    if found is None:
        return Host(f"[{text}]", None) if _is_address(text) else None
    return Host(found[1].removesuffix("."), found[2])


def _is_address(text: str) -> bool:
    """Whether a text is an IP address, one of version 6 in brackets or not."""
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        ipaddress.IPv6Address(text[1:-1]) if bracketed else ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _shown(given: bytes) -> str:
    return repr(given[:100].decode("latin-1"))
