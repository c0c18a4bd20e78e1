"""Texts that are not English news, composed by rules: questions, small talk, code, other scripts, nonsense.

None is taken from a data set. Code is that of Python's own library, which is wherever Python is, and of templates.
"""

from __future__ import annotations

import importlib.util
import random
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from training.datasets.exposure.grammar import Grammar, Rules

_FOLDER = Path(__file__).parent
_SCRIPTS = {
    "greek": (0x0391, 0x03C9), "cyrillic": (0x0410, 0x044F), "armenian": (0x0561, 0x0586), "hebrew": (0x05D0, 0x05EA),
    "arabic": (0x0621, 0x064A), "devanagari": (0x0905, 0x0939), "bengali": (0x0985, 0x09B9), "tamil": (0x0B85, 0x0BB9),
    "gurmukhi": (0x0A05, 0x0A39), "telugu": (0x0C05, 0x0C39), "thai": (0x0E01, 0x0E2E), "lao": (0x0E81, 0x0EAE),
    "georgian": (0x10D0, 0x10F0), "amharic": (0x1200, 0x1357), "khmer": (0x1780, 0x17A2), "hiragana": (0x3041, 0x3096),
    "katakana": (0x30A1, 0x30FA), "chinese": (0x4E00, 0x9FA5), "korean": (0xAC00, 0xD7A3), "emoji": (0x1F300, 0x1F64F),
    "signs": (0x2190, 0x27BF),
}  # fmt: skip
_UNSPACED = ("chinese", "hiragana", "katakana", "thai", "lao", "khmer", "emoji")
HELD = 8
"""One entry in so many of the lists is held out of the training."""
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "1234567890")
_SIGNS = "?!.,;:-_*#@$%&/()=+~^\"'"


@dataclass(frozen=True)
class News:
    """What the grammars borrow of the news: headlines, of which fragments are asked about, and words."""

    headlines: Sequence[str]
    words: Sequence[str]


@cache
def sections(file: str) -> dict[str, list[str]]:
    """The sections of a text file of this folder; entries are parted by lines of ---, else by | and line breaks."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"^#.*\n", "", (_FOLDER / file).read_text("utf-8"))
    for name, body in re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[\w+\]$|\Z)", text, re.DOTALL | re.MULTILINE):
        parts = re.split(r"\n---\n" if "\n---\n" in body else r"[|\n]", body)
        found[name] = [part.strip() for part in parts if part.strip()]
    return found


@cache
def library() -> list[str]:
    """Sources of Python's library, in lines without blanks at their ends; modules that lack a source are left out."""
    lines: list[str] = []
    for name in sections("lists.txt")["module"]:
        spec = importlib.util.find_spec(name) if name.partition(".")[0] in sys.stdlib_module_names else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            lines += [line.rstrip() for line in Path(spec.origin).read_text("utf-8").splitlines() if line.strip()]
    return lines


