"""The `neuroserve` command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from models import environment
from service import logs
from service.keys import PREDICT, SCOPES, KeyFormatError, new_key
from service.oip.rpc import port
from service.security import Guard, exposed
from service.settings import Settings
from service.tracing import missing

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="neuroserve", description="Train a network, prove it, serve it.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve", help="serve the models of the store; settings come from NEUROSERVE_… variables")
    key = verbs.add_parser("key", help="make a new API key: prints the secret once, and the line to keep")
    key.add_argument("name", help="who will use it")
    key.add_argument(
        "--scope", action="append", choices=sorted(SCOPES), help="what it opens, may be repeated; default: predict"
    )
    given = parser.parse_args(argv)
    return make_key(given.name, given.scope or [PREDICT]) if given.verb == "key" else serve()


def make_key(name: str, scopes: Sequence[str]) -> int:
    """Print a new secret for the caller, and its hashed line for the service."""
    try:
        secret, key = new_key(name, scopes)
    except KeyFormatError as exc:
        print(f"neuroserve: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"# for {name}, shown this once: Authorization: Bearer {secret}", file=sys.stderr)  # noqa: T201
    print(key.line)  # noqa: T201
    return 0


def serve() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    found = environment.check(os.environ, (environment.PREFIX + name.upper() for name in Settings.model_fields))
    if found.refusal is not None:
        print(f"neuroserve: {found.refusal}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        settings = Settings()
    except ValidationError as exc:
        for error in exc.errors():
            name = "_".join(str(part) for part in error["loc"]).upper()
            print(f"neuroserve: NEUROSERVE_{name}: {error['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    logs.configure(settings.log_format, settings.log_level)
    for note in found.notes:
        log.warning("%s", note)
    os.environ.pop("NEUROSERVE_API_KEYS", None)  # the settings hold the hashes; nothing that is started needs more
    if (refusal := _refusal(settings)) is not None:
        print(f"neuroserve: {refusal}", file=sys.stderr)  # noqa: T201
        return 2
    from service.supervisor import Supervisor

    try:
        return Supervisor(settings).run()
    except OSError as exc:
        address = exc.filename or f"{settings.host}:{settings.port}"
        print(f"neuroserve: cannot serve on {address}: {exc.strerror}", file=sys.stderr)  # noqa: T201
        return 1


def _refusal(settings: Settings) -> str | None:
    """Why the service must not start with these settings, or None."""
    try:
        Guard(settings)
    except KeyFormatError as exc:
        return str(exc)
    except OSError as exc:
        return f"NEUROSERVE_API_KEYS_FILE={settings.api_keys_file} cannot be read: {exc.strerror}"
    return exposed(settings) or missing() or port.missing(settings)
