"""The port of the gRPC server, held by the parent process; and whether there can be a server at all. Loads no gRPC."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec

from service.settings import Settings


def missing(settings: Settings) -> str | None:
    """Why the gRPC server that is asked for cannot be had, or None."""
    if settings.grpc_port is None:
        return None
    if sys.platform == "win32":
        return "NEUROSERVE_GRPC_PORT is set, but processes cannot share a port on this system; unset it."
    if _is_there("grpc") and _is_there("google.protobuf"):
        return None
    return (
        "NEUROSERVE_GRPC_PORT is set, but the packages for it are not installed: install the extra `grpc` "
        "(pip install 'neuroserve[grpc]'), or unset NEUROSERVE_GRPC_PORT."
    )


def reserve(settings: Settings) -> socket.socket | None:
    """The address of the gRPC server, bound but not listened on; None where there is to be no such server.

    The workers listen on it each for itself, and the kernel spreads connections over them. OSError when it is taken.
    """
    if settings.grpc_port is None:
        return None
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    address = (settings.host, settings.grpc_port)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # a socket that shares its port would not tell
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as exc:
        held.close()
        raise OSError(exc.errno, exc.strerror, "{}:{}".format(*address)) from None
    return held


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
