"""Doubt: the head learns it from strangers, the convolutions and the world's random numbers stay as they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from training import doubt
from training.nets.cnn import DigitCnn
from training.tasks.digit import TASK, strangers


def network() -> DigitCnn:
    torch.manual_seed(0)
    return DigitCnn(0.13, 0.31).eval().folded()


def batches(count: int = 40) -> list[tuple[Tensor, Tensor]]:
    """Two kinds of pictures that are easy to tell apart, as if they were digits 0 and 1."""
    found = []
    for number in range(count):
        labels = torch.arange(32) % 2
        pixels = TASK.example(32, 0, number)["pixels"] // 8
        pixels[labels == 0, 4:24, 4:14] += 200
        pixels[labels == 1, 4:24, 14:24] += 200
        found.append((pixels, labels))
    return found


def test_strangers_end_with_less_confidence_and_digits_with_their_labels() -> None:
    """After a few batches new strangers are far less certain than digits, which are told apart."""
    taught = network()
    doubt.learn(taught, batches(150), strangers, 0.1, steps=150)
    digits, labels = batches(1)[0]
    with torch.no_grad():
        known = taught(digits).softmax(1)
        torch.manual_seed(5)
        unknown = taught(strangers(digits, 64)).softmax(1)
    assert torch.equal(known.argmax(1), labels)
    assert known.amax(1).mean() > unknown.amax(1).mean() + 0.2


def test_only_the_head_changes_and_the_same_batches_give_the_same() -> None:
    """The convolutions keep their weights to the bit, and nothing is taken from torch's generator."""
    before, taught, again = network(), network(), network()
    state = torch.get_rng_state()
    doubt.learn(taught, batches(), strangers, 0.1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    doubt.learn(again, batches(), strangers, 0.1)
    for name, weights in taught.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name])
        assert torch.equal(weights, before.state_dict()[name]) != name.startswith("head.")


def test_the_trained_network_itself_is_not_touched() -> None:
    """Serving takes a copy: a run can be exported again from the same weights."""
    from tests.training.test_networks_in_numpy import splits_of

    splits = splits_of(TASK)
    module = TASK.build("cnn", splits).eval()
    before = copy.deepcopy(module.state_dict())
    served, _ = TASK.serving(module, splits)
    assert all(torch.equal(weights, before[name]) for name, weights in module.state_dict().items())
    assert served.network is not module
