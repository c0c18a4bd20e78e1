"""The topic task: what a batch is, what the exported graph gives, and that the service reads text as training did."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from service.inputs.text import TextEncoder
from training import export
from training.datasets import ag_news
from training.nets.outlier import OutlierReader
from training.nets.tables import with_half_tables
from training.outliers import Calibration, doubt
from training.tasks import topic
from training.tasks.base import RetokenizedTask, Split, Splits
from training.tasks.topic import MAX_LENGTH, TASK, Serving, TextSplit, _transformers

NETWORKS = ["transformer", "lstm", "gru", "rnn"]

pytestmark = pytest.mark.slow  # every test reads the whole of AG News


def data_dir() -> Path:
    place = os.environ.get("DATA_DIR")
    assert place, "set DATA_DIR to the folder that holds ag_news"
    return Path(place)


@pytest.fixture(scope="module")
def news() -> ag_news.AgNews:
    return ag_news.read(data_dir())


@pytest.fixture(scope="module")
def splits() -> Splits:
    return TASK.load(data_dir(), seed=0)


@pytest.fixture(scope="module")
def encoder(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(splits.assets["tokenizer.json"])
    spec = TASK.spec(splits).text
    assert spec is not None
    return TextEncoder(path, spec)


def fresh(vocabulary: int = 300) -> nn.Module:
    torch.manual_seed(0)
    network, reader = with_half_tables(_transformers(vocabulary, 4)), with_half_tables(OutlierReader(vocabulary))
    return Serving(network, reader, Calibration(1.3, 1.0, 0.0, 0.5)).eval()


def some(split: Split, rows: int) -> TextSplit:
    assert isinstance(split, TextSplit)
    token_ids = {"token_ids": split.inputs["token_ids"][:rows]}
    return replace(split, inputs=token_ids, targets=split.targets[:rows], headlines=split.headlines[:rows])


def test_service_reads_text_as_training_does(news: ag_news.AgNews, splits: Splits, encoder: TextEncoder) -> None:
    """No skew: for real rows the service's encoder gives the very ids that training and validation used."""
    for rows, split in ((news.test, splits.test), (news.validation, splits.validation), (news.train, splits.train)):
        for row, ids in list(zip(rows, split.inputs["token_ids"], strict=True))[:300]:
            assert encoder.encode(row.text).tolist() == ids[ids != 0].tolist()


def test_splits_hold_every_row_in_order(news: ag_news.AgNews, splits: Splits) -> None:
    """Rows, targets and limits are those of the files."""
    for rows, split in ((news.test, splits.test), (news.validation, splits.validation), (news.train, splits.train)):
        assert split.targets.tolist() == [row.label for row in rows]
        token_ids = split.inputs["token_ids"]
        assert token_ids.dtype == torch.int64
        assert token_ids.shape[1] <= MAX_LENGTH
        assert int(token_ids.max()) < splits.facts["vocabulary"] <= topic.VOCABULARY
        assert bool((token_ids[:, 0] != 0).all())


def test_loading_twice_gives_the_same(splits: Splits) -> None:
    """Neither the seed nor a second run moves a row or a token."""
    again = TASK.load(data_dir(), seed=7)
    assert again.assets == splits.assets
    assert torch.equal(again.train.inputs["token_ids"], splits.train.inputs["token_ids"])
    assert torch.equal(again.validation.targets, splits.validation.targets)


def test_training_batches_hold_every_row_once(splits: Splits) -> None:
    """An epoch shows each row once, cut or hidden in part, in another order for another seed."""
    train = some(splits.train, 500)
    numbered = replace(train, targets=torch.arange(500))
    seen = [targets for _, targets in TASK.batches(numbered, 32, torch.Generator().manual_seed(1))]
    other = [targets for _, targets in TASK.batches(numbered, 32, torch.Generator().manual_seed(2))]
    assert sorted(torch.cat(seen).tolist()) == list(range(500))
    assert not torch.equal(torch.cat(seen), torch.cat(other))
    whole = train.inputs["token_ids"]
    for inputs, numbers in TASK.batches(numbered, 32, torch.Generator().manual_seed(1)):
        shown = inputs["token_ids"]
        assert bool(((shown == whole[numbers, : shown.shape[1]]) | (shown == 0)).all())


def test_training_batches_spare_padding(splits: Splits) -> None:
    """Rows of a batch are of similar length: hardly a place is padding."""
    train = replace(some(splits.train, 10_000))
    whole = sum(inputs["token_ids"].numel() for inputs, _ in TASK.batches(train, 64, torch.Generator().manual_seed(0)))
    real = int((train.inputs["token_ids"] != 0).sum())
    assert whole < 1.05 * real


