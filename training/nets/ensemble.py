"""Several networks that answer as one, in one graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Members that differ by their first weights alone, each trained by its own loss.

    In training the logits of all, [members, batch, classes]; in inference the mean of their log probabilities
    [batch, classes], so that a softmax gives the normalised geometric mean of their answers (L. Hansen and P. Salamon,
    "Neural Network Ensembles", PAMI 1990; B. Lakshminarayanan et al., NIPS 2017).
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, token_ids: Tensor) -> Tensor:
        logits = torch.stack([member(token_ids) for member in self.members])
        return logits if self.training else logits.log_softmax(2).mean(0)
