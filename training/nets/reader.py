"""The topic classifier that reads with a recurrent layer: plain RNN, GRU or LSTM, one word vector after the other.

With x a word's vector and h the state, both directions have weights of their own, * is element by element:

- `rnn` (J. L. Elman, "Finding Structure in Time", Cognitive Science 14, 1990): h = tanh(W x + U h' + b).
- `gru` (K. Cho et al., EMNLP 2014): r, z = sigmoid(W x + U h' + b), n = tanh(Wn x + bn + r * (Un h' + cn)),
  h = (1 - z) * n + z * h'; the reset gate acts behind the product, as in cuDNN.
- `lstm` (S. Hochreiter and J. Schmidhuber, Neural Computation 9, 1997; with the forget gate of F. Gers et al., 2000):
  i, f, o = sigmoid(W x + U h' + b), c = f * c' + i * tanh(Wc x + Uc h' + bc), h = o * tanh(c).

Two layers read a row from both ends (M. Schuster and K. Paliwal, "Bidirectional Recurrent Neural Networks", 1997).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.nets.recurrent import Kind, Recurrent
from training.nets.transformer import masked_mean

_LEAST = -1.0
"""States lie between -1 and 1: this one never is the largest of a row."""


class TopicRecurrent(nn.Module):
    """Logits [batch, classes] of `token_ids` int64 [batch, length], 0 where there is padding or a hidden token.

    The largest value of each of the layer's outputs along a row (max-over-time pooling: R. Collobert et al., JMLR 12,
    2011) stands beside the plain mean of the word vectors, as in fastText (A. Joulin et al., EACL 2017). The answer
    rests on the layer: trained networks are as accurate with the mean held fixed, and far from it with the layer held.

    In training hidden tokens are left out, so the layer reads what remains without gaps; in inference a 0 before the
    row's last token is a step with a vector of zeros.
    """

    def __init__(self, kind: Kind, vocabulary: int, classes: int, width: int = 64, hidden: int = 32) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary, width, padding_idx=0)
        nn.init.normal_(self.vectors.weight, std=0.1)
        with torch.no_grad():
            self.vectors.weight[0].zero_()
        self.layer = Recurrent(kind, width, hidden, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(self.layer.features + width, classes)

    def forward(self, token_ids: Tensor) -> Tensor:
        if self.training:
            token_ids = without_gaps(token_ids)
        vectors = self.vectors(token_ids)  # [batch, length, width]
        lengths = ends(token_ids)  # [batch]
        outputs, _ = self.layer(vectors, lengths)  # [batch, length, 2 * hidden]
        outside = torch.arange(token_ids.shape[1], device=token_ids.device) >= lengths.unsqueeze(1)
        largest = outputs.masked_fill(outside.unsqueeze(2), _LEAST).amax(1)  # [batch, 2 * hidden]
        both = torch.cat([largest, masked_mean(vectors, token_ids != 0)], dim=1)
        logits: Tensor = self.head(self.dropout(both))
        return logits


def ends(token_ids: Tensor) -> Tensor:
    """Steps [batch] up to the last token that is not 0, at least 1."""
    steps = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device)
    return (steps * (token_ids != 0)).amax(1).clamp(min=1)


def without_gaps(token_ids: Tensor) -> Tensor:
    """The rows [batch, length] with every 0 moved behind their tokens, cut to the longest that remains."""
    kept = token_ids != 0
    order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    longest = max(1, int(kept.sum(1).max()))
    return token_ids.gather(1, order)[:, :longest]
