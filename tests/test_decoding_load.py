"""Pictures of few bytes and many pixels, and clients that leave: honest requests beside them keep their pace."""

import asyncio
import io
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from tests.server import EXAMPLES, ROOT, Server, wait_until
from tests.test_hostile import memory_mb

pytestmark = pytest.mark.slow

SEVEN = (EXAMPLES / "seven.png").read_bytes()
WEBP = (ROOT / "tests" / "service" / "files" / "webp_25_megapixels.webp").read_bytes()
DEADLINE_S = 10.0


def encoded(picture, form, **options):
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def tiny_tiff():
    """Some hundred bytes of a TIFF of 25 megapixels."""
    return encoded(Image.new("1", (5000, 5000)), "TIFF", compression="group4")


def medium_png():
    """An honest drawing, not in MNIST's form, of half a megapixel."""
    sheet = Image.new("L", (700, 700), 255)
    sheet.paste(0, (330, 150, 380, 550))
    return encoded(sheet, "PNG")


def large_png():
    """About 100 KB of 25 megapixels with colour and transparency: nearly a second of work."""
    sheet = Image.new("RGBA", (5000, 5000), (255, 255, 255, 255))
    sheet.paste((0, 0, 0, 128), (2400, 1000, 2600, 4000))
    return encoded(sheet, "PNG")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("decoding"), workers=1) as server:
        yield server


def ask(server, picture, kind, stop, took):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while not stop.is_set():
            started = time.perf_counter()
            answer = client.post("/predict/digit", content=picture, headers={"Content-Type": kind})
            took.append((answer.status_code, time.perf_counter() - started))


@contextmanager
def asking(server, *pictures):
    """Clients in threads, one for each (file, type); the list of what each was answered, and after how long."""
    stop, results = threading.Event(), [[] for _ in pictures]
    threads = [
        threading.Thread(target=ask, args=(server, *picture, stop, took))
        for picture, took in zip(pictures, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def pace(server, picture, seconds=3.0):
    """How many requests one honest client gets answered, and the longest it waited."""
    with asking(server, (picture, "image/png")) as (took,):
        time.sleep(seconds)
    assert {status for status, _ in took} == {200}
    return len(took) / seconds, max(seconds for _, seconds in took)


@pytest.mark.parametrize(
    ("honest", "share"), [(SEVEN, 0.15), (medium_png(), 0.1)], ids=["fast path", "decoded off the loop"]
)
def test_honest_requests_keep_their_pace_beside_pictures_of_many_pixels(target, honest, share):
    """Six connections send 25 megapixels in a few bytes each, over and over: a fair share is left to the others.

    The bars are for a busy machine of two cores; without a queue it was a hundredth.
    """
    alone, _ = pace(target, honest)
    attackers = [(WEBP, "image/webp"), (tiny_tiff(), "image/tiff"), (large_png(), "image/png")] * 2
    with asking(target, *attackers) as attacked:
        beside, longest = pace(target, honest)
    print(f"{alone:.0f}/s alone, {beside:.0f}/s beside, longest {longest:.2f} s")
    assert beside > share * alone
    assert longest < 2.0
    assert {status for took in attacked for status, _ in took} <= {200, 422, 429, 504}


async def leave_at_once(server, picture, count):
    """So many clients that send a whole request and hang up."""
    url = httpx.URL(server.url)
    head = b"POST /predict/digit HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
    for _ in range(count):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head % len(picture) + picture)
        await writer.drain()
        writer.close()


def figure(server, name):
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_clients_that_left_are_not_worked_for(target):
    """Twelve large pictures whose senders hang up at once: at most what was begun is decoded, and nothing is kept."""
    picture = large_png()
    asyncio.run(leave_at_once(target, picture, 12))
    started = time.perf_counter()
    wait_until(lambda: figure(target, "neuroserve_decode_queue{") == 0, 5)
    assert time.perf_counter() - started < 5
    assert figure(target, 'neuroserve_request_seconds_count{route="/predict/digit",status="499"') >= 8


def test_sixty_large_bodies_at_once_are_bounded_in_memory(target):
    """Of 60 bodies of 10 MiB some are refused with 429 and a time to come back; the service holds a bounded number."""
    sheet = Image.effect_noise((3100, 3100), 60)
    body = encoded(sheet, "PNG", compress_level=0)[: 10 * 2**20 - 1000]
    peak, before = [], memory_mb(target)

    async def post(client):
        answer = await client.post("/predict/digit", content=body, headers={"Content-Type": "image/png"})
        return answer.status_code, answer.headers.get("retry-after")

    async def all_at_once():
        limits = httpx.Limits(max_connections=60)
        async with httpx.AsyncClient(base_url=target.url, timeout=60, limits=limits) as client:
            tasks = [asyncio.ensure_future(post(client)) for _ in range(60)]
            while not all(task.done() for task in tasks):
                peak.append(await asyncio.to_thread(memory_mb, target))
                await asyncio.sleep(0.05)
            return await asyncio.gather(*tasks, return_exceptions=True)

    answers = [each for each in asyncio.run(all_at_once()) if isinstance(each, tuple)]
    print(f"memory {max(peak) - before:+.0f} MB, {answers}")
    assert max(peak) - before < 600
    assert 429 in {status for status, _ in answers}
    assert all(after for status, after in answers if status == 429)
    assert figure(target, "neuroserve_bodies_bytes") == 0
