"""Which proxy leads to the service, by the variables that other programs go by: HTTP_PROXY, ALL_PROXY, NO_PROXY, …

httpx reads them too, but ends with a traceback for forms of NO_PROXY that others take, and does not know networks.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

_ENTRY = re.compile(r"(?:(?P<scheme>[a-z0-9+.-]+)://)?(?:\[(?P<six>[^\]]+)\]|(?P<name>[^:/]*))(?::(?P<port>\d+))?/*")

_BRACKETED = re.compile(r"\[([^\]]+)\](/\d+)?")


class Target(NamedTuple):
    """Where requests go: `host` in lower case and without brackets."""

    scheme: str
    host: str
    port: int


def proxy_for(base: str) -> str | None:
    """The address of the proxy for requests to `base`; None where they go straight there. ValueError for no address."""
    parts = urlsplit(base)
    scheme = parts.scheme.lower()
    target = Target(scheme, (parts.hostname or "").rstrip("."), parts.port or (443 if scheme == "https" else 80))
    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if not found or is_excepted(proxies.get("no", ""), target):
        return None
    return found if "://" in found else f"http://{found}"


def shown(proxy: str) -> str:
    """The address without the user and password that it may hold."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_excepted(no_proxy: str, target: Target) -> bool:
    """Whether NO_PROXY names the target: `*`, a name or one above it, an address or a network; a port may be added."""
    return any(_names(entry, target) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _names(entry: str, target: Target) -> bool:
    if entry == "*":
        return True
    address = _address(target.host)
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    found = _ENTRY.fullmatch(entry)
    if found is None:
        return False
    if (found["scheme"] or "all") not in {"all", target.scheme} or int(found["port"] or target.port) != target.port:
        return False
    if found["six"] is not None:
        return address is not None and address == _address(found["six"])
    name = found["name"].removeprefix("*").strip(".")
    return bool(name) and (target.host == name or (address is None and target.host.endswith("." + name)))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """An address or a network without a port, version 6 in brackets or not; None for anything else."""
    bracketed = _BRACKETED.fullmatch(entry)
    try:
        return ipaddress.ip_network(entry if bracketed is None else "".join(bracketed.groups("")), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
