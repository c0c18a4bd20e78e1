"""Records the answers anew, prints what changed, and keeps them in `answers.json.xz`; `--check` only compares."""

from __future__ import annotations

import argparse
import http.client
import json
import lzma
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.corpus.all import requests
from tests.corpus.calls import Call, Http, door
from tests.corpus.masks import difference, masked
from tests.corpus.services import services
from tests.corpus.wire import Answer

FILE = Path(__file__).with_name("answers.json.xz")

Answers = dict[str, list[Answer]]


def ask(calls: list[Call], folder: Path) -> Answers:
    """What real services in that folder answer now, masked."""
    found: Answers = {}
    with services(folder) as wire:
        for call in calls:
            try:
                found[call.name] = [masked(call, answer, wire.hidden) for answer in wire.ask(call)]
            except (http.client.HTTPException, AssertionError, OSError, ValueError) as error:
                found[call.name] = [Answer(f"{type(error).__name__}: {error}")]
    return found


def recorded() -> Answers:
    """The answers that were recorded."""
    content = json.loads(lzma.decompress(FILE.read_bytes()))
    return {
        name: [Answer(each["status"], [tuple(pair) for pair in each["headers"]], each["body"], each["tensors"])
               for each in answers]
        for name, answers in content.items()
    }  # fmt: skip


def changed(call: Call, expected: list[Answer], got: list[Answer]) -> str:
    """The request and how its answers differ; nothing where they are the same."""
    if len(expected) == len(got):
        found = [text for pair in zip(expected, got, strict=True) if (text := difference(*pair))]
    else:
        found = ["it was not recorded; record the corpus anew" if not expected else f"{len(got)} answers"]
    return "\n".join([_shown(call), *found]) if found else ""


def _shown(call: Call) -> str:
    """A request for people."""
    if not isinstance(call, Http):
        return f"=== {call.name}: {call.method} {str(call.messages)[:300]}"
    sent = call.raw[:200] or call.body[:200]
    return f"=== {call.name}: {call.method} {call.path} {dict(call.headers)} {sent!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare with what was recorded")
    options = parser.parse_args()
    calls, began = requests(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        got = ask(calls, Path(folder))
    before = recorded() if FILE.exists() else {}
    differences = [text for call in calls if (text := changed(call, before.get(call.name, []), got[call.name]))]
    print("\n\n".join(differences))
    if not options.check:
        content = {name: [asdict(answer) for answer in answers] for name, answers in got.items()}
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        FILE.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    doors = ", ".join(f"{name} {count}" for name, count in Counter(map(door, calls)).items())
    seconds = time.perf_counter() - began
    print(f"{len(calls)} requests in {seconds:.1f} s, {len(differences)} differ; {FILE.stat().st_size} bytes\n{doors}")
    if options.check and differences:
        sys.exit(1)


if __name__ == "__main__":
    main()
