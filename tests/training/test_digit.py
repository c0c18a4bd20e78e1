"""The digit task: splits, augmentation, networks, calibration and their figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.small import head
from training import classify
from training.datasets import mnist
from training.nets.cnn import DigitCnn, LeanCnn, fold
from training.nets.mlp import DigitMlp
from training.tasks.base import Splits
from training.tasks.digit import TASK, Outliers, Serving, augment


@pytest.fixture(scope="module", name="splits")
def _splits(data_dir: Path) -> Splits:
    return TASK.load(data_dir, 0)


@pytest.fixture(scope="module", name="few")
def _few(splits: Splits) -> Splits:
    """2,000 training and 500 validation images, for a head that has learnt for a second."""
    train, validation = head(splits.train, 2000), head(splits.validation, 500)
    return replace(splits, train=train, validation=validation)


def _worn(network: nn.Module) -> nn.Module:
    """The network with norms that have seen data, as after training."""
    torch.manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.normal_()  # negative scales too
            layer.bias.data.normal_()
    return network.eval()


def test_the_validation_split_is_the_last_5000_training_images(splits: Splits, data_dir: Path) -> None:
    """The split is frozen: sizes and the place of the cut do not depend on a seed."""
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (55000, 5000, 10000)
    raw = mnist.read(data_dir)
    assert splits.validation.targets.tolist() == raw.train_labels[55000:].tolist()
    assert (splits.validation.inputs["pixels"].numpy() == raw.train_images[55000:]).all()
    assert splits.facts["mean"] == pytest.approx(0.1307, abs=5e-4)
    assert splits.facts["std"] == pytest.approx(0.3081, abs=5e-4)


def test_augmentation_moves_digits_a_little_and_repeats_with_its_seed(splits: Splits) -> None:
    """Same seed, same pictures; another seed, others; the ink stays about as much and in the picture."""
    pixels = splits.train.inputs["pixels"][:200]
    once, again, other = (augment(pixels, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert once.dtype == torch.uint8
    assert once.shape == pixels.shape
    assert once.double().mean().item() == pytest.approx(pixels.double().mean().item(), rel=0.1)
    untouched = (once == pixels).flatten(1).all(1).double().mean().item()
    assert 0.1 < untouched < 0.4
    assert F.cosine_similarity(once.flatten(1).double(), pixels.flatten(1).double()).mean() > 0.4


def test_outliers_are_as_many_as_asked_and_repeat_with_their_seed(splits: Splits) -> None:
    """Drawn pictures, several digits and digits on a wrong scale; a draw moves most of them."""
    digits = head(splits.train, 50)
    outliers = Outliers(digits, 100, 3)
    assert torch.equal(Outliers(digits, 100, 3).pictures, outliers.pictures)
    assert outliers.pictures.shape == (100, 28, 28)
    once = outliers.draw(40, torch.Generator().manual_seed(1))
    assert torch.equal(once, outliers.draw(40, torch.Generator().manual_seed(1)))
    assert (once.shape, once.dtype) == ((40, 28, 28), torch.uint8)
    assert len(Outliers(head(digits, 1), 1, 0).pictures) == 4


def test_batches_without_a_generator_are_in_order_and_untouched(splits: Splits) -> None:
    """Validation sees every row once, as it is."""
    parts = list(TASK.batches(splits.validation, 512, None))
    assert torch.equal(torch.cat([inputs["pixels"] for inputs, _ in parts]), splits.validation.inputs["pixels"])
    assert torch.equal(torch.cat([targets for _, targets in parts]), splits.validation.targets)


def test_training_batches_hold_every_row_once_beside_digits_of_other_hands(splits: Splits) -> None:
    """Shuffling loses and repeats nothing, and one in sixteen is drawn."""
    parts = [targets for _, targets in TASK.batches(splits.validation, 500, torch.Generator().manual_seed(0))]
    own, drawn = zip(*(part.split([500, 500 // 16]) for part in parts), strict=True)
    assert torch.equal(torch.cat(own).bincount(), splits.validation.targets.bincount())
    assert not torch.equal(torch.cat(own), splits.validation.targets)
    assert torch.cat(drawn).bincount().min() > 10


@pytest.mark.parametrize(("network", "weights"), [(DigitCnn, 93_322), (DigitMlp, 535_818)])
def test_folding_the_norms_changes_no_answer(network: type[DigitCnn | DigitMlp], weights: int) -> None:
    """What is served has the promised number of weights and gives what the trained network gives."""
    trained = _worn(network(0.13, 0.31))
    served = trained.folded()
    pixels = TASK.example(16, 0, 0)["pixels"]
    torch.testing.assert_close(served(pixels), trained(pixels), atol=1e-4, rtol=1e-5)
    assert sum(parameter.numel() for parameter in served.parameters()) == weights
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout) for layer in served.modules())


def test_fewer_operations_change_no_answer() -> None:
    """Neither the cut edge nor the scaling left to the first convolution is seen in a logit, whatever the pixels."""
    trained = _worn(DigitCnn(0.13, 0.31))
    lean = LeanCnn(trained)
    pixels = TASK.example(64, 0, 0)["pixels"]
    torch.testing.assert_close(lean(pixels), trained(pixels), atol=1e-5, rtol=1e-5)
    assert lean.read(pixels).flatten(1).shape == (64, lean.seen)
    assert sum(parameter.numel() for parameter in lean.parameters()) == 93_322
    edge = pixels.clone()
    edge[:, 26:], edge[:, :, 26:] = 255, 0
    assert torch.equal(lean(edge), lean(pixels))


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)),
    ],
)
def test_a_norm_that_cannot_be_folded_exactly_is_refused(layers: nn.Sequential) -> None:
    """No layer to take it, or padding that would see the shift: an error, not a slightly wrong network."""
    with pytest.raises(ValueError, match="norm"):
        fold(layers)


def test_the_temperature_found_has_the_least_loss() -> None:
    """Logits made three times too sure are cooled by three, and the calibration error falls."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 10, generator=generator) * 2
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    heat = classify.temperature(logits * 3, targets)
    assert heat == pytest.approx(3, rel=0.03)
    before = classify.calibration_error((logits * 3).softmax(1), targets)
    assert classify.calibration_error((logits * 3 / heat).softmax(1), targets) < before / 5


