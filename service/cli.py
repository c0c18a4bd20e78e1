"""The `neuroserve` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from service import logs
from service.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="neuroserve", description="Train a network, prove it, serve it.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("serve", help="serve the models of the store; settings come from NEUROSERVE_… variables")
    parser.parse_args(argv)
    return serve()


def serve() -> int:
    """Serve until SIGTERM or Ctrl-C."""
    try:
        settings = Settings()
    except ValidationError as exc:
        for error in exc.errors():
            name = "_".join(str(part) for part in error["loc"]).upper()
            print(f"neuroserve: NEUROSERVE_{name}: {error['msg']}", file=sys.stderr)  # noqa: T201
        return 2
    logs.configure(settings.log_format, settings.log_level)
    from service.supervisor import Supervisor

    try:
        return Supervisor(settings).run()
    except OSError as exc:
        print(f"neuroserve: cannot serve on {settings.host}:{settings.port}: {exc.strerror}", file=sys.stderr)  # noqa: T201
        return 1
