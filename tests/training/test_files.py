"""Finding, downloading and verifying data files, against a real HTTP server."""

from __future__ import annotations

import hashlib
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.datasets import files
from training.datasets.files import DataDamagedError, DataMissingError, RemoteFile, fetch

BODY = bytes(range(256)) * 1024


class _Mirror(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/gone":
            self.send_error(404)
            return
        body = {"/good": BODY, "/other": BODY[::-1], "/short": BODY[:1000], "/long": BODY + BODY}[self.path]
        self.send_response(200)
        # `short` promises the whole and hangs up early, as a broken transfer does
        self.send_header("Content-Length", str(len(BODY) if self.path == "/short" else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture(name="mirror")
def _mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NEUROSERVE_STATE", str(tmp_path / "state"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mirror)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _file(*urls: str) -> RemoteFile:
    return RemoteFile("set.gz", hashlib.sha256(BODY).hexdigest(), len(BODY), urls)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        yield
    finally:
        folder.chmod(stat.S_IRWXU)


def test_a_missing_file_is_downloaded_verified_and_kept(mirror: str, tmp_path: Path) -> None:
    """A good mirror's file lands under its own name, nothing else is left, and the next call needs no mirror."""
    lines: list[str] = []
    path = fetch(tmp_path / "mnist", _file(f"{mirror}/good"), lines.append)
    assert path.read_bytes() == BODY
    assert [entry.name for entry in path.parent.iterdir()] == ["set.gz"]
    assert lines[0].startswith("downloading set.gz (0.3 MB)")
    assert lines[-1] == "set.gz: 100 % of 0.3 MB"
    assert fetch(tmp_path / "mnist", _file(), lines.append) == path


@pytest.mark.parametrize("bad", ["gone", "other", "short", "long"])
def test_a_bad_mirror_is_passed_over_for_the_next(mirror: str, tmp_path: Path, bad: str) -> None:
    """A dead, wrong, truncated or endless answer is dropped and the next mirror is asked."""
    path = fetch(tmp_path / "mnist", _file(f"{mirror}/{bad}", f"{mirror}/good"), lambda _: None)
    assert path.read_bytes() == BODY


def test_no_mirror_left_names_the_place_for_the_file(mirror: str, tmp_path: Path) -> None:
    """When nothing answers, the error says what each mirror did and where to put which file."""
    with pytest.raises(DataMissingError) as caught:
        fetch(tmp_path / "mnist", _file(f"{mirror}/other", "http://127.0.0.1:9/dead"), lambda _: None)
    text = str(caught.value)
    assert str(tmp_path / "mnist" / "set.gz") in text
    assert "expected" in text
    assert "127.0.0.1:9" in text
    assert list((tmp_path / "mnist").iterdir()) == []


def test_a_damaged_file_is_an_error_and_stays_as_it_is(mirror: str, tmp_path: Path) -> None:
    """A user's file with another hash is named with both hashes and never overwritten."""
    path = tmp_path / "mnist" / "set.gz"
    path.parent.mkdir()
    path.write_bytes(b"not it")
    with pytest.raises(DataDamagedError) as caught:
        fetch(path.parent, _file(f"{mirror}/good"), lambda _: None)
    assert hashlib.sha256(b"not it").hexdigest() in str(caught.value)
    assert _file().sha256 in str(caught.value)
    assert path.read_bytes() == b"not it"


def test_an_unwritable_data_folder_sends_downloads_to_the_cache(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a data folder that cannot be made, the file goes to the state folder and is found there next time."""
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("DATA_DIR", str(blocked))
    folder = files.data_root() / "mnist"
    path = fetch(folder, _file(f"{mirror}/good"), lambda _: None)
    assert path == tmp_path / "state" / "data" / "mnist" / "set.gz"
    assert fetch(folder, _file(), lambda _: None) == path


def test_a_file_in_a_read_only_folder_is_used_in_place(mirror: str, tmp_path: Path) -> None:
    """Reading needs no write permission."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "set.gz").write_bytes(BODY)
    with _read_only(folder):
        assert fetch(folder, _file(), lambda _: None) == folder / "set.gz"


def test_nowhere_to_write_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither folder writable the error names both."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NEUROSERVE_STATE", str(blocked))
    with pytest.raises(DataMissingError, match="can be written"):
        fetch(blocked / "mnist", _file("http://127.0.0.1:9/dead"), lambda _: None)
