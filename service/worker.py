"""One HTTP process: the application under uvicorn on the parent's listening socket."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

import uvicorn

from models.lifeline import signal_when_parent_dies
from service import logs
from service.acceptor import Acceptor, Counts
from service.app import create_app
from service.direct import DirectProtocol
from service.doorkeeper import LOOK_S, RPC_SHARE, Doorkeeper, most_connections
from service.drain import SETTLE_S
from service.exchange import Desk, Head
from service.heartbeat import Beats, Pulse
from service.limits import Limits, Shared
from service.settings import Settings

log = logging.getLogger(__name__)

_TICK_S, _DRAIN_TICK_S = 1.0, 0.1


@dataclass(frozen=True)
class Place:
    """Where a worker stands: its parent's id, its index among the others, what it shares with them.

    Shared are the number of connections each has, what each key uses, and when each was last alive.
    """

    parent: int
    index: int
    connections: Counts
    callers: Shared
    beats: Beats


def run(settings: Settings, listener: socket.socket, reports: Connection, place: Place) -> None:
    """Serve until SIGTERM; `reports` gets one JSON message when the models are ready."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)  # until uvicorn listens; the parent's own handlers came with the fork
    signal_when_parent_dies(place.parent, signal.SIGTERM)  # a killed service leaves nothing behind
    logs.configure(settings.log_format, settings.log_level)
    app = create_app(settings)
    app.envelope.limits = Limits(settings, place.callers, place.index)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the application reads them itself, with more of them
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=int(settings.shutdown_grace_s) or 1,
        server_header=False,
        date_header=True,
    )
    server = _Server(config, listener, reports, place)
    server.run(sockets=[])
    if not server.started:
        sys.exit(3)


class _Server(uvicorn.Server):
    """Tells the parent when it serves; told to stop, it goes on for a while and says so, and lets go of followers."""

    _protocol: type[DirectProtocol] | None = None
    _drained_at: float | None = None

    def __init__(self, config: uvicorn.Config, listener: socket.socket, reports: Connection, place: Place) -> None:
        super().__init__(config)
        self._listener = listener
        self._reports = reports
        self._place = place
        self._settings: Settings = config.app.state.settings  # type: ignore[union-attr]
        self._signalled = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: not ready any more, and every answer ends its connection. A second ^C ends it all."""
        if self._protocol is None or (self._drained_at is not None and sig == signal.SIGINT):
            super().handle_exit(sig, frame)
        elif self._drained_at is None:
            self._captured_signals.append(sig)
            self._drained_at = time.monotonic() + self._settings.drain_s
            self.config.app.state.registry.closing = True  # type: ignore[union-attr]
            self._protocol.draining = True
            self._protocol.heads.clear()
            for connection in list(self.server_state.connections):
                connection.drain()  # type: ignore[union-attr]
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._signalled.set)

    async def main_loop(self) -> None:
        """Look once a second, and at once when a signal comes.

        uvicorn's own ten looks a second were a third of what an idle process cost.
        """
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S if self._drained_at is None else _DRAIN_TICK_S):
                    await self._signalled.wait()
            self._signalled.clear()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop now."""
        if self._drained_at is not None and time.monotonic() >= self._drained_at + SETTLE_S:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the last connections and answer what they ask, then end."""
        self.config.app.state.jobs.hang_up()  # type: ignore[union-attr]
        for server in self.servers:
            if isinstance(server, Acceptor):
                server.close()
                await server.wait_closed()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._pulse = Pulse(asyncio.get_running_loop(), self._beat)
        await super().startup(sockets)
        if not self.started:
            return
        if self._settings.grpc_port is not None:
            self.servers.append(await self._rpc_server())
        gc.collect()
        gc.freeze()  # what start-up made stays; collections then look at requests only
        self.servers.append(self._acceptor())
        times = self._settings.read_timeout_s, self._settings.keep_alive_s
        keeper = Doorkeeper(self.server_state.connections, times[0], self._most(), keep_alive_s=times[1])
        self.config.app.state.background.every("doorkeeper", LOOK_S, keeper.look)  # type: ignore[union-attr]
        self._reports.send_bytes(json.dumps(_report(self.config)).encode())

    def _beat(self) -> None:
        """Say that the loop turns; end this process, which is replaced, when something that must run does not."""
        self._place.beats.beat(self._place.index)
        if self._drained_at is not None or self.should_exit or not (dead := self.config.app.state.background.dead()):  # type: ignore[union-attr]
            return
        log.critical("%s", "; ".join(dead.values()))
        # what has ended may hold up an orderly end
        asyncio.get_running_loop().call_later(self._settings.drain_s + self._settings.shutdown_grace_s, os._exit, 1)
        signal.raise_signal(signal.SIGTERM)

    def _most(self) -> int:
        return most_connections(1 if self._settings.grpc_port is None else 1 - RPC_SHARE)

    async def _rpc_server(self) -> Any:
        """The gRPC server beside; uvicorn closes it as well."""
        from service.oip.rpc.calls import Door  # gRPC's threads would not survive the fork
        from service.oip.rpc.server import Server

        app: Any = self.config.app
        state = app.state
        door = Door(state.guard, app.envelope.limits, state.metrics, app.envelope.access)
        server = Server(door, state.registry, self._settings, state.decoding, app.version)
        await server.start()
        return server

    def _acceptor(self) -> Any:
        """Accepts in uvicorn's place; uvicorn closes it like a server of its own."""

        def make_protocol() -> asyncio.Protocol:
            return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        acceptor = Acceptor(self._listener, self._place.connections, self._place.index, make_protocol, self._most())
        app: Any = self.config.app

        class protocol(DirectProtocol):  # noqa: N801
            table = {} if app.envelope.limits.any else app.direct  # the short way counts nobody's requests
            most_body_bytes = app.state.settings.max_body_bytes
            guard = app.state.guard
            metrics = app.state.metrics
            desk = Desk()
            access = app.envelope.access
            heads: dict[bytes, Head] = {}  # noqa: RUF012 (of this process)

            def connection_lost(self, exc: Exception | None) -> None:
                acceptor.gone()
                super().connection_lost(exc)

        app.state.guard.on_change(protocol.heads.clear)
        self._protocol = protocol
        return acceptor


def _report(config: uvicorn.Config) -> dict[str, object]:
    state = config.app.state  # type: ignore[union-attr]
    registry = state.registry
    slots = [registry.loaded(name) for name in registry.defaults.values()]
    return {
        "providers": {slot.name: slot.live.engine.provider for slot in slots if slot is not None and slot.live},
        "problems": registry.problems(),
        "note": registry.device.reason,
        "trainer": state.trainer,
        "grpc_port": state.settings.grpc_port,
    }
