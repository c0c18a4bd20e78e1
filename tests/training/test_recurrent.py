"""Recurrent layers: padding is never seen, and the exported nodes agree with torch for every kind."""

import onnx
import pytest
import torch
from torch import nn

from models.manifest import Buckets, TensorSpec
from training import export
from training.nets.recurrent import Recurrent
from training.tasks.base import ServingSpec

KINDS = ["rnn", "gru", "lstm"]
INPUTS, HIDDEN = 3, 5


def rows(batch, time, seed):
    """Random rows of random lengths, the first of full length, with junk behind the last real step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, INPUTS, generator=generator)
    lengths = torch.randint(1, time + 1, (batch,), generator=generator)
    lengths[0] = time
    x[torch.arange(time) >= lengths.unsqueeze(1)] = 1e4
    return {"x": x, "lengths": lengths}


def layers(kind, bidirectional):
    torch.manual_seed(0)
    return Recurrent(kind, INPUTS, HIDDEN, layers=2, bidirectional=bidirectional, dropout=0.5).eval()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_row_gives_what_it_gives_alone_and_unpadded(kind, bidirectional):
    """Neither direction may see the padding or a neighbour, and outputs in the padding are zero."""
    module, batch = layers(kind, bidirectional), rows(6, 11, 1)
    with torch.no_grad():
        outputs, last = module(**batch)
        for row, length in enumerate(batch["lengths"].tolist()):
            alone, alone_last = module(batch["x"][row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(outputs[row, :length], alone[0])
            torch.testing.assert_close(last[row], alone_last[0])
            assert not outputs[row, length:].any()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_last_states_are_the_ends_of_the_outputs(kind, bidirectional):
    """The forward state is that of the last real step, the backward state that of the first."""
    module, batch = layers(kind, bidirectional), rows(4, 7, 2)
    with torch.no_grad():
        outputs, last = module(**batch)
    ends = outputs[torch.arange(4), batch["lengths"] - 1, :HIDDEN]
    expected = torch.cat([ends, outputs[:, 0, HIDDEN:]], dim=1) if bidirectional else ends
    torch.testing.assert_close(last, expected)
    assert module.features == last.shape[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*axis name.*:UserWarning")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_exported_nodes_agree_with_torch_at_every_batch_and_length(kind, bidirectional, tmp_path):
    """One ONNX node a layer, dynamic in both axes, right for true lengths and blind to the padding."""
    module, path = layers(kind, bidirectional), tmp_path / "model.onnx"
    width = module.features
    spec = ServingSpec(
        inputs=[
            TensorSpec(name="x", dtype="float32", shape=["batch", "time", INPUTS]),
            TensorSpec(name="lengths", dtype="int64", shape=["batch"]),
        ],
        outputs=[
            TensorSpec(name="outputs", dtype="float32", shape=["batch", "time", width]),
            TensorSpec(name="last", dtype="float32", shape=["batch", width]),
        ],
        buckets=Buckets(),
        labels=[],
    )
    export.export(module, rows(2, 6, 0), spec, path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count(kind.upper()) == 2
    assert "Loop" not in nodes
    parity = export.check_parity(module, path, rows, [1, 2, 6, 17, 60], tolerance=1e-5)
    assert parity.max_abs_diff < 1e-5


def test_dropout_acts_between_layers_in_training_only():
    """Two passes differ in training and agree in inference."""
    module, batch = layers("lstm", bidirectional=False), rows(3, 5, 3)
    assert torch.equal(module(**batch)[1], module(**batch)[1])
    module.train()
    assert not torch.equal(module(**batch)[1], module(**batch)[1])


def test_a_single_layer_takes_a_dropout_without_complaint():
    """There is nothing between the layers of one, so nothing to warn of."""
    assert isinstance(Recurrent("gru", INPUTS, HIDDEN, dropout=0.5).cells, nn.GRU)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(kind):
    """The packed road in training leaves no weight behind."""
    module, batch = layers(kind, bidirectional=True).train(), rows(4, 9, 4)
    batch["x"] = batch["x"].clamp(max=3)
    module(**batch)[1].square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())
