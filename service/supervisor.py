"""The parent process: binds the address, forks the HTTP workers, keeps them and the embedded trainer alive.

The application is imported once, before the fork, so that workers share its pages; models are loaded after it, for
neither ONNX Runtime's nor CUDA's threads survive a fork.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from service import banner
from service.doorkeeper import raise_file_limit
from service.limits import Shared
from service.oip.rpc import port
from service.settings import Settings
from service.workers import trainer_mode, worker_count

log = logging.getLogger(__name__)

_BACKLOG = 2048
_POLL_S = 0.5
_RESTART_PAUSE_S = 1.0
_KILL_AFTER_S = 5.0


@dataclass
class _Worker:
    process: BaseProcess
    reports: Connection
    place: int
    started: float = field(default_factory=time.monotonic)
    ready: bool = False


class Supervisor:
    """Runs the service until it is told to stop; `run` returns the exit code."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._workers: list[_Worker] = []
        self._wanted = worker_count(settings)
        self._announced = False
        self._context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._connections = self._context.RawArray("l", self._wanted)
        self._callers = Shared(self._wanted)

    def run(self) -> int:
        raise_file_limit()
        listener = _listen(self.settings)
        held = port.reserve(self.settings)
        if held is not None:
            self.settings = self.settings.model_copy(update={"grpc_port": held.getsockname()[1]})
        metrics_dir = tempfile.mkdtemp(prefix="neuroserve-metrics-")
        if self._wanted > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
        from service import worker  # only now: the metrics choose their form when they are imported
        from service.device import package_conflict

        if (conflict := package_conflict()) is not None:
            log.warning("%s", conflict)
        wake = _wake_on_signals()
        gc.collect()
        gc.freeze()  # before the fork: pages the collector never touches stay shared
        trainer = self._trainer()
        try:
            self._workers = [self._start(worker.run, listener, place) for place in range(self._wanted)]
            if trainer is not None:
                trainer.start()
            return self._watch(worker.run, listener, trainer, wake)
        finally:
            self._stop_workers()
            if trainer is not None:
                trainer.stop(self.settings.shutdown_grace_s)
            listener.close()
            if held is not None:
                held.close()
            shutil.rmtree(metrics_dir, ignore_errors=True)

    def _watch(self, target: Any, listener: socket.socket, trainer: Any, wake: int) -> int:
        while True:
            sources: list[Any] = [wake, *(each.reports for each in self._workers)]
            readable, _, _ = select.select(sources, [], [], _POLL_S)
            if wake in readable:
                os.read(wake, 64)
                return 0
            for each in list(self._workers):
                if each.reports in readable:
                    self._hear(each, listener)
                if not each.process.is_alive() and not self._replace(each, target, listener):
                    return 1
            if trainer is not None:
                trainer.poll()

    def _hear(self, each: _Worker, listener: socket.socket) -> None:
        try:
            report = json.loads(each.reports.recv_bytes())
        except EOFError:
            each.process.join(1)
            return
        each.ready = True
        if all(other.ready for other in self._workers) and not self._announced:
            self._announced = True
            print(banner.text(listener.getsockname(), report, self._wanted), file=sys.stderr, flush=True)  # noqa: T201

    def _replace(self, dead: _Worker, target: Any, listener: socket.socket) -> bool:
        """Start a new worker for a dead one; False when it died before it was ever ready, which would only repeat."""
        from service.metrics import forget_process

        code = dead.process.exitcode
        if not dead.ready:
            log.critical("a worker ended with code %s before it was ready; see its message above", code)
            return False
        log.error("worker %s ended with code %s and is replaced", dead.process.pid, code)
        forget_process(dead.process.pid or 0)
        if time.monotonic() - dead.started < _RESTART_PAUSE_S:
            time.sleep(_RESTART_PAUSE_S)
        self._connections[dead.place] = 0
        self._callers.forget(dead.place)
        self._workers[dead.place] = self._start(target, listener, dead.place)
        return True

    def _start(self, target: Any, listener: socket.socket, place: int) -> _Worker:
        from service.worker import Place

        mine, theirs = self._context.Pipe(duplex=False)
        arguments = (self.settings, listener, theirs, Place(os.getpid(), place, self._connections, self._callers))
        process = self._context.Process(target=target, args=arguments, name=f"neuroserve-worker-{place}")
        process.start()
        theirs.close()
        return _Worker(process, mine, place)

    def _stop_workers(self) -> None:
        """Let every worker finish what it has, for the grace time, then end it."""
        for each in self._workers:
            if each.process.is_alive():
                each.process.terminate()
        until = time.monotonic() + self.settings.shutdown_grace_s + _KILL_AFTER_S
        for each in self._workers:
            each.process.join(max(0.0, until - time.monotonic()))
            if each.process.is_alive():
                log.error("worker %s did not stop in time and is killed", each.process.pid)
                each.process.kill()
                each.process.join()

    def _trainer(self) -> Any:
        if trainer_mode(self.settings) != "embedded":
            return None
        from service.trainer import EmbeddedWorker

        return EmbeddedWorker(self.settings)


def _listen(settings: Settings) -> socket.socket:
    """The listening socket, shared by all workers. OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def _wake_on_signals() -> int:
    """A file descriptor that becomes readable on SIGTERM or SIGINT."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return reader
