"""One greedy and one polite client, each with a key, on a real service: the polite one must not feel the other."""

import asyncio
import multiprocessing
import re
import time

import httpx
import pytest

from service.keys import new_key
from tests.server import EXAMPLES, Server

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SEVEN = (EXAMPLES / "seven.png").read_bytes()
GREEDY, ASKED_PER_S, ROUND_S = 32, 100, 2.5
ROUNDS = 4


def headers(secret):
    return {"Authorization": f"Bearer {secret}", "Content-Type": "image/png"}


async def polite(client, secret):
    """Seconds to each answer of a client that asks at a steady pace, over one connection."""
    took = []
    start = time.perf_counter()
    for turn in range(int(ASKED_PER_S * ROUND_S)):
        await asyncio.sleep(max(0.0, start + turn / ASKED_PER_S - time.perf_counter()))
        sent = time.perf_counter()
        answer = await client.post("/predict/digit", content=SEVEN, headers=headers(secret))
        took.append(time.perf_counter() - sent)
        assert answer.status_code == 200, answer.text
    return took


def greedy(url, secret, statuses):
    """A process of many connections that ask again the moment they are answered, whatever the answer is."""
    lines = [f"{name}: {value}" for name, value in headers(secret).items()]
    head = "\r\n".join(["POST /predict/digit HTTP/1.1", "Host: localhost", *lines, f"Content-Length: {len(SEVEN)}"])
    request = head.encode() + b"\r\n\r\n" + SEVEN

    async def ask():
        reader, writer = await asyncio.open_connection(url.host, url.port)
        while True:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            statuses[int(answer[9:12])] += 1
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer)[1]))

    async def all_of_them():
        await asyncio.gather(*(ask() for _ in range(GREEDY)))

    asyncio.run(all_of_them())


async def rounds(url, secrets, statuses):
    """The 99th percentiles of the polite client, alone and beside the greedy one, round by round."""
    alone, beside = [], []
    async with httpx.AsyncClient(base_url=url) as client:
        await polite(client, secrets["polite"])
        for _ in range(ROUNDS):
            alone.append(p99(await polite(client, secrets["polite"])))
            attack = multiprocessing.Process(target=greedy, args=(httpx.URL(url), secrets["greedy"], statuses))
            attack.start()
            beside.append(p99(await polite(client, secrets["polite"])))
            attack.kill()
            attack.join()
    return alone, beside


def p99(seconds):
    return sorted(seconds)[int(len(seconds) * 0.99)]


def test_a_greedy_client_slows_itself_not_the_polite_one(tmp_path):
    """The polite client's p99 is at most twice that of alone; the greedy one gets its share and 429 for the rest."""
    made = {name: new_key(name, ["predict"]) for name in ("polite", "greedy")}
    lines = ",".join(key.line for _, key in made.values())
    with Server(tmp_path, api_keys=lines, key_requests_per_s=150, key_concurrency=8) as server:
        secrets = {name: secret for name, (secret, _) in made.items()}
        statuses = multiprocessing.Array("l", 600, lock=False)
        alone, beside = asyncio.run(rounds(server.url, secrets, statuses))
    given, refused = statuses[200], statuses[429]
    print(f"p99 alone {alone}, beside {beside}; the greedy one got {given} answers and {refused} refusals")
    assert given + refused == sum(statuses)
    assert 0 < given <= 150 * (ROUND_S + 2) * ROUNDS
    assert refused > given
    ratios = sorted(with_it / without for without, with_it in zip(alone, beside, strict=True))
    assert ratios[ROUNDS // 2 - 1] <= 2, ratios  # the machine itself has slow moments