def test_scores_of_known_probabilities() -> None:
    """Accuracy, negative log likelihood and calibration error are what one computes by hand."""
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    figures = classify.scores(probabilities, torch.tensor([0, 1, 1, 0]))
    assert figures["accuracy"] == 0.75
    assert figures["nll"] == pytest.approx(-torch.tensor([0.9, 0.4, 0.7, 0.8]).log().mean().item(), abs=1e-6)
    assert figures["ece"] == pytest.approx((0.1 + 0.6 + 0.3 + 0.2) / 4, abs=1e-6)


def test_serving_gives_probabilities_and_keeps_the_order(few: Splits) -> None:
    """The exported module's rows sum to one, its guesses are the network's, and the calibration is reported."""
    torch.manual_seed(0)
    network = _worn(TASK.build("mlp", few))
    served, calibration = TASK.serving(network, few)
    assert isinstance(served, Serving)
    line = {"temperature", "outlier_slope", "outlier_intercept", "outlier_threshold"}
    assert set(calibration) == line | {"ece_before", "ece_after"}
    pixels = few.test.inputs["pixels"][:64]
    with torch.no_grad():
        probabilities, outlier = served(pixels)
        assert torch.equal(probabilities.argmax(1), network(pixels).argmax(1))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(64))
    chances = torch.softmax(network(pixels).detach() / calibration["temperature"], 1)
    assert outlier.shape == (64,)
    expected = chances + outlier.unsqueeze(1) * (0.1 - chances)
    torch.testing.assert_close(probabilities, expected, atol=1e-5, rtol=0)
    assert ((outlier > 0) & (outlier < 1)).all()


def test_a_head_of_few_steps_already_doubts_noise(few: Splits) -> None:
    """Of noise and of a black picture the served network says that no digit is there, of digits that one is."""
    torch.manual_seed(0)
    served, calibration = TASK.serving(_worn(TASK.build("mlp", few)), few)
    pixels = TASK.example(32, 0, 5)["pixels"]
    pixels[0] = 0
    with torch.no_grad():
        _, noise = served(pixels)
        _, digits = served(few.validation.inputs["pixels"])
    assert (noise > calibration["outlier_threshold"]).float().mean() > 0.9
    assert (digits > calibration["outlier_threshold"]).float().mean() <= 0.01
