"""A grammar: rules of templates whose `{slots}` are filled by other rules, at random."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

_SLOT = re.compile(r"\{(\w+)\}")

Rules = Mapping[str, Sequence[str] | Callable[[], str]]


def split(words: str) -> list[str]:
    """The entries of a list that is written as one string, parted by `|` or line breaks."""
    return [entry.strip() for entry in re.split(r"[|\n]", words) if entry.strip()]


class Grammar:
    """Draws texts from rules; a rule is its templates, or a function that gives a text."""

    def __init__(self, rules: Rules, generator: random.Random) -> None:
        self.rules, self.generator = rules, generator

    def draw(self, rule: str) -> str:
        """One text of a rule."""
        options = self.rules[rule]
        return options() if callable(options) else self.fill(self.generator.choice(options))

    def fill(self, template: str) -> str:
        """The template with every slot filled."""
        return _SLOT.sub(lambda found: self.draw(found[1]), template)
