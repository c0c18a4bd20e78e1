"""Outlier exposure for texts: what the reader of outliers is shown, and that it learns."""

from __future__ import annotations

import itertools

import torch

from tests.training import other_texts
from tests.training.other_texts import auroc
from training import text_outliers
from training.datasets import ag_news
from training.text_outliers import Rows, padded, parts


def rows() -> Rows:
    ids = torch.arange(2, 102).reshape(10, 10)
    ids[5:, 8:] = 0
    return Rows(ids, torch.tensor([3, 10, 1, 4, 2, 3, 8, 1, 4, 2]))


def test_parts_are_stretches_of_their_rows() -> None:
    """Whole, headline, body or less: always a row's neighbouring tokens in their order, and at least one."""
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(50):
        for whole, shown, headline in zip(rows().token_ids, parts(rows(), generator), rows().headlines, strict=True):
            tokens = shown[shown != 0].tolist()
            start = whole.tolist().index(tokens[0])
            assert whole[start : start + len(tokens)].tolist() == tokens
            assert shown[: len(tokens)].tolist() == tokens
            seen.add((len(tokens) == int((whole != 0).sum()), len(tokens) == headline, start == headline))
    assert len(seen) >= 4


def test_titles_are_the_headlines_alone() -> None:
    """Tokens behind the headline are gone."""
    titles = rows().titles()
    assert (titles != 0).sum(1).tolist() == [3, 10, 1, 4, 2, 3, 8, 1, 4, 2]


def test_a_reader_learns_news_from_questions() -> None:
    """A few hundred rows are enough to part headlines from other texts that were not seen; the seed is put back."""
    subjects = ("Oil giant", "Striker", "Minister", "Rebels", "Bank")
    deeds = ("signs deal", "quits", "faces probe", "wins vote", "warns of losses", "plans launch")
    ends = ("in Paris", "after talks", "as markets fall", "on Monday", "amid protests", "- report")
    news = [" ".join(words) for words in itertools.product(subjects, deeds, ends)]
    tokenizer = ag_news.train_tokenizer([*news, *other_texts.QUESTIONS], 600)
    found = tokenizer.encode_batch_fast(news, add_special_tokens=False)
    ids = padded([row.ids for row in found])
    learnt, held = Rows(ids[::2], (ids[::2] != 0).sum(1)), Rows(ids[1::2], (ids[1::2] != 0).sum(1))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    reader = text_outliers.learn(tokenizer, tokenizer.get_vocab_size(), learnt)
    assert torch.equal(torch.get_rng_state(), before)
    known, unknown = text_outliers.judge(reader, tokenizer, held)
    assert auroc(-known.numpy(), -unknown.numpy()) > 0.9