class Composer:
    """Draws texts of every kind; the same seed and news give the same texts.

    With `held` true or false all English and code comes from the entries that are held out, or from the others.
    """

    def __init__(self, news: News, seed: int, held: bool | None = None) -> None:
        self.news, self.held, self.random = news, held, random.Random(seed)  # noqa: S311 (texts, no secrets)
        self.lists, self.snippets = self._lists("everyday.txt"), self._lists("code.txt")["code"]
        self.english = Grammar(self._english_rules(), self.random)
        self.kinds: dict[str, tuple[float, Callable[[], str]]] = {
            "question": (26, lambda: self._several("question")),
            "command": (14, lambda: self._several("command")),
            "statement": (6, lambda: self._several("statement")),
            "talk": (10, lambda: self._several("talk")),
            "notice": (2, partial(self.english.draw, "notice")),
            "greeting": (3, lambda: self.english.draw("greeting")),
            **{
                name: (1.5, partial(self.english.draw, name))
                for name in ("letter", "review", "recipe", "story", "poem", "manual")
            },
            "library": (8, self._library),
            "code": (8, self._code),
            "nonsense": (8, self._nonsense),
            "mash": (3, self._mash),
            "salad": (1, self._salad),
            "script": (6, self._script),
            "language": (6, self._language),
            "signs": (2, self._punctuation),
            "number": (2, self._numbers),
        }

    def draw(self, kind: str) -> str:
        """One text of a kind."""
        return self.kinds[kind][1]()

    def mixture(self, count: int) -> list[tuple[str, str]]:
        """Kinds and texts, drawn by the kinds' weights."""
        names = list(self.kinds)
        drawn = self.random.choices(names, [weight for weight, _ in self.kinds.values()], k=count)
        return [(kind, self.draw(kind)) for kind in drawn]

    def _lists(self, file: str) -> dict[str, list[str]]:
        """The sections of a file, or the part of each that is or is not held out."""
        found = sections(file)
        if self.held is None:
            return found
        return {
            name: [entry for place, entry in enumerate(entries) if (place % HELD == 0) is self.held]
            for name, entries in found.items()
        }

    def _english_rules(self) -> Rules:
        lists, choice, chance = self.lists, self.random.choice, self.random.random

        def subject() -> str:
            draw = chance()
            if draw < 0.45:
                return self._fragment()
            if draw < 0.6:
                return f"{choice(('the', 'my'))} {self._or_word('thing')}"
            return choice(lists["concept"] if draw < 0.8 else lists["place"] if draw < 0.86 else lists["task"])

        mixed = {name: partial(self._or_word, name) for name in ("thing", "verb", "quality")}
        number = {"number": lambda: str(self.random.randint(1, 10 ** self.random.randint(1, 4)))}
        return {**lists, **mixed, **number, "subject": subject, "mood2": lists["quality"]}

    def _or_word(self, name: str) -> str:
        """An entry of a list, at times any word of the news: the form of a text matters, not what it is about."""
        return self.random.choice(self.lists[name] if self.random.random() < 0.75 else self.news.words)

    def _fragment(self) -> str:
        """One to five words out of a headline."""
        words = re.findall(r"[\w'.$-]+", self.random.choice(self.news.headlines)) or ["news"]
        start, length = self.random.randrange(len(words)), self.random.choice((1, 1, 2, 2, 3, 4, 5))
        return " ".join(words[start : start + length])

    def _several(self, rule: str) -> str:
        """Mostly one sentence of a rule, at times several or with a greeting; ended or not."""
        count = self.random.choice((1, 1, 1, 1, 1, 1, 2, 3, 6))
        end = self.random.choice(("", "", "?", ".", "!")) if count == 1 else self.random.choice((". ", "? ", " "))
        parts = [self.english.draw(rule) for _ in range(count)]
        if self.random.random() < 0.08:
            parts.insert(0, self.english.draw("greeting"))
        text = (end or ", ").join(parts) + end
        return text.capitalize() if self.random.random() < 0.5 else text

    def _library(self) -> str:
        lines = library() or [self._code()]
        start, count = self.random.randrange(len(lines)), self.random.choice((1, 2, 3, 5, 8, 15))
        return "\n".join(lines[start : start + count])

    def _code(self) -> str:
        template = self.random.choice(self.snippets).replace("\\n", "\n").replace("\\t", "\t")
        text = re.sub(r"\{(id|num|str)\}", lambda slot: self._lexeme(slot[1]), template)
        lines = text.split("\n")
        if len(lines) > 2 and self.random.random() < 0.3:
            start = self.random.randrange(len(lines) - 1)
            return "\n".join(lines[start : start + self.random.randint(1, 4)])
        return text

    def _lexeme(self, slot: str) -> str:
        """A name, number or string literal as programs have them."""
        if slot == "num":
            return str(self.random.randint(0, 10 ** self.random.randint(1, 5)))
        words = [self.random.choice(self.news.words) for _ in range(self.random.choice((1, 1, 2, 2, 3)))]
        if slot == "str":
            quote = self.random.choice("\"'")
            return quote + self.random.choice((" ", "_", "/")).join(words) + quote
        style = self.random.randrange(4)
        if style == 0:
            return words[0] + "".join(word.capitalize() for word in words[1:])
        return "_".join(words) if style == 1 else words[0] if style == 2 else self.random.choice(string.ascii_lowercase)

    def _nonsense(self) -> str:
        """Made-up words of random syllables, at times with a real word between them."""
        pieces = self.random.random() < 0.35
        words = [
            self.random.choice(self.news.words) if self.random.random() < 0.08 else self.made_up(pieces)
            for _ in range(self._length())
        ]
        return " ".join(words) + self.random.choice(("", "", ".", "?"))

    def made_up(self, pieces: bool) -> str:
        """A word that could be spoken: of syllables, or of the beginnings and ends of real words."""
        if pieces:
            count = self.random.choice((2, 2, 3))
            cut = [self.random.choice(self.news.words) for _ in range(count)]
            return "".join(word[:3] if self.random.random() < 0.5 else word[-3:] for word in cut)
        lists, choice = sections("lists.txt"), self.random.choice
        syllables = []
        for _ in range(choice((1, 2, 2, 3, 3, 4))):
            onset, coda = self.random.random() < 0.95, self.random.random() < 0.55
            syllables += [choice(lists["onset"]) * onset, choice(lists["vowel"]), choice(lists["coda"]) * coda]
        return "".join(syllables)

    def _mash(self) -> str:
        """Keys struck at random, of one row or of all."""
        keys = self.random.choice((*_ROWS[:3], string.ascii_lowercase, string.ascii_lowercase + string.digits))
        return " ".join("".join(self.random.choices(keys, k=self.random.randint(1, 12))) for _ in range(self._length()))

    def _salad(self) -> str:
        """Words of the news in no order at all."""
        return " ".join(self.random.choice(self.news.words) for _ in range(self.random.randint(4, 30)))

    def _length(self) -> int:
        return self.random.choice((1, 2, 3, 4, 5, 6, 8, 12, 20, 35))

    def _script(self) -> str:
        """Words of random letters of one script, with signs, numbers or a Latin word between."""
        name = self.random.choice(list(_SCRIPTS))
        low, high = _SCRIPTS[name]
        letters = [chr(code) for code in range(low, high + 1) if unicodedata.category(chr(code))[0] in "LS"]
        most, between = (20, self.random.choice(("", "，", "。", ", "))) if name in _UNSPACED else (9, " ")
        words = []
        for _ in range(self._length()):
            extra = self.random.random()
            word = "".join(self.random.choices(letters, k=self.random.randint(1, most)))
            words.append(
                self._lexeme("num") if extra < 0.05 else self.random.choice(self.news.words) if extra < 0.1 else word
            )
            if self.random.random() < 0.15:
                words[-1] += self.random.choice(",.!?:;")
        return between.join(words)

    def _language(self) -> str:
        lists = sections("languages.txt")
        words = " ".join(lists[self.random.choice(list(lists))]).split()
        text = " ".join(self.random.choices(words, k=self._length()))
        return text.capitalize() + self.random.choice(("", ".", "?", "!"))

    def _punctuation(self) -> str:
        few = self.random.choices(_SIGNS, k=self.random.choice((1, 1, 2, 5)))
        return "".join(self.random.choices(few, k=self.random.choice((1, 2, 3, 3, 5, 10, 30))))

    def _numbers(self) -> str:
        between = self.random.choice((" ", ", ", "-", ".", "/", "+", ":", "\t"))
        return between.join(self._lexeme("num") for _ in range(self._length()))
