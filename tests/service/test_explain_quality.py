"""Explanations that matter: what weighs most is what the answer hangs on, for each shipped model."""

import asyncio
import json

import numpy as np
import pytest

from service.explain import digit, series, text
from service.inputs.series import parse
from tests.server import EXAMPLES
from tests.service.explaining import answers, erase, load, probing
from training.datasets import ag_news, mnist

IMAGES = 100
PIXELS = 28 * 28


def sample(data_dir, seed):
    """Test pictures of a fixed choice."""
    images = mnist.read_idx(data_dir / mnist.FOLDER / mnist.TEST_IMAGES.name)
    return images[np.random.default_rng(seed).choice(len(images), IMAGES, replace=False)]


def explain_all(loaded, pixels, probabilities):
    async def run():
        async with probing(loaded) as prober:
            return [await digit.saliency(prober, *row) for row in zip(pixels, probabilities, strict=True)]

    return np.array(asyncio.run(run()))


@pytest.mark.parametrize("name", ["digit-cnn", "digit-mlp"])
def test_erasing_what_weighs_most_changes_the_answer(data_dir, name):
    """Few pixels by weight do what many at random, or as many of the ink, do not."""
    loaded, pixels = load(name), sample(data_dir, seed=3)
    probabilities = answers(loaded, pixels)
    weights = explain_all(loaded, pixels, probabilities).reshape(IMAGES, PIXELS)
    chance = np.random.default_rng(5).random((IMAGES, PIXELS))
    ink = np.where(pixels.reshape(IMAGES, PIXELS) > 0, chance, 0)

    def changed(score, share):
        altered = erase(pixels, np.argsort(-score, axis=1, kind="stable"), round(share * PIXELS))
        return (answers(loaded, altered).argmax(1) != probabilities.argmax(1)).mean()

    assert changed(weights, 0.20) >= 0.95
    assert changed(weights, 0.20) >= changed(chance, 0.20) + 0.7
    assert changed(weights, 0.20) > changed(ink, 0.20)
    assert changed(weights, 0.10) >= changed(ink, 0.10) + 0.5
    assert changed(weights, 0.05) >= changed(ink, 0.05) + 0.6


def test_only_ink_weighs(data_dir):
    """Weights lie in 0..1, the largest is 1, and paper has none; a blank picture has none at all."""
    loaded, pixels = load("digit-mlp"), sample(data_dir, seed=4)[:20]
    weights = explain_all(loaded, pixels, answers(loaded, pixels))
    assert (weights.max((1, 2)) == 1).all()
    assert weights.min() == 0
    assert not weights[pixels == 0].any()
    blank = np.zeros((1, 28, 28), np.uint8)
    assert not explain_all(loaded, blank, answers(loaded, blank)).any()


HEADLINES = {
    "Oil prices rise as supply fears grow": {"Oil", "prices", "supply", "rise"},
    "Microsoft releases new version of Windows software": {"Microsoft", "releases", "version", "Windows", "software"},
    "Manchester United beat Chelsea in the cup final": {"Manchester", "United", "beat", "Chelsea", "cup", "final"},
    "Iraqi troops attacked as militants storm Baghdad": {"Iraqi", "troops", "militants", "Baghdad"},
    "The champion won the tennis tournament on Sunday": {"champion", "tennis", "tournament", "won"},
    "Scientists say NASA probe found water on Mars": {"Scientists", "NASA", "probe", "Mars"},
}


async def classify(prober, encoder, written):
    """Token ids and probabilities [4] of a text."""
    ids = encoder.encode(written)
    return ids, (await prober.run({"token_ids": ids[np.newaxis]}, len(ids)))[0][0]


async def weigh(prober, encoder, written):
    """The words' weights, and the label that was answered."""
    ids, probabilities = await classify(prober, encoder, written)
    told = await text.explain(prober, written, ids, encoder.offsets(written), probabilities)
    return [word["weight"] for word in told["words"]], probabilities.argmax()


def test_the_word_that_weighs_most_is_a_telling_one():
    """In clear headlines it is a noun or verb of the topic, not an article."""
    loaded = load("topic-transformer")

    async def top(headline):
        async with probing(loaded) as prober:
            weights, _ = await weigh(prober, loaded.encoder, headline)
        return headline.split()[int(np.argmax(weights))]

    found = {headline: asyncio.run(top(headline)) for headline in HEADLINES}
    assert not {headline: word for headline, word in found.items() if word not in HEADLINES[headline]}


def test_leaving_out_the_words_that_weigh_most_changes_the_topic(data_dir):
    """A fifth of an article's words by weight does what a fifth at random hardly ever does."""
    loaded, chance = load("topic-transformer"), np.random.default_rng(9)
    articles = ag_news.read_csv(data_dir / ag_news.FOLDER / ag_news.TEST_PACKED.name)
    texts = [articles[index].text for index in chance.choice(len(articles), 60, replace=False)]

    async def changed(prober, written):
        weights, label = await weigh(prober, loaded.encoder, written)
        words, results = np.array(written.split()), []
        for score in (weights, chance.random(len(words))):
            kept = np.sort(np.argsort(score, kind="stable")[: len(words) - round(len(words) / 5)])
            _, probabilities = await classify(prober, loaded.encoder, " ".join(words[kept]))
            results.append(probabilities.argmax() != label)
        return results

    async def run():
        async with probing(loaded) as prober:
            return [await changed(prober, written) for written in texts]

    by_weight, at_random = np.mean(asyncio.run(run()), axis=0)
    assert by_weight >= at_random + 0.25


def test_what_weighs_most_moves_a_forecast_most():
    """Noise on the heaviest tenth of the readings moves it far more than the same noise on a tenth of the others."""
    loaded = load("forecast-lstm")
    week = json.loads((EXAMPLES / "week.json").read_text())
    read = parse(week["values"], week["start"], loaded.manifest.series)
    chance = np.random.default_rng(7)

    async def moves():
        async with probing(loaded) as prober:
            inputs = {
                "values": read.values[np.newaxis],
                "lengths": np.array([read.length]),
                "hour_of_week": np.array([read.hour_of_week]),
            }
            mean = (await prober.run(inputs, read.length))[0][0]
            weights = await series.weights(prober, inputs, mean)
            heavy, lighter = np.split(np.argsort(-weights, axis=None), [weights.size // 10])
            other = chance.choice(lighter, len(heavy), replace=False)
            moved = []
            for cells in (heavy, other):
                noise = chance.normal(size=(8, *weights.shape)) * read.values.std(0) * 0.5
                mask = np.isin(np.arange(weights.size), cells).reshape(weights.shape)
                altered = (read.values + noise * mask).astype(np.float32)
                rows = {name: np.repeat(array, 8, axis=0) for name, array in inputs.items()} | {"values": altered}
                moved.append(np.abs((await prober.run(rows, read.length))[0] - mean).mean())
            return moved

    heavy, other = asyncio.run(moves())
    assert heavy > 5 * other
