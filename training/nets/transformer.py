"""A transformer encoder (Vaswani et al., "Attention Is All You Need", NIPS 2017) and the topic classifier on it.

Norms come before attention and feed-forward (Xiong et al., ICML 2020), which trains without a warm-up of its own.
Attention is written out, so that the exported graph holds plain products and a softmax that any provider runs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FIRST, _SECOND = 7919, 104729
"""Primes that spread pairs of neighbouring ids over their table."""
_MASKED = -1e4
"""Added to the scores of padding: the softmax gives it exactly 0, and a row of nothing but padding stays finite."""


def sinusoids(length: int, width: int) -> Tensor:
    """Positional encoding [length, width] of Vaswani et al., section 3.5; `width` must be even."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    angle = position * torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(1e4) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


class Attention(nn.Module):
    """Multi-head self-attention of [batch, length, width]; `bias` [batch, 1, 1, length] is added to the scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.size = heads, width // heads
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.project(x).view(batch, length, 3, self.heads, self.size)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each [batch, heads, length, size]
        weights = torch.softmax(query @ key.transpose(2, 3) * self.size**-0.5 + bias, dim=-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(batch, length, width))
        return mixed


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind its norm and beside its own shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm_forward = nn.LayerNorm(width)
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), bias))
        y: Tensor = x + self.dropout(self.narrow(F.relu(self.widen(self.norm_forward(x)))))
        return y


class Encoder(nn.Module):
    """[batch, length, width] read in context; `real` [batch, length] is True where there is no padding."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        bias = ((1.0 - real.to(x.dtype)) * _MASKED)[:, None, None, :]
        for block in self.blocks:
            x = block(x, bias)
        y: Tensor = self.norm(x)
        return y


def masked_mean(x: Tensor, real: Tensor) -> Tensor:
    """The mean [batch, width] of x [batch, length, width] over its real steps; zeros for a row that has none."""
    weight = real.to(x.dtype).unsqueeze(2)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)


class TopicTransformer(nn.Module):
    """Logits [batch, classes] of `token_ids` int64 [batch, length], 0 where there is padding, length <= `max_length`.

    Three readings of a row meet in its logits: the mean of the encoder's outputs, which knows order and company; the
    plain mean of the word vectors, as in fastText (Joulin et al., EACL 2017), which learns much faster from few rows;
    and a weight for each pair of neighbours and class, as of a linear classifier on bigrams (Wang and Manning, ACL
    2012), the pairs hashed into `pairs` places (Weinberger et al., ICML 2009). Short vectors of many words did better
    here than long vectors of few.
    """

    def __init__(
        self, vocabulary: int, classes: int, max_length: int, *, width: int = 32, layers: int = 1, pairs: int = 50_021
    ) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.vectors.weight, std=0.1)
        with torch.no_grad():
            self.vectors.weight[0].zero_()
        self.entry = nn.Linear(width, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(max_length, width) * 0.1, persistent=False)
        self.encoder = Encoder(width, layers, heads=4, hidden=2 * width, dropout=0.2)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(2 * width, classes)
        self.pairs = nn.Embedding(pairs, classes)
        nn.init.zeros_(self.pairs.weight)

    def forward(self, token_ids: Tensor) -> Tensor:
        real = token_ids != 0
        vectors = self.vectors(token_ids)
        places = torch.arange(token_ids.shape[1], device=token_ids.device)
        read = self.encoder(self.entry(vectors) + self.positions[places], real)
        both = torch.cat([masked_mean(read, real), masked_mean(vectors, real)], dim=1)
        logits: Tensor = self.head(self.dropout(both)) + self._of_pairs(token_ids)
        return logits

    def _of_pairs(self, token_ids: Tensor) -> Tensor:
        """The sum of the pairs' weights over the root of their number [batch, classes]; hidden tokens part a pair."""
        before = torch.cat([torch.zeros_like(token_ids[:, :1]), token_ids[:, :-1]], dim=1)
        weights = self.pairs(pair_places(before, token_ids, self.pairs.num_embeddings))
        real = ((before != 0) & (token_ids != 0)).to(weights.dtype).unsqueeze(2)
        total: Tensor = (weights * real).sum(1) / real.sum(1).clamp(min=1.0).sqrt()
        return total


def pair_places(before: Tensor, after: Tensor, places: int) -> Tensor:
    """Where in a table of `places` rows the weights of token pairs lie."""
    return (before * _FIRST + after * _SECOND) % places
