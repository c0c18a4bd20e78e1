"""Topics of news: a text to the probabilities of World, Sports, Business and Sci/Tech (AG News).

Against the small number of rows, training hides tokens at random ("word dropout", Iyyer et al., ACL 2015) and shows
some rows as their headline alone, so that short texts are answered well too. A small reader beside the network, trained
on texts that are not news (`training.text_outliers`), tells how likely a text has none of the topics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.jobs import NetworkRecipe, Range, TaskRecipe
from models.manifest import Buckets, TensorSpec, TextSpec
from training import classify, outliers, text_outliers
from training.datasets import ag_news
from training.datasets.ag_news import LABELS, Article
from training.nets.ensemble import Ensemble
from training.nets.reader import TopicRecurrent
from training.nets.tables import with_half_tables
from training.nets.transformer import TopicTransformer
from training.tasks.base import Inputs, Optimisation, ServingSpec, Split, Splits, Task

VOCABULARY = 24_000
MAX_LENGTH = 256
TOKENIZER = "tokenizer.json"
_LENGTHS = [16, 32, 40, 48, 64, 96, 128, MAX_LENGTH]
_HIDDEN_TOKENS, _HEADLINES = 0.4, 0.15
"""Shares of a training batch: tokens hidden, rows cut to their headline."""
_SMOOTHING = 0.05
_SORTED_BATCHES = 32
"""Training sorts so many batches' worth of shuffled rows by length, which spares most of the padding."""

_PRIOR, _WARNED_SHARE, _UNKNOWN_SHARE = 0.25, 0.01, 0.5
"""Shares of texts that are expected to be no news, of validation rows (whole and as headlines) that the warning may
reach, and of a text's tokens above which most are unknown."""

_MEMBERS = 3


def _transformers(vocabulary: int, classes: int) -> nn.Module:
    return Ensemble(TopicTransformer(vocabulary, classes, MAX_LENGTH) for _ in range(_MEMBERS))


_NETS: dict[str, Callable[[int, int], nn.Module]] = {
    "transformer": _transformers,
    "lstm": partial(TopicRecurrent, "lstm"),
    "gru": partial(TopicRecurrent, "gru"),
    "rnn": partial(TopicRecurrent, "rnn"),
}


@dataclass(frozen=True)
class TextSplit(Split):
    """`token_ids` padded with 0, and how many of a row's tokens [rows] are its headline."""

    headlines: Tensor


class Serving(nn.Module):
    """Probabilities [batch, 4] and outlier probability [batch] of `token_ids` int64 [batch, length]."""

    def __init__(self, network: nn.Module, reader: nn.Module, calibration: outliers.Calibration) -> None:
        super().__init__()
        self.network, self.reader, self.answer = network, reader, outliers.Answer(calibration)

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        answer: tuple[Tensor, Tensor] = self.answer(self.network(token_ids), self.reader(token_ids))
        return answer


