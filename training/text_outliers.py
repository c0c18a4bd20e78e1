"""Outlier exposure for texts (D. Hendrycks, M. Mazeika and T. Dietterich, ICLR 2019): news against other texts.

The reader learns beside the finished topic network and shares no weight with it, so the topics are answered as before.
News is shown whole, as its headline alone, without it, or as a part, and with some of its words exchanged for any
others: a short text, a new name or a rare word is no reason for doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders
from torch import Tensor, nn

from training.datasets.exposure.texts import Composer, News
from training.nets.outlier import OutlierReader

TEXTS, EPOCHS, BATCH = 24_000, 3, 256
_TRAIN_SEED, _JUDGE_SEED = 1, 2
_RATE, _DECAY, _SMOOTHING = 0.01, 0.02, 0.02
_WHOLE, _HEADLINE, _BODY = 0.35, 0.4, 0.1
"""Shares of news rows that are shown whole, as their headline, and without it; of the rest any part is shown."""
_EXCHANGED, _HIDDEN = 0.08, 0.15


@dataclass(frozen=True)
class Rows:
    """News as ids int64 [rows, length], 0 behind their end, and how many tokens [rows] of each are its headline."""

    token_ids: Tensor
    headlines: Tensor

    def titles(self) -> Tensor:
        """The headlines alone, as ids [rows, length]."""
        width = int(self.headlines.max())
        places = torch.arange(width)
        return self.token_ids[:, :width].masked_fill(places >= self.headlines.unsqueeze(1), 0)


def compose(tokenizer: Tokenizer, rows: Rows, count: int, seed: int, held: bool | None = None) -> Tensor:
    """Texts that are not news as ids int64 [count, length]; those without a token are left out.

    They are no longer than the longest row, and ask about fragments of the rows' headlines. `held` is the composer's.
    """
    known = [word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 2]
    composer = Composer(News(_spelt(tokenizer, rows.titles()), sorted(known) or ["news"]), seed, held)
    texts = [text for _, text in composer.mixture(count)]
    found = [row.ids[: rows.token_ids.shape[1]] for row in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    return padded([ids for ids in found if ids])


def _spelt(tokenizer: Tokenizer, token_ids: Tensor) -> list[str]:
    """Rows of ids as texts again."""
    speller = Tokenizer.from_str(tokenizer.to_str())
    speller.decoder = decoders.WordPiece()
    return [text for text in speller.decode_batch([[i for i in row if i > 1] for row in token_ids.tolist()]) if text]


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids as one tensor."""
    token_ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for number, ids in enumerate(rows):
        token_ids[number, : len(ids)] = torch.tensor(ids)
    return token_ids


def parts(rows: Rows, generator: torch.Generator) -> Tensor:
    """The ids [rows, length] of news whole or in part."""
    token_ids, headlines = rows.token_ids, rows.headlines
    lengths = (token_ids != 0).sum(1)
    draw, cut = torch.rand(2, len(token_ids), 1, generator=generator)
    ends, begins = lengths.clone(), torch.zeros_like(lengths)
    draw, cut = draw[:, 0], cut[:, 0]
    headline, body = (draw >= _WHOLE) & (draw < _WHOLE + _HEADLINE), draw >= _WHOLE + _HEADLINE
    ends[headline] = headlines[headline].minimum(lengths[headline])
    begins[body] = headlines[body].minimum(lengths[body] - 1)
    short = draw >= _WHOLE + _HEADLINE + _BODY
    ends[short] = begins[short] + (cut[short] * (lengths - begins)[short]).long().clamp(min=3)
    places = torch.arange(token_ids.shape[1]) + begins.unsqueeze(1)
    shown = token_ids.gather(1, places.clamp(max=token_ids.shape[1] - 1))
    return shown.masked_fill(places >= ends.minimum(lengths).unsqueeze(1), 0)


def learn(tokenizer: Tokenizer, vocabulary: int, news: Rows) -> OutlierReader:
    """A reader trained on news and on at most as many composed texts; both count the same.

    torch's global generator begins at 0 here and is put back afterwards.
    """
    others = compose(tokenizer, news, min(TEXTS, len(news.token_ids)), _TRAIN_SEED, held=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        reader = OutlierReader(vocabulary).train()
        optimiser = torch.optim.AdamW(reader.parameters(), lr=_RATE, weight_decay=_DECAY)
        batches = [batch for _ in range(EPOCHS) for batch in _epoch(news, others, vocabulary, generator)]
        for step, (ids, targets, weights) in enumerate(batches):
            optimiser.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / len(batches))) / 2
            soft = targets * (1 - 2 * _SMOOTHING) + _SMOOTHING
            loss = F.binary_cross_entropy_with_logits(reader(ids), soft, weight=weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return reader.eval()


Batch = tuple[Tensor, Tensor, Tensor]


def _epoch(news: Rows, others: Tensor, vocabulary: int, generator: torch.Generator) -> list[Batch]:
    """Ids, targets (1: not news) and weights of batches of similar length, in random order."""
    shown = _exchanged(parts(news, generator), vocabulary, generator)
    wide = max(shown.shape[1], others.shape[1])
    ids = torch.cat([F.pad(rows, (0, wide - rows.shape[1])) for rows in (shown, others)])
    targets = torch.cat([torch.zeros(len(shown)), torch.ones(len(others))])
    weights = torch.cat([torch.full((len(rows),), len(ids) / (2 * len(rows))) for rows in (shown, others)])
    order = torch.randperm(len(ids), generator=generator)
    lengths = (ids != 0).sum(1)
    batches = []
    for some in torch.split(order, 16 * BATCH):
        for chosen in torch.split(some[lengths[some].argsort(stable=True)], BATCH):
            rows = ids[chosen, : max(1, int(lengths[chosen].max()))]
            partly = torch.rand(len(rows), 1, generator=generator) < 0.5
            hidden = partly & (torch.rand(rows.shape, generator=generator) < _HIDDEN)
            batches.append((rows.masked_fill(hidden, 0), targets[chosen], weights[chosen]))
    return [batches[number] for number in torch.randperm(len(batches), generator=generator)]


def _exchanged(ids: Tensor, vocabulary: int, generator: torch.Generator) -> Tensor:
    """The rows with some of their tokens exchanged for any of the vocabulary, unknown ones among them."""
    other = torch.randint(1, vocabulary, ids.shape, generator=generator)
    other[torch.rand(ids.shape, generator=generator) < 0.1] = 1
    chosen = (torch.rand(ids.shape, generator=generator) < _EXCHANGED) & (ids != 0)
    return torch.where(chosen, other, ids)


def judge(reader: nn.Module, tokenizer: Tokenizer, news: Rows) -> tuple[Tensor, Tensor]:
    """Outlier logits of news that the reader has not seen, whole and as headlines alone, and of other texts.

    These come from templates and words that the training left out: by the others the reader would look too good.
    """
    others = compose(tokenizer, news, 2 * len(news.token_ids), _JUDGE_SEED, held=True)
    return torch.cat([logits(reader, news.token_ids), logits(reader, news.titles())]), logits(reader, others)


def logits(reader: nn.Module, token_ids: Tensor, batch_size: int = 512) -> Tensor:
    """Outlier logits [rows]."""
    lengths = (token_ids != 0).sum(1)
    found = torch.empty(len(token_ids))
    with torch.no_grad():
        for chosen in torch.split(lengths.argsort(), batch_size):
            found[chosen] = reader(token_ids[chosen, : max(1, int(lengths[chosen].max()))])
    return found
