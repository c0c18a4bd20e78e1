"""The textbook's equations: known by hand where a hand can do it, and torch's own layers say the same in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training import equations as eq
from tests.training.equations import CellWeights
from tests.training.twins import cells_of, numbers
from training.nets.recurrent import Kind, Recurrent
from training.nets.transformer import Attention, sinusoids
from training.nets.transformer import masked_mean as net_masked_mean


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def same(ours: np.ndarray, torchs: torch.Tensor) -> None:
    np.testing.assert_allclose(ours, torchs.detach().numpy(), atol=1e-12)


def t(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x)


def test_dense_by_hand() -> None:
    """[1 2; 3 4] (10, 20) + (1, 2) = (51, 112)."""
    got = eq.dense(np.array([[10.0, 20.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 2.0]))
    assert got.tolist() == [[51.0, 112.0]]


def test_convolution_by_hand() -> None:
    """A difference of neighbours finds the edge in a picture of two halves, and the bias is added once."""
    picture = np.array([[[[0.0, 0.0, 5.0, 5.0]] * 2]])
    kernel = np.array([[[[-1.0, 1.0]]]])
    assert eq.convolution(picture, kernel, np.array([0.5])).tolist() == [[[[0.5, 5.5, 0.5]] * 2]]


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_convolution_as_torch(padding: int) -> None:
    """Several channels, a kernel that is not square."""
    x, kernels, bias = random(2, 3, 9, 8), random(4, 3, 3, 2), random(4)
    same(eq.convolution(x, kernels, bias, padding), F.conv2d(t(x), t(kernels), t(bias), padding=padding))


def test_max_pooling_by_hand() -> None:
    """The largest of each square; the odd column is dropped."""
    picture = np.array([[[[1.0, 7.0, 3.0, 4.0, 99.0], [2.0, 0.0, 8.0, -1.0, 99.0]]]])
    assert eq.max_pooling(picture, 2).tolist() == [[[[7.0, 8.0]]]]


def test_max_pooling_as_torch() -> None:
    """Even and odd sizes."""
    x = random(2, 3, 7, 6)
    same(eq.max_pooling(x, 2), F.max_pool2d(t(x), 2))


def test_relu_and_sigmoid_by_hand() -> None:
    """The bend of one, the middle, the symmetry and the far ends of the other."""
    assert eq.relu(np.array([-2.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 3.0]
    np.testing.assert_allclose(eq.sigmoid(np.array([-1e3, 0.0, math.log(3), 1e3])), [0.0, 0.5, 0.75, 1.0])


def test_norms_as_torch() -> None:
    """Batch norm with running statistics over pictures and rows, layer norm over the last axis."""
    mean, shift = random(3, seed=1), random(3, seed=2)
    variance, gain = random(3, seed=3) ** 2 + 0.1, random(3, seed=4)
    for x in (random(2, 3, 4, 5), random(6, 3)):
        expected = F.batch_norm(t(x), t(mean), t(variance), t(gain), t(shift))
        same(eq.batch_norm(x, mean, variance, gain, shift), expected)
    x = random(2, 5, 3)
    same(eq.layer_norm(x, gain, shift), F.layer_norm(t(x), (3,), t(gain), t(shift)))


def test_layer_norm_by_hand() -> None:
    """(1, 3) has mean 2 and deviation 1."""
    got = eq.layer_norm(np.array([1.0, 3.0]), np.array([10.0, 10.0]), np.array([0.0, 5.0]), epsilon=0.0)
    assert got.tolist() == [-10.0, 15.0]


def test_embedding_picks_rows() -> None:
    """The one-hot product is the row of that number, as torch looks it up."""
    table, ids = random(5, 3), np.array([[0, 4], [2, 2]])
    same(eq.embedding(ids, table), F.embedding(t(ids), t(table)))


def test_masked_mean_skips_padding() -> None:
    """Only real steps count, and a row of padding is zero; the networks' own says the same."""
    x, real = random(3, 4, 2), np.array([[True] * 4, [True, False, True, False], [False] * 4])
    got = eq.masked_mean(x, real)
    np.testing.assert_allclose(got[1], (x[1, 0] + x[1, 2]) / 2)
    assert not got[2].any()
    same(got, net_masked_mean(t(x), t(real)))


def test_softmax_cross_entropy_by_hand() -> None:
    """Odds of 1 to 3 give probabilities of a quarter and three quarters, and a loss of -log of the target's."""
    logits = np.array([[0.0, math.log(3)], [1e4, 1e4 + math.log(3)]])
    np.testing.assert_allclose(eq.softmax(logits), [[0.25, 0.75]] * 2)
    assert eq.cross_entropy(logits, np.array([0, 1])) == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    assert eq.cross_entropy(np.zeros((1, 10)), np.array([3])) == pytest.approx(math.log(10))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_as_torch(smoothing: float) -> None:
    """With and without smoothed labels."""
    logits, targets = random(6, 4) * 3, np.array([0, 1, 2, 3, 3, 0])
    expected = F.cross_entropy(t(logits), t(targets), label_smoothing=smoothing)
    assert eq.cross_entropy(logits, targets, smoothing) == pytest.approx(expected.item(), abs=1e-12)


# ---------------------------------------------------------------------- recurrent cells