def test_a_share_of_rows_is_cut_to_its_headline(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing hidden, a row is either whole or its headline alone, and both occur."""
    monkeypatch.setattr(topic, "_HIDDEN_TOKENS", 0.0)
    train = replace(some(splits.train, 400), targets=torch.arange(400))
    assert isinstance(splits.train, TextSplit)
    cut = 0
    for inputs, numbers in TASK.batches(train, 20, torch.Generator().manual_seed(0)):
        for ids, number in zip(inputs["token_ids"], numbers, strict=True):
            length, headline = int((ids != 0).sum()), int(train.headlines[number])
            assert length in {headline, int((train.inputs["token_ids"][number] != 0).sum())}
            cut += length == headline
    assert 30 < cut < 90


def test_plain_batches_are_in_order_and_whole(splits: Splits) -> None:
    """Without a generator nothing is shuffled, hidden or cut."""
    rows = some(splits.test, 70)
    batches = list(TASK.batches(rows, 32, None))
    assert torch.cat([targets for _, targets in batches]).tolist() == rows.targets.tolist()
    for (inputs, _), expected in zip(batches, torch.split(rows.inputs["token_ids"], 32), strict=True):
        ids = inputs["token_ids"]
        assert torch.equal(ids, expected[:, : ids.shape[1]])
        assert not expected[:, ids.shape[1] :].any()


@pytest.mark.parametrize("name", NETWORKS)
def test_prediction_keeps_the_order_of_rows(name: str, splits: Splits) -> None:
    """Sorting by length inside is not seen from outside, whatever the batch size."""
    network = TASK.build(name, splits)
    rows = some(splits.test, 50)
    logits = TASK.predict(network, rows, batch_size=7)
    alone = torch.cat([network(ids[ids != 0].unsqueeze(0)) for ids in rows.inputs["token_ids"]])
    torch.testing.assert_close(logits, alone, atol=1e-5, rtol=0)


def test_length_buckets_waste_little(splits: Splits) -> None:
    """Test rows padded to their bucket are padding for at most 15 % of places."""
    lengths = TASK.spec(splits).buckets.lengths
    assert lengths[-1] == MAX_LENGTH
    real = (splits.test.inputs["token_ids"] != 0).sum(1)
    padded = torch.tensor(lengths)[torch.searchsorted(torch.tensor(lengths), real)]
    assert 1 - real.sum().item() / padded.sum().item() <= 0.15


def test_exported_graph_agrees_with_torch(tmp_path: Path, splits: Splits) -> None:
    """One file is right for every batch and length, and a row alone is the row in a mixed batch."""
    module, path = fresh(), tmp_path / "model.onnx"
    export.export(module, TASK.example(2, 6, 0), TASK.spec(splits), path)
    parity = export.check_parity(module, path, TASK.example, TASK.parity_lengths(), tolerance=1e-5)
    assert [32, MAX_LENGTH] in parity.cases
    engine = export.session(path)
    nothing = export.run(engine, {"token_ids": torch.tensor([[0, 0], [1, 1]])})["probabilities"]
    assert abs(nothing.sum(1) - 1).max() < 1e-5


def test_calibration_does_not_move_the_answer(splits: Splits) -> None:
    """Temperature and outlier probability leave the ranks of the topics as they are; probabilities sum to 1."""
    few = replace(splits, train=some(splits.train, 300), validation=some(splits.validation, 200))
    network = TASK.build("transformer", splits)
    serving, calibration = TASK.serving(network, few)
    ids = few.validation.inputs["token_ids"]
    with torch.no_grad():
        probabilities, outlier = serving(ids)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    halved = with_half_tables(network)
    assert torch.equal(probabilities.argmax(1), TASK.predict(halved, few.validation).argmax(1))
    assert calibration["temperature"] > 0
    found = doubt(calibration)
    assert found is not None
    assert found.unknown_share == 0.5
    warned = (outlier > found.threshold).float().mean()
    assert warned <= 0.02
    assert set(TASK.score({"probabilities": probabilities}, few.validation)) == {"accuracy", "nll", "ece"}


def test_networks_are_those_of_the_recipe(splits: Splits) -> None:
    """Each recipe builds a network of its own whose weights, as they are served, fit in 6.5 MB."""
    assert list(TASK.recipe.networks) == NETWORKS
    kinds = set()
    for name in NETWORKS:
        network = TASK.build(name, splits)
        kinds.add((type(network), getattr(getattr(network, "layer", None), "kind", None)))
        assert sum(weights.nbytes for weights in with_half_tables(network).parameters()) < 6.45e6
    assert len(kinds) == len(NETWORKS)


def test_vocabulary_travels_as_an_asset(splits: Splits) -> None:
    """The tokenizer file is complete: it neither pads nor cuts, and adds no special words."""
    stored = json.loads(splits.assets["tokenizer.json"])
    assert stored["padding"] is None
    assert stored["truncation"] is None
    assert stored["added_tokens"] == []


def trained(name: str, splits: Splits, rows: int, epochs: int) -> dict[str, float]:
    """Validation figures after so many epochs of plain Adam over the first real rows."""
    torch.manual_seed(0)
    network, train = TASK.build(name, splits).train(), some(splits.train, rows)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for inputs, targets in TASK.batches(train, 64, torch.Generator().manual_seed(epoch)):
            loss = TASK.loss(network, inputs, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return TASK.metrics(TASK.predict(network, splits.validation), splits.validation)


def test_an_epoch_reaches_the_floor(splits: Splits) -> None:
    """One short epoch of plain Adam over the real rows is past the gate's floor."""
    assert trained("transformer", splits, len(splits.train), 1)["accuracy"] >= TASK.floor


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_recurrent_network_learns_from_few_rows(name: str, splits: Splits) -> None:
    """Two epochs over 5,000 real rows are far from guessing, which is right in a quarter of cases."""
    assert trained(name, splits, 5_000, 2)["accuracy"] >= 0.7


def test_validation_rows_are_read_by_the_tokenizer_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows in the same order, as ids of that tokenizer: a version's losses come from its own words."""
    articles = [ag_news.Article(place % 4, f"title {place}", f"words of row {place} and more") for place in range(3)]
    news = ag_news.AgNews(train=[], validation=articles, test=[], sources=[])
    monkeypatch.setattr(ag_news, "read", lambda _: news)
    other = ag_news.train_tokenizer((article.text for article in articles), 60)
    other.save(str(tmp_path / "tokenizer.json"))
    found = TASK.validation_with(tmp_path, tmp_path / "tokenizer.json")
    assert isinstance(TASK, RetokenizedTask)
    assert torch.equal(found.inputs["token_ids"], topic.encode(other, articles).inputs["token_ids"])
    assert found.targets.tolist() == [article.label for article in articles]
