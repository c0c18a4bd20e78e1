"""A reader of style: whether a row of tokens is written as news, whatever it is about."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.nets.transformer import masked_mean, pair_places

_LEAST = -1.0


class OutlierReader(nn.Module):
    """Outlier logit [batch] of `token_ids` int64 [batch, length], 0 where there is padding.

    The mean of the row's word vectors and of the vectors of its pairs of neighbours, hashed into `pairs` places, as in
    fastText (A. Joulin et al., EACL 2017), the largest value of each along the row, and its length, read by one hidden
    layer. The first token makes a pair with 0, so that a row's beginning counts for itself: questions begin alike.
    """

    def __init__(self, vocabulary: int, *, width: int = 16, pairs: int = 30_011, pair_width: int = 8) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, width)
        self.pairs = nn.Embedding(pairs, pair_width)
        nn.init.normal_(self.vectors.weight, std=0.1)
        nn.init.normal_(self.pairs.weight, std=0.1)
        self.hidden = nn.Linear(2 * (width + pair_width) + 1, 32)
        self.out = nn.Linear(32, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, token_ids: Tensor) -> Tensor:
        real = token_ids != 0
        before = torch.cat([torch.zeros_like(token_ids[:, :1]), token_ids[:, :-1]], dim=1)
        read = [self.vectors(token_ids), self.pairs(pair_places(before, token_ids, self.pairs.num_embeddings))]
        both = torch.cat(read, dim=2)  # [batch, length, width + pair_width]
        largest = (
            both.masked_fill(~real.unsqueeze(2), _LEAST).amax(1).clamp(min=_LEAST)
        )  # so that padding counts nothing
        length = real.sum(1, keepdim=True).to(both.dtype).clamp(min=1.0).log()
        features = torch.cat([masked_mean(both, real), largest, length], dim=1)
        logit: Tensor = self.out(self.dropout(F.relu(self.hidden(features)))).squeeze(1)
        return logit
