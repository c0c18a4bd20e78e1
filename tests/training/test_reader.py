"""The recurrent topic networks: what a row's end is, what padding may not do, and that the exported file agrees."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

import onnx
import pytest
import torch

from training import export
from training.nets.outlier import OutlierReader
from training.nets.reader import TopicRecurrent, ends, without_gaps
from training.nets.recurrent import Kind
from training.outliers import Calibration
from training.tasks.base import Splits
from training.tasks.topic import MAX_LENGTH, TASK, Serving

KINDS: list[Kind] = list(get_args(Kind))
ROWS = torch.tensor([[5, 9, 3, 12, 7], [8, 0, 0, 0, 0], [4, 0, 2, 0, 0], [0, 6, 0, 0, 1], [0, 0, 0, 0, 0]])


def network(kind: Kind, vocabulary: int = 200) -> TopicRecurrent:
    torch.manual_seed(0)
    return TopicRecurrent(kind, vocabulary, 4).eval()


def test_a_row_ends_with_its_last_token() -> None:
    """Zeros before it are steps, zeros behind it are not, and a row of nothing has one step."""
    assert ends(ROWS).tolist() == [5, 1, 3, 5, 1]


def test_hidden_tokens_are_left_out_in_order() -> None:
    """What remains keeps its order, moves to the front, and is no wider than it must be."""
    gapped = ROWS[2:]
    assert without_gaps(gapped).tolist() == [[4, 2], [6, 1], [0, 0]]
    assert torch.equal(without_gaps(ROWS[:2]), ROWS[:2])
    assert without_gaps(torch.zeros(2, 7, dtype=torch.int64)).tolist() == [[0], [0]]


@pytest.mark.parametrize("kind", KINDS)
def test_company_and_padding_change_nothing(kind: Kind) -> None:
    """A row in a mixed and padded batch gives the logits it gives alone, zeros inside it included."""
    together = network(kind)(torch.nn.functional.pad(ROWS, (0, 20)))
    assert together.shape == (len(ROWS), 4)
    assert bool(torch.isfinite(together).all())
    for row, length, logits in zip(ROWS, ends(ROWS).tolist(), together, strict=True):
        torch.testing.assert_close(network(kind)(row[:length].unsqueeze(0))[0], logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_junk_behind_the_end_changes_nothing(kind: Kind) -> None:
    """What the vector of padding holds reaches neither the layer's outputs nor the mean."""
    module, row = network(kind), ROWS[:1]
    padded = torch.nn.functional.pad(row, (0, 9))
    with torch.no_grad():
        before = module(row)
        module.vectors.weight[0] = 1e3
        torch.testing.assert_close(module(padded), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_a_step_without_a_word_matter(kind: Kind) -> None:
    """The same words in another order, or with a gap, give other logits: the layer reads, it does not count."""
    module = network(kind)
    one, other = torch.tensor([[5, 9, 3, 12]]), torch.tensor([[12, 3, 9, 5]])
    gap = torch.tensor([[5, 9, 0, 3, 12]])
    assert (module(one) - module(other)).abs().max() > 1e-5
    assert (module(one) - module(gap)).abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_training_moves_every_weight_but_the_vector_of_padding(kind: Kind) -> None:
    """Gradients flow through both readings and both directions, and none reach id 0."""
    module = network(kind).train()
    module(ROWS).square().sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())
    padding = module.vectors.weight.grad
    assert padding is not None
    assert not padding[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_exported_graph_agrees_with_torch(kind: Kind, tmp_path: Path) -> None:
    """One recurrent node, right for every batch and length, for zeros inside a row and for rows of nothing."""
    reader, calibration = OutlierReader(200), Calibration(1.3, 1.0, 0.0, 0.5)
    module, path = Serving(network(kind), reader, calibration).eval(), tmp_path / "model.onnx"
    export.export(module, TASK.example(2, 6, 0), TASK.spec(cast("Splits", None)), path)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count(kind.upper()) == 1
    assert "Loop" not in kinds
    parity = export.check_parity(module, path, TASK.example, TASK.parity_lengths(), tolerance=1e-5)
    assert [32, MAX_LENGTH] in parity.cases
    found = export.run(export.session(path), {"token_ids": ROWS})["probabilities"]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), module(ROWS)[0], atol=1e-5, rtol=0)