def encode(tokenizer: Tokenizer, articles: list[Article]) -> TextSplit:
    """The articles' texts as ids, the longest cut to MAX_LENGTH."""
    texts = _ids(tokenizer, [article.text for article in articles])
    titles = _ids(tokenizer, [article.title for article in articles])
    token_ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, ids in enumerate(texts):
        token_ids[row, : len(ids)] = torch.tensor(ids)
    return TextSplit(
        inputs={"token_ids": token_ids},
        targets=torch.tensor([article.label for article in articles]),
        headlines=torch.tensor([max(1, len(ids)) for ids in titles]),
    )


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [found.ids[:MAX_LENGTH] for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


_READ = "Word vectors of 64, read from both ends by {} of 2 x 32 units and by their plain mean."


def _range(default: float, least: float, most: float) -> Range:
    return Range(default=default, min=least, max=most)


def _recipe(network: str, summary: str, epochs: int, learning_rate: float) -> NetworkRecipe:
    return NetworkRecipe(
        model=f"topic-{network}",
        summary=summary,
        epochs=_range(epochs, 1, 100),
        batch_size=_range(64, 8, 1024),
        learning_rate=_range(learning_rate, 1e-6, 0.1),
    )


class TopicTask:
    """AG News, 4 classes; about 5 % of the training rows, chosen by a hash of their text, are the validation split."""

    name = "topic"
    floor = 0.86
    recipe = TaskRecipe(
        summary="Topic of an English news text (AG News): World, Sports, Business or Sci/Tech.",
        kind="text",
        default_network="transformer",
        metric="accuracy",
        metric_higher_is_better=True,
        networks={
            "transformer": _recipe(
                "transformer",
                "Three small ones as one: word vectors of 32, an encoder block with 4 heads, weights of word pairs.",
                epochs=6,
                learning_rate=0.004,
            ),
            "lstm": _recipe("lstm", _READ.format("an LSTM"), epochs=3, learning_rate=0.004),
            "gru": _recipe("gru", _READ.format("a GRU"), epochs=3, learning_rate=0.004),
            "rnn": _recipe("rnn", _READ.format("a plain RNN"), epochs=3, learning_rate=0.004),
        },
    )

    def load(self, data_dir: Path, seed: int) -> Splits:  # noqa: ARG002 (the split is frozen, whatever the seed)
        """The splits of AG News as `token_ids` int64 [rows, length], and the tokenizer learnt from the first."""
        news = ag_news.read(data_dir)
        tokenizer = ag_news.train_tokenizer((article.text for article in news.train), VOCABULARY)
        return Splits(
            train=encode(tokenizer, news.train),
            validation=encode(tokenizer, news.validation),
            test=encode(tokenizer, news.test),
            sources=news.sources,
            assets={TOKENIZER: tokenizer.to_str().encode()},
            facts={"vocabulary": tokenizer.get_vocab_size()},
        )

    def validation_with(self, data_dir: Path, tokenizer: Path) -> Split:
        """The validation rows as another version's tokenizer reads them."""
        return encode(Tokenizer.from_file(str(tokenizer)), ag_news.read(data_dir).validation)

    def optimisation(self, network: str) -> Optimisation:  # noqa: ARG002 (the same for all)
        """AdamW, one cycle, averaged weights."""
        return Optimisation(
            weight_decay=0.2, second_decay=0.98, average_decay=0.995, clip_norm=1.0, tolerance=0.0075, patience=3
        )

    def build(self, network: str, splits: Splits) -> nn.Module:
        """A fresh network."""
        return _NETS[network](splits.facts["vocabulary"], len(LABELS))

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """Ids cut to the longest row of the batch; with a generator shuffled, by similar length, partly hidden."""
        token_ids, lengths = split.inputs["token_ids"], _lengths(split)
        if generator is None:
            for chosen in torch.split(torch.arange(len(split)), batch_size):
                yield _cut(token_ids, chosen, lengths), split.targets[chosen]
            return
        headlines = cast("TextSplit", split).headlines
        lengths = torch.where(torch.rand(len(split), generator=generator) < _HEADLINES, headlines, lengths)
        for chosen in _alike(lengths, batch_size, generator):
            inputs = _cut(token_ids, chosen, lengths)
            hidden = torch.rand(inputs["token_ids"].shape, generator=generator) < _HIDDEN_TOKENS
            yield {"token_ids": inputs["token_ids"].masked_fill(hidden, 0)}, split.targets[chosen]

    def loss(self, module: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Cross entropy in nats, the mean over an ensemble's members; labels smoothed in training (Szegedy, 2016)."""
        logits = module(**inputs)
        if logits.ndim == 3:  # each member learns from its own mistakes
            logits, targets = logits.flatten(0, 1), targets.repeat(len(logits))
        return F.cross_entropy(logits, targets, label_smoothing=_SMOOTHING if module.training else 0.0)

    def predict(self, module: nn.Module, split: Split, batch_size: int = 256) -> Tensor:
        """Logits [rows, 4]; rows of similar length go together."""
        token_ids, lengths = split.inputs["token_ids"], _lengths(split)
        module.eval()
        logits = torch.empty(len(split), len(LABELS), device=token_ids.device)
        with torch.no_grad():
            for chosen in torch.split(lengths.argsort(), batch_size):
                logits[chosen] = module(**_cut(token_ids, chosen, lengths))
        return logits

    def metrics(self, raw: Tensor, split: Split) -> dict[str, float]:
        """Accuracy and mean cross entropy of logits."""
        figures = classify.scores(raw.softmax(1), split.targets)
        return {"accuracy": figures["accuracy"], "loss": F.cross_entropy(raw, split.targets).item()}

    def score(self, outputs: Mapping[str, Tensor], split: Split) -> dict[str, float]:
        """Accuracy, negative log likelihood and calibration error of the graph's probabilities."""
        return classify.scores(outputs["probabilities"], split.targets)

    def losses(self, outputs: Mapping[str, Tensor], split: Split) -> Tensor:
        """Negative log likelihood of each row in nats."""
        return classify.losses(outputs["probabilities"], split.targets)

    def serving(
        self,
        module: nn.Module,
        splits: Splits,
        epochs: int | None = None,  # noqa: ARG002 (nothing costly is trained behind it)
    ) -> tuple[nn.Module, dict[str, float]]:
        """The network behind the temperature that suits the validation split, beside a reader that tells outliers."""
        tokenizer = Tokenizer.from_str(splits.assets[TOKENIZER].decode())
        train, validation = cast("TextSplit", splits.train), cast("TextSplit", splits.validation)
        reader = with_half_tables(text_outliers.learn(tokenizer, splits.facts["vocabulary"], _news(train)))
        known, unknown = text_outliers.judge(reader, tokenizer, _news(validation))
        raw, targets = self.predict(module, validation), validation.targets
        found = outliers.calibrate(
            classify.temperature(raw, targets), known, unknown, prior=_PRIOR, warned_share=_WARNED_SHARE
        )
        network = with_half_tables(module)
        whole = text_outliers.logits(reader, validation.inputs["token_ids"])
        answers, _ = outliers.Answer(found)(self.predict(network, validation), whole)
        calibration = {
            **found.figures(),
            outliers.UNKNOWN_SHARE: _UNKNOWN_SHARE,
            "ece_before": classify.calibration_error(raw.softmax(1), targets),
            "ece_after": classify.calibration_error(answers, targets),
        }
        return Serving(network, reader, found).eval(), calibration

    def spec(self, splits: Splits) -> ServingSpec:  # noqa: ARG002 (known without the data)
        """int64 [batch, length] in, float32 [batch, 4] and [batch] out."""
        return ServingSpec(
            inputs=[TensorSpec(name="token_ids", dtype="int64", shape=["batch", "length"])],
            outputs=outliers.outputs(len(LABELS)),
            buckets=Buckets(rows=[1, 2, 4, 8, 16, 32, 64], lengths=_LENGTHS),
            labels=LABELS,
            text=TextSpec(tokenizer=TOKENIZER, pad_id=0, max_length=MAX_LENGTH),
        )

    def example(self, batch: int, length: int, seed: int) -> Inputs:
        """Random ids; every row but the first may end early, in padding."""
        generator = torch.Generator().manual_seed(seed)
        token_ids = torch.randint(1, 200, (batch, length), generator=generator)
        lengths = torch.randint(1, length + 1, (batch, 1), generator=generator)
        lengths[0] = length
        return {"token_ids": token_ids.masked_fill(torch.arange(length) >= lengths, 0)}

    def parity_lengths(self) -> list[int]:
        """From one token to the longest text."""
        return [1, 2, 6, 17, 64, MAX_LENGTH]


def _news(split: TextSplit) -> text_outliers.Rows:
    return text_outliers.Rows(split.inputs["token_ids"], split.headlines)


def _lengths(split: Split) -> Tensor:
    """How many tokens [rows] each row has: padding is at the end only."""
    return (split.inputs["token_ids"] != 0).sum(1)


def _cut(token_ids: Tensor, chosen: Tensor, lengths: Tensor) -> Inputs:
    """The chosen rows, each cut to its length, padded to the longest of them."""
    ends = lengths[chosen].unsqueeze(1)
    width = max(1, int(ends.max()))
    places = torch.arange(width, device=token_ids.device)
    return {"token_ids": token_ids[chosen, :width].masked_fill(places >= ends, 0)}


def _alike(lengths: Tensor, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """All rows in batches of similar length, in random order."""
    shuffled = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for some in torch.split(shuffled, _SORTED_BATCHES * batch_size):
        batches += torch.split(some[lengths[some].argsort(stable=True)], batch_size)
    return [batches[number] for number in torch.randperm(len(batches), generator=generator)]


TASK: Task = TopicTask()
