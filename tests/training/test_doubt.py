"""Doubt: a head learns it from outliers; the network and the world's random numbers stay as they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tests.training.test_networks_in_numpy import splits_of
from training import doubt
from training.nets.cnn import DigitCnn, LeanCnn
from training.tasks.digit import TASK


def network() -> LeanCnn:
    torch.manual_seed(0)
    return LeanCnn(DigitCnn(0.13, 0.31).eval()).eval()


def left(rows: int, generator: torch.Generator) -> Tensor:
    """Pictures with their ink on the left, as if these were digits."""
    pixels = torch.randint(0, 32, (rows, 28, 28), generator=generator)
    pixels[:, 4:24, 4:14] += 200
    return pixels.to(torch.uint8)


def right(rows: int, generator: torch.Generator) -> Tensor:
    """The same on the right, as if no digit were there."""
    return left(rows, generator).flip(2)


def test_the_head_tells_outliers_from_digits() -> None:
    """After a few batches every new outlier has a higher logit than every new digit."""
    reads = network()
    head = doubt.head(reads.seen, reads.doubt_layers)
    doubt.learn(reads.read, head, left, right, 30)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        known, unknown = (head(reads.read(draw(64, generator))) for draw in (left, right))
    assert known.shape == (64, 1)
    assert known.max() < unknown.min()


def test_the_network_stays_and_the_same_draws_give_the_same_head() -> None:
    """Nothing is taken from torch's own generator, nothing depends on it, and no weight of the network moves."""
    reads = network()
    before, state = copy.deepcopy(reads.state_dict()), torch.get_rng_state()
    once = doubt.head(reads.seen, (8, 4))
    doubt.learn(reads.read, once, left, right, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again = doubt.head(reads.seen, (8, 4))
    doubt.learn(reads.read, again, left, right, 3)
    assert all(torch.equal(weights, again.state_dict()[name]) for name, weights in once.state_dict().items())
    assert all(torch.equal(weights, before[name]) for name, weights in reads.state_dict().items())


def test_fewer_rows_and_epochs_have_fewer_steps() -> None:
    """A data set of a few hundred rows is not held up by a head's full course, and even one row has a step."""
    assert doubt.steps(55_000) == doubt.STEPS
    assert doubt.steps(640) < 20
    assert doubt.steps(1) == 1
    assert doubt.steps(55_000, 1) < doubt.STEPS / 9
    assert doubt.steps(55_000, 24) == doubt.steps(55_000, 12) == doubt.STEPS
    assert doubt.steps(640, 1) == doubt.steps(640)


def test_the_trained_network_itself_is_not_touched() -> None:
    """Serving takes a copy: a run can be exported again from the same weights, and gives the same."""
    splits = splits_of(TASK)
    module = TASK.build("cnn", splits).eval()
    before = copy.deepcopy(module.state_dict())
    served, calibration = TASK.serving(module, splits)
    assert all(torch.equal(weights, before[name]) for name, weights in module.state_dict().items())
    assert served.network is not module
    assert TASK.serving(module, splits)[1] == calibration
