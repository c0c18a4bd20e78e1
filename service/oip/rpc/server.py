"""The gRPC server of one worker, on its event loop; the workers share the port."""

from __future__ import annotations

import asyncio
import sys

import grpc

from service.decoding import DecodeQueue
from service.doorkeeper import RPC_SHARE, most_connections
from service.oip.rpc.calls import Calls, Door
from service.oip.rpc.inference import Inference
from service.oip.rpc.views import Views
from service.registry import Registry
from service.settings import Settings

_MOST_CALLS = 256
"""Calls that one connection may have open; further ones wait in the client."""
_PING_MS, _PONG_MS = 60_000, 20_000
"""A connection whose other end says nothing for so long is asked whether it lives, and has so long to answer."""


class Server:
    """Create it on the event loop of the application. It closes as servers of asyncio do."""

    def __init__(self, door: Door, registry: Registry, settings: Settings, decoding: DecodeQueue, version: str) -> None:
        self._grace_s = settings.shutdown_grace_s
        self._calls = Calls(
            door,
            Inference(registry, settings, door.metrics, decoding),
            Views(registry, settings, door.metrics, version),
            settings,
        )
        self._server = grpc.aio.server(options=_options(settings))
        self._server.add_generic_rpc_handlers((self._calls,))
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._address = f"{host}:{settings.grpc_port}"
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. RuntimeError when the address cannot be had."""
        self._server.add_insecure_port(self._address)
        await self._server.start()

    def close(self) -> None:
        """Take no further call; those in hand have the time of grace."""
        self._calls.close()
        self._stopping = asyncio.create_task(self._server.stop(self._grace_s), name="rpc-stop")

    async def wait_closed(self) -> None:
        """Wait for the calls in hand."""
        if self._stopping is not None:
            await self._stopping


def _options(settings: Settings) -> list[tuple[str, int]]:
    idle_ms = max(1, int(settings.read_timeout_s * 1000))
    return [
        ("grpc.so_reuseport", int(sys.platform != "win32")),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.per_message_decompression", 0),  # it knows no bound; see Calls
        ("grpc.max_concurrent_streams", _MOST_CALLS),
        ("grpc.server_handshake_timeout_ms", idle_ms),
        ("grpc.max_allowed_incoming_connections", most_connections(RPC_SHARE)),
        ("grpc.max_connection_idle_ms", idle_ms),  # clients connect again by themselves
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PONG_MS),
    ]
