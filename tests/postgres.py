"""A real PostgreSQL server of a test's own: a free port, a folder of its own, gone afterwards."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Self

import pytest

from tests.server import free_port

USER, PASSWORD = "neuro", "p@ss:word/1"  # what must be quoted in a URL must not be a problem
_QUOTED = "p%40ss%3Aword%2F1"


def programs() -> Path:
    """The folder of the newest server's programs; without one the test is skipped, in CI it fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    reason = "no PostgreSQL server is installed here; on Debian: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Postgres:
    """A server on 127.0.0.1; a context manager. Where the tests run as root it runs as another user, as it insists."""

    def __init__(self) -> None:
        self._bin = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="neuroserve-postgres-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []

    def __enter__(self) -> Self:
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
            shutil.chown(secret, "postgres", "postgres")
        self._call("initdb", "-U", USER, f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._call("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """As if the power had gone."""
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, database: str | None = None) -> str:
        """The address of a database, by default of a new one, which its first user makes."""
        name = database or f"jobs_{uuid.uuid4().hex[:8]}"
        return f"postgresql://{USER}:{_QUOTED}@127.0.0.1:{self.port}/{name}"

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._bin / program), "-D", str(self.data), *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, stderr=done.stderr)
