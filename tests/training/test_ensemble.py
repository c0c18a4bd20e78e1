"""Ensembles and half precision tables: what is served is what was trained."""

from __future__ import annotations

import torch
from torch import nn

from training.nets.ensemble import Ensemble
from training.nets.tables import HalfTable, with_half_tables
from training.nets.transformer import TopicTransformer, pair_places
from training.tasks.topic import TASK


def members(count: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    return [TopicTransformer(50, 4, 16, pairs=97) for _ in range(count)]


def test_an_ensemble_answers_with_the_mean_of_its_members() -> None:
    """In inference the log probabilities are averaged; in training each member keeps its own logits."""
    some, ids = members(), torch.tensor([[3, 4, 5, 0]])
    whole = Ensemble(some).eval()
    apart = torch.stack([member.eval()(ids).log_softmax(1) for member in some])
    torch.testing.assert_close(whole(ids), apart.mean(0))
    assert whole.train()(ids).shape == (2, 1, 4)


def test_each_member_learns_from_its_own_loss() -> None:
    """The loss of an ensemble is the mean of what its members' would be alone."""
    ids, targets = {"token_ids": torch.tensor([[3, 4, 5], [6, 7, 0]])}, torch.tensor([1, 2])
    some = [member.train() for member in members()]
    for member in some:
        for layer in member.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    alone = torch.stack([TASK.loss(member, ids, targets) for member in some])
    torch.testing.assert_close(TASK.loss(Ensemble(some).train(), ids, targets), alone.mean())


def test_half_tables_hardly_change_the_answer_and_leave_the_network_alone() -> None:
    """Logits differ in the fourth digit at most, every table is halved, the trained module keeps its own."""
    network, ids = Ensemble(members()).eval(), torch.randint(1, 50, (8, 16))
    halved = with_half_tables(network)
    torch.testing.assert_close(halved(ids), network(ids), atol=2e-3, rtol=0)
    assert not any(isinstance(layer, nn.Embedding) for layer in halved.modules())
    assert sum(isinstance(layer, HalfTable) for layer in halved.modules()) == 4
    assert sum(isinstance(layer, nn.Embedding) for layer in network.modules()) == 4
    assert sum(part.numel() for part in halved.parameters()) == sum(part.numel() for part in network.parameters())


def test_pairs_know_their_order_and_ignore_what_is_hidden() -> None:
    """A pair and its reverse have places of their own; a hidden token parts its neighbours."""
    one, other = torch.tensor([3]), torch.tensor([4])
    assert pair_places(one, other, 97) != pair_places(other, one, 97)
    (network,) = members(1)
    network.eval()
    nn.init.constant_(network.get_submodule("pairs").get_parameter("weight"), 1.0)
    assert network._of_pairs(torch.tensor([[3, 0, 4, 0]])).abs().sum() == 0
    assert network._of_pairs(torch.tensor([[3, 4, 0, 0]])).sum() == 4
