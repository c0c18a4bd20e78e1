"""The pages for people: the playground at `/`, and `/docs` and `/redoc` in its look. They need no other host.

All of them are files: of this package, or of the one that ships Swagger UI and ReDoc. A page's policy lets a browser
run these files only, and talk to this service only.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request, Response

from service.errors import NotFound

FILES = Path(__file__).resolve().parent.parent / "playground"
VENDOR = Path(fastapi_offline.__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""No inline script, no eval, and no text of anyone that a script could turn into markup."""
_VIEWER = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src blob:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Swagger UI and ReDoc write their own style elements, and ReDoc searches in a worker."""
_LOGO = (b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"docs/static/favicon.png")
"""The one thing that ReDoc would fetch from another host, and what it shows here."""
_LINK = re.compile(rb' (?:href|src)="(?=[a-z./])')
_COMMON = {
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    """One file as it goes out: its bytes, the same compressed, its type and its tag."""

    body: bytes
    zipped: bytes
    type: str
    tag: str


@router.api_route("/", methods=["GET", "HEAD"])
def home(request: Request) -> Response:
    """The playground."""
    return _send(request, _asset(FILES / "index.html"), _STRICT)


@router.api_route("/docs", methods=["GET", "HEAD"])
def docs(request: Request) -> Response:
    """Every call, to try in the browser."""
    return _send(request, _page(request, "docs.html"), _VIEWER)


@router.api_route("/redoc", methods=["GET", "HEAD"])
def redoc(request: Request) -> Response:
    """Every call, to read."""
    return _send(request, _page(request, "redoc.html"), _VIEWER)


@router.api_route("/playground/{name}", methods=["GET", "HEAD"])
def part(request: Request, name: str) -> Response:
    """A style, a script or the sample of the pages."""
    return _send(request, _asset(_known(FILES, name)), _STRICT)


@router.api_route("/docs/static/{name}", methods=["GET", "HEAD"])
def vendored(request: Request, name: str) -> Response:
    """A file of Swagger UI or ReDoc."""
    return _send(request, _asset(_known(VENDOR, name)), _VIEWER)


def _known(folder: Path, name: str) -> Path:
    """A file of the folder; the name is compared and never becomes a path."""
    for path in folder.iterdir():
        if path.name == name and path.suffix in TYPES:
            return path
    raise NotFound(f"There is no page file {name!r}.", code="page_not_found")


def _page(request: Request, name: str) -> Asset:
    """A page beside `/`; with a slash behind its path a browser takes its links from one folder further down."""
    path = FILES / name
    return _read(path, path.stat().st_mtime_ns, below=bool(request.scope["state"].get("has_last_slash")))


def _asset(path: Path) -> Asset:
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _read(path: Path, _changed_ns: int, *, below: bool = False) -> Asset:
    """Read once, when it is first asked for: a service that only predicts holds none of it."""
    body = path.read_bytes().replace(*_LOGO) if path.parent == VENDOR else path.read_bytes()
    if below:
        body = _LINK.sub(rb"\g<0>../", body)
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:24]}"'
    return Asset(body, gzip.compress(body, 6, mtime=0), TYPES[path.suffix], tag)


def _send(request: Request, asset: Asset, policy: str) -> Response:
    headers = {**_COMMON, "Content-Security-Policy": policy, "ETag": asset.tag}
    asked = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if asset.tag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    body = asset.body
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        body, headers["Content-Encoding"] = asset.zipped, "gzip"
    if request.method == "HEAD":
        headers["Content-Length"] = str(len(body))
        body = b""
    return Response(body, headers=headers, media_type=asset.type)


def _takes_gzip(accepted: str) -> bool:
    """Whether the header names gzip and does not forbid it by `q=0`."""
    parts = (part.replace(" ", "").lower().split(";") for part in accepted.split(","))
    return any(name == "gzip" and not {"q=0", "q=0.0"} & set(more) for name, *more in parts)
