"""The calibrated step behind a classifier's logits: mixture, fit, limit, and the graph with both outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.manifest import Buckets, TensorSpec
from training import export, outliers
from training.outliers import Answer, Calibration
from training.tasks.base import Inputs, ServingSpec

CALIBRATION = Calibration(temperature=0.5, outlier_slope=2.0, outlier_intercept=-1.0, outlier_threshold=0.3)


class Both(nn.Module):
    """Logits and an outlier logit that are sums of pixels, behind the calibrated step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.logits, self.outlier, self.answer = nn.Linear(4, 3), nn.Linear(4, 1), Answer(CALIBRATION)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        rows = pixels.to(torch.float32) / 255
        probabilities, outlier = self.answer(self.logits(rows), self.outlier(rows).squeeze(1))
        return probabilities, outlier


def example(batch: int, length: int, seed: int) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    return {"pixels": torch.randint(0, 256, (batch, 4), generator=generator, dtype=torch.uint8)}


def test_the_answer_is_the_mixture_of_labels_and_none_of_them() -> None:
    """(1 - o) * softmax(logits / T) + o / classes in NumPy, rows that sum to 1, and the labels in their order."""
    logits, evidence = torch.randn(50, 4), torch.randn(50)
    probabilities, outlier = Answer(CALIBRATION)(logits, evidence)
    raised = np.exp(logits.double().numpy() / 0.5)
    share = 1 / (1 + np.exp(1.0 - 2.0 * evidence.double().numpy()))[:, None]
    expected = (1 - share) * raised / raised.sum(1, keepdims=True) + share / 4
    np.testing.assert_allclose(outlier.numpy(), share[:, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(50))
    assert torch.equal(probabilities.argmax(1), logits.argmax(1))


def test_the_line_finds_the_odds_that_made_the_rows() -> None:
    """Rows drawn with known odds give them back, and a smaller prior only moves the intercept by its log odds."""
    generator = torch.Generator().manual_seed(0)
    evidence = torch.randn(40_000, generator=generator) * 3
    outside = torch.rand(40_000, generator=generator) < torch.sigmoid(1.5 * evidence - 2)
    known, unknown = evidence[~outside], evidence[outside]
    slope, intercept = outliers.line(known, unknown, prior=len(unknown) / 40_000)
    assert slope == pytest.approx(1.5, rel=0.05)
    assert intercept == pytest.approx(-2, rel=0.05)
    _, lower = outliers.line(known, unknown, prior=0.1)
    shift = np.log(0.1 / 0.9) - np.log(len(unknown) / len(known))
    assert lower - intercept == pytest.approx(shift, abs=0.1)


def test_rows_that_do_not_overlap_give_a_finite_line() -> None:
    """Perfect separation is no division by nothing: probabilities close to 0 and 1."""
    slope, intercept = outliers.line(torch.linspace(-9, -3, 100), torch.linspace(3, 9, 50), prior=0.5)
    assert np.isfinite([slope, intercept]).all()
    assert 1 / (1 + np.exp(3 * slope - intercept)) < 0.1
    assert 1 / (1 + np.exp(-3 * slope - intercept)) > 0.85


def test_the_limit_leaves_the_asked_share_of_validation_rows_above_it() -> None:
    """5 of 1,000 rows are above the limit when half a percent is asked for, whatever the prior."""
    known, unknown = torch.randn(1000), torch.randn(300) + 3
    for prior in (0.5, 0.1):
        found = outliers.calibrate(1.0, known, unknown, prior=prior, warned_share=0.005)
        chances = torch.sigmoid(known.double() * found.outlier_slope + found.outlier_intercept)
        assert int((chances > found.outlier_threshold).sum()) == 5


def test_a_manifest_takes_its_doubt_from_the_calibration() -> None:
    """Limit and share of unknown tokens are read from the figures; a graph without a limit has no doubt."""
    found = outliers.doubt({**CALIBRATION.figures(), "unknown_share": 0.25})
    assert found is not None
    assert (found.output, found.threshold, found.unknown_share) == ("outlier", 0.3, 0.25)
    assert outliers.doubt({"temperature": 1.0}) is None


def test_both_outputs_are_exported_and_agree_with_torch(tmp_path: Path) -> None:
    """One file with probabilities and outlier, in this order; parity holds for both, and a wrong line is found."""
    spec = ServingSpec(
        inputs=[TensorSpec(name="pixels", dtype="uint8", shape=["batch", 4])],
        outputs=outliers.outputs(3),
        buckets=Buckets(),
        labels=["a", "b", "c"],
    )
    path, module = tmp_path / "model.onnx", Both().eval()
    export.export(module, example(2, 0, 0), spec, path)
    assert export.check_parity(module, path, example, [0]).max_abs_diff < 1e-5
    got = export.run(export.session(path), example(5, 0, 3))
    assert {name: values.shape for name, values in got.items()} == {"probabilities": (5, 3), "outlier": (5,)}
    module.answer.calibration = Calibration(0.5, 2.0, -0.9, 0.3)
    with pytest.raises(export.ParityError):
        export.check_parity(module, path, example, [0])