def one_by_one(gates: int, w: float, u: float, b: float = 0.0) -> CellWeights:
    """A cell of one unit that reads one number, all gates alike."""
    column = np.ones((gates, 1))
    return CellWeights(w * column, u * column, b * column[:, 0], 0 * column[:, 0])


def test_one_step_of_each_cell_by_hand() -> None:
    """x = 1, state 0.5 (the LSTM's memory 2), all weights 1 or 0."""
    x, h = np.ones(1), np.array([0.5])
    s = 1 / (1 + math.exp(-1.5))
    assert eq.rnn_step(x, (h,), one_by_one(1, 1, 1))[0][0] == pytest.approx(math.tanh(1.5))
    new = math.tanh(1 + s * 0.5)
    assert eq.gru_step(x, (h,), one_by_one(3, 1, 1))[0][0] == pytest.approx((1 - s) * new + s * 0.5)
    memory = s * 2 + s * math.tanh(1.5)
    got = eq.lstm_step(x, (h, np.array([2.0])), one_by_one(4, 1, 1))
    assert (got[0][0], got[1][0]) == pytest.approx((s * math.tanh(memory), memory))


def test_gates_do_what_they_are_for() -> None:
    """A GRU whose update gate is wide open keeps its state; an LSTM that forgets nothing adds up what it reads."""
    weights = one_by_one(3, 1, 1)
    keeping = CellWeights(weights.w, weights.u, np.array([0.0, 1e3, 0.0]), weights.c)
    assert eq.gru_step(np.ones(1), (np.array([0.3]),), keeping)[0][0] == 0.3
    counting = CellWeights(np.array([[0.0], [0.0], [1e3], [0.0]]), np.zeros((4, 1)), np.full(4, 1e3), np.zeros(4))
    outputs, _ = eq.run_cell("lstm", np.ones((3, 1)), counting)
    np.testing.assert_allclose(outputs[:, 0], np.tanh([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_recurrent_layers_as_torch(kind: Kind, bidirectional: bool) -> None:
    """Two layers over rows of several lengths, junk in the padding."""
    torch.manual_seed(0)
    module = Recurrent(kind, 3, 4, layers=2, bidirectional=bidirectional).double().eval()
    x, lengths = random(4, 6, 3), np.array([6, 1, 4, 2])
    x[np.arange(6) >= lengths[:, None]] = 1e4
    outputs, last = eq.recurrent(kind, x, lengths, cells_of(module.cells))
    for ours, torchs in zip((outputs, last), module(t(x), t(lengths)), strict=True):
        same(ours, torchs)


# ---------------------------------------------------------------------- attention


def test_attention_by_hand() -> None:
    """Equal scores give the mean of the values, a mask leaves out its own, a matching key wins."""
    values, keys = np.array([[1.0], [2.0], [6.0]]), np.array([[100.0, 0.0], [0.0, 100.0], [0.0, 0.0]])
    everything, two = np.array([True] * 3), np.array([True, True, False])
    assert eq.attention(np.zeros((1, 2)), keys, values, everything) == pytest.approx(3.0)
    assert eq.attention(np.zeros((1, 2)), keys, values, two) == pytest.approx(1.5)
    assert eq.attention(np.array([[0.0, 9.0]]), keys, values, everything) == pytest.approx(2.0)
    assert not eq.attention(np.ones((1, 2)), keys, values, np.array([False] * 3)).any()


def test_attention_as_torch() -> None:
    """Scaled dot products behind a mask."""
    query, key, value, real = random(5, 4), random(6, 4), random(6, 3), np.array([True, False, True, True, False, True])
    expected = F.scaled_dot_product_attention(t(query), t(key), t(value), attn_mask=t(real).expand(5, 6))
    same(eq.attention(query, key, value, real), expected)


def test_multi_head_attention_as_torch() -> None:
    """As torch's own layer and as the networks'."""
    torch.manual_seed(0)
    theirs, ours = nn.MultiheadAttention(8, 2, batch_first=True).double().eval(), Attention(8, 2).double()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours.project.weight, ours.project.bias = theirs.in_proj_weight, theirs.in_proj_bias
    ours.out.weight, ours.out.bias = theirs.out_proj.weight, theirs.out_proj.bias
    x, real = random(1, 5, 8), np.array([True, True, False, True, True])
    weights = [numbers(weight) for weight in (*ours.project.parameters(), *ours.out.parameters())]
    got = eq.multi_head_attention(x[0], real, 2, (weights[0], weights[1]), (weights[2], weights[3]))
    expected, _ = theirs(t(x), t(x), t(x), key_padding_mask=~t(real)[None], need_weights=False)
    same(got, expected[0])
    same(got, ours(t(x), torch.where(t(real), 0.0, -1e4)[None, None, None])[0])


def test_sinusoids_by_hand() -> None:
    """The first pair turns by one radian a step, the last of width 4 by a hundredth."""
    table = eq.sinusoids(3, 4)
    expected = [[0, 1, 0, 1], *[[math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)] for p in (1, 2)]]
    np.testing.assert_allclose(table, expected)


def test_sinusoids_as_in_the_networks() -> None:
    """The networks' own table, which is of float32."""
    np.testing.assert_allclose(sinusoids(256, 64).numpy(), eq.sinusoids(256, 64), atol=3e-5)
