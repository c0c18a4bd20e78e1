"""How well the shipped topic networks tell news from other texts, kind by kind, and what they warn of.

The kinds of texts come from `other_texts`, written apart from the grammars that the networks have learnt from; the
questions of CLINC150 (S. Larson et al., 2019) are other people's.
"""

from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from models.manifest import Manifest
from models.store import Store
from tests.training import other_texts
from tests.training.other_texts import auroc
from training import export
from training.comparison.runs import ZOO
from training.datasets import ag_news
from training.tasks.topic import LABELS, encode
from training.text_outliers import padded

MODELS = ["topic-transformer", "topic-lstm", "topic-gru", "topic-rnn"]
LEAST_AUROC, MOST_WARNED = 0.95, 0.02
Answers = tuple[NDArray[np.float32], NDArray[np.float32]]


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    """Against its definition, ties counting half."""
    news, others = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.1])
    assert auroc(news, others) == pytest.approx((2 + 1.5 + 1) / 6)


def data_dir() -> Path:
    place = os.environ.get("DATA_DIR")
    assert place, "set DATA_DIR to the folder that holds ag_news"
    return Path(place)


def shipped(model: str) -> tuple[Manifest, Path]:
    store = Store(ZOO)
    version = store.live(model) or 0
    return store.manifest(model, version), store.folder(model, version)


@cache
def tokenizer_of(model: str) -> Tokenizer:
    return Tokenizer.from_file(str(shipped(model)[1] / "tokenizer.json"))


@cache
def answers(model: str, texts: tuple[str, ...]) -> Answers:
    """Probabilities [texts, 4] and outlier probabilities [texts]."""
    found = tokenizer_of(model).encode_batch_fast(list(texts), add_special_tokens=False)
    return run(model, padded([row.ids[:256] or [1] for row in found]))


def run(model: str, token_ids: Tensor) -> Answers:
    """Rows of similar length go together."""
    manifest, folder = shipped(model)
    engine, lengths = export.session(folder / manifest.model_file), (token_ids != 0).sum(1)
    probabilities, outliers = np.zeros((len(token_ids), 4), np.float32), np.zeros(len(token_ids), np.float32)
    for chosen in torch.split(lengths.argsort(), 256):
        outputs = export.run(engine, {"token_ids": token_ids[chosen, : max(1, int(lengths[chosen].max()))]})
        probabilities[chosen.numpy()], outliers[chosen.numpy()] = outputs["probabilities"], outputs["outlier"]
    return probabilities, outliers


@cache
def news() -> ag_news.AgNews:
    return ag_news.read(data_dir())


@cache
def of_test_rows(model: str) -> Answers:
    return answers(model, tuple(article.text for article in news().test))


def warned(model: str, texts: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which texts carry `not_like_training_data` or `unknown_words`."""
    manifest, _ = shipped(model)
    doubt, drift = manifest.doubt, manifest.drift
    assert doubt is not None
    assert doubt.unknown_share is not None
    assert drift is not None
    found = tokenizer_of(model).encode_batch_fast(list(texts), add_special_tokens=False)
    unknown = np.array([np.mean(np.array(row.ids or [0]) == drift.unknown_id) for row in found])
    warns: NDArray[np.bool_] = (answers(model, texts)[1] > doubt.threshold) | (unknown > doubt.unknown_share)
    return warns


def clinc() -> list[str]:
    with (data_dir() / "own/clinc150/oos_test.csv").open(encoding="utf-8", newline="") as stream:
        return [row["text"] for row in csv.DictReader(stream)]


def every_kind() -> dict[str, list[str]]:
    return {"CLINC questions": clinc(), **other_texts.kinds()}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_shipped_networks_tell_news_from_other_texts(model: str) -> None:
    """AUROC of the confidence between the news test rows and each kind: the worst counts."""
    sure = of_test_rows(model)[0].max(1)
    found = {kind: auroc(sure, answers(model, tuple(texts))[0].max(1)) for kind, texts in every_kind().items()}
    assert min(found.values()) >= LEAST_AUROC, found


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_few_news_carry_a_warning(model: str) -> None:
    """Of the test rows at most 2 %, of their headlines alone at most 3 %, of today's headlines none."""
    assert warned(model, tuple(article.text for article in news().test)).mean() <= MOST_WARNED
    assert warned(model, tuple(article.title for article in news().test)).mean() <= 0.03
    assert not warned(model, tuple(text for _, text in other_texts.headlines())).any()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_todays_headlines_are_answered(model: str) -> None:
    """News that are short, new or spelt the British way keep their topics and most of their confidence."""
    expected, texts = zip(*other_texts.headlines(), strict=True)
    probabilities, outliers = answers(model, texts)
    right = [LABELS[guess] == label for guess, label in zip(probabilities.argmax(1), expected, strict=True)]
    assert np.mean(right) >= 0.8
    assert outliers.mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_most_other_texts_carry_a_warning(model: str) -> None:
    """Of each kind that was written for this test."""
    found = {kind: warned(model, tuple(texts)).mean() for kind, texts in other_texts.kinds().items()}
    assert min(found.values()) >= 0.8, found
    for text in ("你好，今天天气怎么样", "Καλημέρα κόσμε", "😀😀🎉", "???", "hello"):
        assert warned(model, (text,)).all(), text


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_stated_and_true_accuracy_agree_among_warned_answers(model: str) -> None:
    """News, half of it headlines, and as many other texts; an answer to a text without a topic is right by chance."""
    articles = news().test
    texts = tuple([article.text for article in articles[::2]] + [article.title for article in articles[1::2]])
    labels = np.array([article.label for article in [*articles[::2], *articles[1::2]]])
    probabilities, flags = answers(model, texts)[0], warned(model, texts)
    stated, right = [probabilities.max(1)[flags]], [(probabilities.argmax(1) == labels)[flags].astype(float)]
    others = every_kind()
    share = len(texts) / len(others)  # each kind counts the same
    weights = [np.ones(int(flags.sum()))]
    for kind in others.values():
        flagged = warned(model, tuple(kind))
        stated.append(answers(model, tuple(kind))[0].max(1)[flagged])
        right.append(np.full(int(flagged.sum()), 1 / len(LABELS)))
        weights.append(np.full(int(flagged.sum()), share / len(kind)))
    weight = np.concatenate(weights)
    gap = np.average(np.concatenate(stated), weights=weight) - np.average(np.concatenate(right), weights=weight)
    assert abs(gap) <= 0.05


def test_the_encoder_of_the_tests_is_that_of_training() -> None:
    """Rows as the task encodes them."""
    tokenizer = tokenizer_of("topic-transformer")
    article = ag_news.Article(2, "Oil prices rise", "as supply fears grow")
    ids = encode(tokenizer, [article]).inputs["token_ids"]
    found = tokenizer.encode_batch_fast([article.text], add_special_tokens=False)
    assert torch.equal(padded([row.ids for row in found]), ids)
