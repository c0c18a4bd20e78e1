"""The real service as a process, for tests that speak HTTP to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import httpx

from models.store import Store

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "service" / "examples"
SHIPPED = Store(ROOT / "models" / "zoo")
_URL = re.compile(r"neuroserve\s+(http://\S+)")


class Server:
    """`python -m service` on a free port with its own state folder; use as a context manager."""

    def __init__(
        self,
        state: Path,
        *,
        ready: bool = True,
        start_s: float = 60,
        program: tuple[str, ...] = ("-m", "service"),
        **settings: object,
    ) -> None:
        self.state = state
        self.lines: list[str] = []
        self._ready = ready
        self._start_s = start_s
        self._program = program
        self._settings = {"trainer": "off", "drain_s": 0, "workers": 2, "device": "cpu", **settings}
        self._url: str | None = None
        self._announced = threading.Event()

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("NEUROSERVE_")}
        environment |= {"NEUROSERVE_STATE": str(self.state), "NEUROSERVE_PORT": "0", "PYTHONUNBUFFERED": "1"}
        environment |= {f"NEUROSERVE_{key.upper()}": str(value) for key, value in self._settings.items()}
        self.process = subprocess.Popen(
            [sys.executable, *self._program],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        if not self._announced.wait(self._start_s) or self._url is None:
            self.__exit__()
            raise AssertionError("the service did not start:\n" + "".join(self.lines))
        self.client = httpx.Client(base_url=self._url, timeout=30)
        if self._ready:
            assert self.client.get("/health/ready").status_code == 200, self.log
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "client"):
            self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process.wait()

    def kill(self) -> None:
        """kill -9 of the service and everything it started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def url(self) -> str:
        assert self._url is not None
        return self._url

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.lines.append(line)
                if found := _URL.search(line):
                    self._url = found.group(1)
                if "week.json" in line:
                    self._announced.set()
        self._announced.set()

    def refused(self) -> str:
        """Start a service that must refuse to; what it said."""
        try:
            self.__enter__()
        except AssertionError:
            assert self.process.returncode not in {0, None}
            return self.log
        self.__exit__()
        raise AssertionError("the service started")


def wait_until(check, seconds: float, pause_s: float = 0.05):
    """What `check` gives as soon as it is true; fails after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := check():
            return value
        time.sleep(pause_s)
    raise AssertionError(f"not within {seconds} s")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def shipped(name: str) -> int:
    """The live version of a model in the zoo, which an empty store starts with."""
    live = SHIPPED.live(name)
    assert live is not None, f"the zoo has no live {name}"
    return live
