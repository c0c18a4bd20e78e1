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
import signal
import socket
import sys
import time
from ctypes import c_long
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from service import banner, metric_folder, shared
from service.doorkeeper import raise_file_limit
from service.drain import SETTLE_S, begin_no_more
from service.heartbeat import LOADING, Beats, Patience
from service.limits import Shared
from service.oip.rpc import port
from service.pauses import Pauses
from service.settings import Settings
from service.workers import trainer_mode, worker_count

log = logging.getLogger(__name__)

_BACKLOG = 2048
_LOOK_S = 1.0
_KILL_AFTER_S = 5.0
_MOST_FAILURES = 8
"""Starts in a row that may fail while no other worker serves; then the service ends, and whoever runs it is told."""


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
        self._connections = shared.array(c_long, self._wanted)
        self._callers = Shared(self._wanted)
        self._beats = Beats(self._wanted)
        self._patience = Patience(_LOOK_S)
        self._pauses = [Pauses() for _ in range(self._wanted)]
        self._again: dict[int, float] = {}  # places without a worker, and when each gets its next one

    def run(self) -> int:
        raise_file_limit()
        listener = _listen(self.settings)
        held = port.reserve(self.settings)
        if held is not None:
            self.settings = self.settings.model_copy(update={"grpc_port": held.getsockname()[1]})
        metrics_dir = metric_folder.make_folder(self.settings.state) if self._wanted > 1 else None
        if metrics_dir is not None:
            os.environ[metric_folder.VARIABLE] = str(metrics_dir)
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
            self._stop_workers(listener)
            if trainer is not None:
                trainer.stop(self.settings.shutdown_grace_s)
            listener.close()
            if held is not None:
                held.close()
            metric_folder.remove_folder(metrics_dir)

    def _watch(self, target: Any, listener: socket.socket, trainer: Any, wake: int) -> int:
        while True:
            readable = wait(
                [wake, *(each.reports for each in self._workers if not each.reports.closed)], self._rest_s()
            )
            if wake in readable and _told_to_stop(wake):
                return 0
            for each in list(self._workers):
                if each.reports in readable:
                    self._hear(each, listener)
                if each.place not in self._again and not each.process.is_alive() and not self._lose(each):
                    return 1
            self._kill_silent()
            self._start_due(target, listener)
            if trainer is not None:
                trainer.poll()

    def _rest_s(self) -> float:
        """Seconds until something is due though nothing has happened; the end of a process wakes at once."""
        now = time.monotonic()
        return max(0.0, min([_LOOK_S, *(at - now for at in self._again.values())]))

    def _hear(self, each: _Worker, listener: socket.socket) -> None:
        try:
            report = json.loads(each.reports.recv_bytes())
        except (EOFError, OSError):
            each.reports.close()
            each.process.join(1)
            return
        each.ready = True
        if all(other.ready for other in self._workers) and not self._announced:
            self._announced = True
            print(banner.text(listener.getsockname(), report, self._wanted), file=sys.stderr, flush=True)  # noqa: T201

    def _lose(self, dead: _Worker) -> bool:
        """Plan a new worker for a dead one.

        False when that is of no use: at the first start, which would only fail again, and when no worker serves and
        many starts have failed.
        """
        from service.metrics import forget_process

        pid, code = dead.process.pid or 0, dead.process.exitcode
        forget_process(pid)
        dead.reports.close()
        self._connections[dead.place] = 0
        self._callers.forget(dead.place)
        self._beats.forget(dead.place)
        if not dead.ready and not self._announced:
            log.critical("a worker ended with code %s before it was ready; see its message above", code)
            return False
        pause_s = self._pauses[dead.place].next(time.monotonic() - dead.started)
        self._again[dead.place] = time.monotonic() + pause_s
        serving = any(each.ready and each.process.is_alive() for each in self._workers)
        if not serving and self._pauses[dead.place].ends > _MOST_FAILURES:
            log.critical("no worker could be started again in %d tries; see their messages above", _MOST_FAILURES)
            return False
        when = f"in {pause_s:g} s" if pause_s else "now"
        state = "" if dead.ready else " before it was ready"
        log.error("worker %s ended with code %s%s and is replaced %s", pid, code, state, when)
        return True

    def _kill_silent(self) -> None:
        """End workers that are stopped or whose event loop is blocked; they are replaced like those that died."""
        self._patience.look(time.monotonic())
        for each in self._workers:
            limit_s = self.settings.worker_silent_s * (1 if each.ready else LOADING)
            silent_s = self._patience.silent_s(max(self._beats.last(each.place), each.started))
            if silent_s > limit_s and each.place not in self._again and each.process.is_alive():
                log.error(
                    "worker %s is stopped or blocked: its event loop has not turned for %.0f s, so it is killed",
                    each.process.pid,
                    silent_s,
                )
                each.process.kill()

    def _start_due(self, target: Any, listener: socket.socket) -> None:
        for place, at in list(self._again.items()):
            if time.monotonic() < at:
                continue
            try:
                self._workers[place] = self._start(target, listener, place)
            except OSError as exc:  # no memory, processes or file descriptors at the moment
                pause_s = self._pauses[place].next(0.0)
                self._again[place] = time.monotonic() + pause_s
                log.error("a worker cannot be started, the next try is in %g s: %s", pause_s, exc)
            else:
                del self._again[place]

    def _start(self, target: Any, listener: socket.socket, place: int) -> _Worker:
        from service.worker import Place

        mine, theirs = self._context.Pipe(duplex=False)
        where = Place(os.getpid(), place, self._connections, self._callers, self._beats)
        arguments = (self.settings, listener, theirs, where)
        process = self._context.Process(target=target, args=arguments, name=f"neuroserve-worker-{place}")
        try:
            process.start()
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        return _Worker(process, mine, place)

    def _stop_workers(self, listener: socket.socket) -> None:
        """Let every worker serve on while traffic goes elsewhere, then finish what it has, for the grace time."""
        for each in self._workers:
            if each.process.is_alive():
                each.process.terminate()
        drained_at = time.monotonic() + self.settings.drain_s
        for each in self._workers:
            each.process.join(max(0.0, drained_at - time.monotonic()))
        begin_no_more(listener)
        listener.close()  # the workers accept what is left, and close it after that
        until = time.monotonic() + SETTLE_S + self.settings.shutdown_grace_s + _KILL_AFTER_S
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
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it: a client that takes nothing more is dropped
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(settings.read_timeout_s * 1000)))
    listener.bind((settings.host, settings.port))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


_STOP = (signal.SIGTERM, signal.SIGINT)


def _wake_on_signals() -> int:
    """A file descriptor that becomes readable on SIGTERM, SIGINT and the end of a child; its bytes are the signals."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (*_STOP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reader


def _told_to_stop(wake: int) -> bool:
    return any(number in _STOP for number in os.read(wake, 4096))
