"""Texts that are not news, for tests: written by hand or drawn by other means than the training's, kind by kind."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_ROOT = Path(__file__).parents[2]

_TEXT = Path(__file__).with_suffix(".txt").read_text("utf-8")
_LISTS = {
    name: body.strip().split("\n")
    for name, body in re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[\w+\]$|\Z)", _TEXT, re.DOTALL | re.MULTILINE)
}
SMALL_TALK, QUESTIONS, SCRIPTS, _SNIPPETS, _HEADLINES = (
    _LISTS[name] for name in ("small_talk", "questions", "scripts", "snippets", "headlines")
)

_FILES = (
    "service/playground/*.js",
    "service/playground/*.css",
    "service/*.py",
    "models/*.py",
    "deploy/**/*.y*ml",
    "*.toml",
)


def _code(generator: random.Random, count: int) -> list[str]:
    """Snippets of many languages, and lines out of this repository's own sources."""
    texts = [snippet.replace("\\n", "\n").replace("\\t", "\t") for snippet in _SNIPPETS]
    files = [path for pattern in _FILES for path in sorted(_ROOT.glob(pattern))]
    while len(texts) < count:
        lines = [line for line in generator.choice(files).read_text("utf-8").splitlines() if line.strip()]
        start = generator.randrange(max(1, len(lines) - 12))
        piece = "\n".join(lines[start : start + generator.randint(2, 12)])
        if sum(piece.count(sign) for sign in "(){}=;[]<>") >= 6:  # not a stretch of comment
            texts.append(piece)
    return texts


def _mixed(texts: list[str], generator: random.Random, count: int) -> list[str]:
    """The texts themselves, then two or three of them as one."""
    return texts + [" ".join(generator.sample(texts, generator.choice((2, 3)))) for _ in range(count - len(texts))]


def _nonsense(generator: random.Random, count: int) -> list[str]:
    """Anagrams, halves of words put together, letters by their frequency in English, and consonants with vowels."""
    english = " ".join(QUESTIONS + SMALL_TALK).lower()
    real = sorted({word for word in english.split() if word.isalpha() and len(word) > 3})
    letters = [letter for letter in english if letter.isalpha()]

    def anagram() -> str:
        word = list(generator.choice(real))
        generator.shuffle(word)
        return "".join(word)

    def halves() -> str:
        one, other = generator.sample(real, 2)
        return one[: len(one) // 2 + 1] + other[len(other) // 2 - 1 :]

    def frequent() -> str:
        return "".join(generator.choices(letters, k=generator.randint(3, 10)))

    def alternating() -> str:
        return "".join(
            generator.choice("bdfgklmnprstvz") + generator.choice("aeiou") for _ in range(generator.randint(2, 4))
        )

    ways: list[Callable[[], str]] = [anagram, halves, frequent, alternating]
    texts = []
    for number in range(count):
        texts.append(" ".join(ways[number % len(ways)]() for _ in range(generator.randint(2, 12))))
    return texts


def kinds(count: int = 300) -> dict[str, list[str]]:
    """About `count` texts of each kind; always the same."""
    generator = random.Random(42)
    return {
        "questions": _mixed(QUESTIONS, generator, 150),
        "greetings and small talk": _mixed(SMALL_TALK, generator, count),
        "other scripts": _mixed(SCRIPTS, generator, count),
        "code": _code(generator, count),
        "nonsense words": _nonsense(generator, count),
    }


def headlines() -> list[tuple[str, str]]:
    """Labels and headlines as of today, written by hand: news, however short and new."""
    found = [line.split(": ", 1) for line in _HEADLINES]
    return [(label, text) for label, text in found]


def auroc(news: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """How often a text of the news has a higher value than another text."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, news, "left") + np.searchsorted(ordered, news, "right")
    return float(below.mean() / 2 / len(others))
