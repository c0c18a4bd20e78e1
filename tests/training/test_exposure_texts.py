"""The grammars of texts that are not news: every kind can be drawn, again alike, and without open slots."""

from __future__ import annotations

import random

import pytest

from training.datasets.exposure import texts
from training.datasets.exposure.grammar import Grammar
from training.datasets.exposure.texts import Composer, News, sections

NEWS = News(["Oil prices rise as supply fears grow", "Team wins the cup"], ["market", "player", "summit"])
KINDS = list(Composer(NEWS, 0).kinds)


def test_the_same_seed_draws_the_same_texts() -> None:
    """Seed and news alone decide, so that a training can be repeated."""
    assert Composer(NEWS, 3).mixture(200) == Composer(NEWS, 3).mixture(200)
    assert Composer(NEWS, 3).mixture(200) != Composer(NEWS, 4).mixture(200)


def test_a_mixture_holds_every_kind() -> None:
    """No kind is too rare to be learnt from."""
    drawn = [kind for kind, _ in Composer(NEWS, 1).mixture(3000)]
    assert min(drawn.count(kind) for kind in KINDS) >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_varies_and_leaves_no_slot_open(kind: str) -> None:
    """Draws differ, none is empty, and each slot of a template names a section or a rule."""
    composer = Composer(NEWS, 5)
    drawn = [composer.draw(kind) for _ in range(300)]
    assert all(text.strip() for text in drawn)
    assert len(set(drawn)) > 30
    if kind not in {"library", "code", "signs"}:
        assert not [text for text in drawn if "{" in text or "|" in text]


def test_every_template_can_be_filled() -> None:
    """No template of the English grammar names a rule that is missing."""
    english = Composer(NEWS, 6).english
    for name, templates in sections("everyday.txt").items():
        for template in templates:
            filled = english.fill(template)
            assert filled, name
            assert "{" not in filled


def test_what_is_held_out_is_not_trained_on() -> None:
    """Held-out entries and the others part each list between them, and no greeting is drawn from both."""
    held, others = Composer(NEWS, 6, held=True), Composer(NEWS, 6, held=False)
    for name, entries in sections("everyday.txt").items():
        assert sorted(held.lists[name] + others.lists[name]) == sorted(entries)
        assert held.lists[name]
    names = set(sections("everyday.txt")["name"])
    drawn = [
        {text for _ in range(200) if not names & set((text := one.draw("greeting")).split())} for one in (held, others)
    ]
    assert drawn[0]
    assert not drawn[0] & drawn[1]


def test_questions_ask_about_the_news() -> None:
    """Words of headlines stand in many questions: the subject of a question must not tell it."""
    composer = Composer(NEWS, 7)
    drawn = " ".join(composer.draw("question").lower() for _ in range(300))
    assert "supply fears" in drawn


def test_code_does_without_the_sources_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python comes without its sources, templates stand in."""
    monkeypatch.setattr(texts, "library", list)
    assert Composer(NEWS, 8).draw("library")


def test_grammar_fills_slots_within_slots() -> None:
    """A rule's templates may name other rules, or functions."""
    grammar = Grammar({"a": ["<{b}>"], "b": ["{c}!"], "c": lambda: "x"}, random.Random(0))
    assert grammar.draw("a") == "<x!>"
