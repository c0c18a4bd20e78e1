"""Clients that mean harm, or are merely broken: each is bounded in time and memory, and the others are answered."""

import asyncio
import gzip
import io
import json
import re
import resource
import struct
import threading
import time
import zlib
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server import EXAMPLES, Server, wait_until

pytestmark = pytest.mark.slow

SEVEN = (EXAMPLES / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
READ_TIMEOUT_S = 3
IDLE = 10_000


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * IDLE), hard))
    with Server(tmp_path_factory.mktemp("hostile"), read_timeout_s=READ_TIMEOUT_S) as server:
        yield server
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def workers(server):
    """The ids of the processes that answer."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text("ascii")
    return [int(child) for child in children.split()]


def memory_mb(server):
    """Resident memory of all workers."""
    pages = [re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{each}/status").read_text("ascii")) for each in workers(server)]
    return sum(int(page[1]) for page in pages) / 1024


@contextmanager
def others_are_answered(server, within_s=2.0, grows_mb=64):
    """While the body runs another client asks; every answer must be right and in time, and memory must stay."""
    took, stop = [], threading.Event()
    before = memory_mb(server)

    def ask():
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                started = time.perf_counter()
                answer = client.post("/predict/digit", content=SEVEN, headers=PNG)
                took.append(time.perf_counter() - started if answer.json().get("digit") == 7 else 1e9)
                stop.wait(0.02)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        yield took
        wait_until(lambda: len(took) > 3, 10)  # enough to judge by, however soon the body was done
    finally:
        stop.set()
        asker.join()
    grown = memory_mb(server) - before
    print(f"{len(took)} others, slowest {max(took):.3f} s, memory {grown:+.1f} MB")
    assert max(took) < within_s
    assert grown < grows_mb


async def connect(server):
    url = httpx.URL(server.url)
    return await asyncio.open_connection(url.host, url.port)


async def dribble(server, head, piece):
    """A client that sends a piece every now and then; what the service said before it hung up, and after how long."""
    reader, writer = await connect(server)
    started = time.perf_counter()
    writer.write(head)
    said = b""
    while time.perf_counter() - started < 10 * READ_TIMEOUT_S:
        try:
            writer.write(piece)
            said += await asyncio.wait_for(reader.read(4096), 0.3)
        except TimeoutError:
            continue
        except OSError:
            break
        if reader.at_eof() or said:
            break
    writer.close()
    return said, time.perf_counter() - started


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"POST /predict/digit HTTP/1.1\r\nHost: localhost\r\n", b"X-Slow: 1\r\n"),
        (
            b"POST /predict/digit HTTP/1.1\r\nHost: [::1]\r\nContent-Type: image/png\r\nContent-Length: 9000\r\n\r\n",
            b"x",
        ),
        (b"POST /predict/digit/batch HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"P", b""),
    ],
    ids=["head", "body", "chunks", "nothing"],
)
def test_a_client_that_dribbles_is_hung_up_on(target, head, piece):
    """Head or body, a hundred at once: each gets 408 when its time is over, and no other client waits."""

    async def hundred():
        return await asyncio.gather(*(dribble(target, head, piece) for _ in range(100)))

    with others_are_answered(target):
        answers = asyncio.run(hundred())
    assert all(said.startswith(b"HTTP/1.1 408") for said, _ in answers), {said[:40] for said, _ in answers}
    assert max(took for _, took in answers) < READ_TIMEOUT_S + 4


def test_ten_thousand_idle_connections_are_borne_and_let_go(target):
    """They cost little memory, others are answered, and the service hangs up when their time is over."""

    async def open_all():
        kept = []
        for _ in range(IDLE // 200):
            kept += await asyncio.gather(*(connect(target) for _ in range(200)))
        ended = asyncio.gather(*(reader.read() for reader, _ in kept), return_exceptions=True)
        await asyncio.wait_for(ended, READ_TIMEOUT_S + 20)
        for _, writer in kept:
            writer.close()
        return len(kept)

    with others_are_answered(target, within_s=3, grows_mb=IDLE * 0.012):
        assert asyncio.run(open_all()) == IDLE


@pytest.mark.parametrize(
    "flood",
    [b"X-%d: " % 1 + b"a" * 70_000, b"\r\n".join(b"X-%d: a" % number for number in range(20_000))],
    ids=["one long", "many"],
)
def test_a_flood_of_headers_is_cut_off(target, flood):
    """431, and the connection ends before the flood does."""

    async def pour():
        reader, writer = await connect(target)
        writer.write(b"POST /predict/digit HTTP/1.1\r\nHost: localhost\r\n")
        said = b""
        for _ in range(200):
            writer.write(flood)
            try:
                said += await asyncio.wait_for(reader.read(4096), 0.01)
            except TimeoutError:
                continue
            except OSError:
                break
            break
        writer.close()
        return said

    with others_are_answered(target):
        for _ in range(5):
            assert asyncio.run(pour()).startswith(b"HTTP/1.1 431")
            time.sleep(0.1)


def png_of(width, height):
    """A picture file whose head promises a size, with next to nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(min(width * height, 60_000_000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_bomb():
    """A small picture that carries a compressed text of a hundred megabytes."""
    from PIL import Image, PngImagePlugin

    told = PngImagePlugin.PngInfo()
    told.add_text("bomb", "a" * 100_000_000, zip=True)
    file = io.BytesIO()
    Image.new("L", (28, 28), 255).save(file, "PNG", pnginfo=told)
    return file.getvalue()


BODIES = {
    "a picture of 10 gigapixels": (PNG, lambda: png_of(100_000, 100_000), {413, 422}),
    "a picture just over the limit": (PNG, lambda: png_of(25_000_001, 1), {413, 422}),
    "a picture with a hidden text": (PNG, text_bomb, {400, 413, 422}),
    "deeply nested lists": (JSON, lambda: b"[" * 5_000_000, {400, 422}),
    "deeply nested pixels": (JSON, lambda: b'{"pixels":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", {400, 422}),
    "deeply nested objects with NaN": (JSON, lambda: b'{"a":' * 1_000_000 + b"NaN" + b"}" * 1_000_000, {400, 422}),
    "ten megabytes of digits": (JSON, lambda: b'{"pixels": [[' + b"9" * 10_000_000 + b"]]}", {400, 422}),
    "digits with NaN beside them": (JSON, lambda: b'{"pixels": [[NaN, ' + b"9" * 10_000_000 + b"]]}", {400, 422}),
    "bytes that are no UTF-8": (JSON, lambda: b'{"image": "\xff\xfe\xc0\x80"}', {400, 422}),
    "half a surrogate": (JSON, lambda: b'{"image": "\\ud800"}', {400, 422}),
    "a body of the wrong coding": ({**PNG, "Content-Encoding": "gzip"}, lambda: gzip.compress(SEVEN), {415}),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bomb_is_refused_in_time(target, name):
    """Each is answered with a sentence, soon, at the expense of nobody."""
    headers, make, statuses = BODIES[name]
    body = make()
    with others_are_answered(target, grows_mb=150):
        for path in ("/predict/digit", "/predict/digit/batch") if headers is JSON else ("/predict/digit",):
            started = time.perf_counter()
            answer = target.client.post(path, content=body, headers=headers)
            assert answer.status_code in statuses, (path, answer.status_code, answer.text[:300])
            assert answer.json()["detail"].endswith(".")
            assert time.perf_counter() - started < 3
        time.sleep(0.2)


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "' + b"\xff" * 100 + b'"}',
        b'{"values": ' + b"[" * 200_000,
        b'{"values": [[' + b"1" * 5_000_000 + b"]]}",
    ],
    ids=["bad UTF-8", "nested", "digits"],
)
def test_a_hostile_sequence_is_refused_in_time(target, body):
    """The same for texts and series, alone and in a batch."""
    with others_are_answered(target):
        for path, sent in (("/predict/sequence", body), ("/predict/sequence/batch", b'{"inputs": [' + body + b"]}")):
            answer = target.client.post(path, content=sent, headers=JSON)
            assert answer.status_code in {400, 422}, answer.text[:300]
        time.sleep(0.2)


def test_the_service_is_well_afterwards(target):
    """No worker died on the way, and no error was left in the log."""
    assert target.client.get("/health/ready").status_code == 200
    assert "is replaced" not in target.log
    assert "Traceback" not in target.log, target.log[-2000:]
    assert json.loads(target.client.post("/predict/digit", content=SEVEN, headers=PNG).content)["digit"] == 7
    wait_until(lambda: len(workers(target)) == 2, 5)
