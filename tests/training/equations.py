"""The textbook's equations in plain NumPy, as they are printed: loops over rows and steps, no torch, no speed.

The tests hold the layers, the losses and the exported graphs against these. Arrays are float64. "GBC" is I. Goodfellow,
Y. Bengio, A. Courville, "Deep Learning" (MIT Press, 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Truth = NDArray[np.bool_]

# ---------------------------------------------------------------------- layers


def dense(x: Array, weight: Array, bias: Array) -> Array:
    """y = W x + b for x [..., inputs], W [outputs, inputs], b [outputs] (GBC section 6.1)."""
    return x @ weight.T + bias


def relu(x: Array) -> Array:
    """max(0, x) (GBC section 6.3.1)."""
    return np.maximum(x, 0.0)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) (GBC equation 3.30), written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def convolution(x: Array, kernels: Array, bias: Array, padding: int = 0) -> Array:
    """y[o, i, j] = b[o] + sum over c, m, n of x[c, i + m, j + n] k[o, c, m, n] (GBC equation 9.6, with a bias).

    x [rows, channels, height, width], kernels [outputs, channels, m, n]; `padding` zeros on each side, stride 1.
    """
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    tall, wide = x.shape[2] - kernels.shape[2] + 1, x.shape[3] - kernels.shape[3] + 1
    y = np.zeros((len(x), len(kernels), tall, wide))
    for m in range(kernels.shape[2]):
        for n in range(kernels.shape[3]):
            y += np.einsum("rcij,oc->roij", x[:, :, m : m + tall, n : n + wide], kernels[:, :, m, n])
    return y + bias[:, None, None]


def max_pooling(x: Array, size: int) -> Array:
    """The largest value of each size x size square, squares side by side; what is left at the edge is dropped.

    x [rows, channels, height, width] (GBC section 9.3).
    """
    y = np.empty((*x.shape[:2], x.shape[2] // size, x.shape[3] // size))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            y[:, :, i, j] = x[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size].max((2, 3))
    return y


def batch_norm(x: Array, mean: Array, variance: Array, gain: Array, shift: Array, epsilon: float = 1e-5) -> Array:
    """gain (x - mean) / sqrt(variance + epsilon) + shift, per channel (axis 1), with the running statistics.

    S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015, algorithm 2.
    """
    shape = (1, -1) + (1,) * (x.ndim - 2)
    normal = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
    return gain.reshape(shape) * normal + shift.reshape(shape)


def layer_norm(x: Array, gain: Array, shift: Array, epsilon: float = 1e-5) -> Array:
    """gain (x - mean) / sqrt(variance + epsilon) + shift over the last axis; the variance divides by n, not n - 1.

    J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer Normalization", 2016, equation 4.
    """
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    y: Array = gain * (x - mean) / np.sqrt(variance + epsilon) + shift
    return y


def embedding(ids: Whole, table: Array) -> Array:
    """Row `id` of the table [vocabulary, width] for each id: a one-hot vector times a matrix (GBC section 12.4.2)."""
    return np.eye(len(table))[ids] @ table


def masked_mean(x: Array, real: Truth) -> Array:
    """The mean [rows, width] of x [rows, length, width] over its real steps; zeros where a row has none."""
    return np.array(
        [row[keep].mean(0) if keep.any() else np.zeros(x.shape[2]) for row, keep in zip(x, real, strict=True)]
    )


# ---------------------------------------------------------------------- probabilities


def softmax(x: Array) -> Array:
    """exp(x_i) / sum over j of exp(x_j) over the last axis (GBC equation 6.29), shifted so that nothing overflows."""
    power = np.exp(x - x.max(-1, keepdims=True))
    y: Array = power / power.sum(-1, keepdims=True)
    return y


def cross_entropy(logits: Array, targets: Whole, smoothing: float = 0.0) -> float:
    """The mean over rows of - sum over k of q_k log softmax(logits)_k, in nats (GBC section 6.2.2).

    logits [rows, classes], targets [rows]; q is 1 at the target, or with smoothing s: (1 - s) there plus s / classes
    everywhere (C. Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016, section 7).
    """
    classes = logits.shape[1]
    wanted = (1 - smoothing) * np.eye(classes)[targets] + smoothing / classes
    return float(-(wanted * np.log(softmax(logits))).sum(1).mean())


# ---------------------------------------------------------------------- recurrent cells

State = tuple[Array, ...]
Step = Callable[[Array, State, "CellWeights"], State]


@dataclass(frozen=True)
class CellWeights:
    """One direction of one layer, gates stacked as torch does (GRU: r z n; LSTM: i f g o).

    `w` [gates * hidden, inputs] and `b` act on the input, `u` [gates * hidden, hidden] and `c` on the last state.
    """

    w: Array
    u: Array
    b: Array
    c: Array


def rnn_step(x: Array, state: State, weights: CellWeights) -> State:
    """h' = tanh(W x + b + U h + c) (J. L. Elman, "Finding Structure in Time", 1990; GBC equations 10.8 and 10.9)."""
    (h,) = state
    return (np.tanh(weights.w @ x + weights.b + weights.u @ h + weights.c),)


def gru_step(x: Array, state: State, weights: CellWeights) -> State:
    """One step of a gated recurrent unit (K. Cho et al., EMNLP 2014), in the form of the cuDNN library and torch:

    r = sigmoid(Wr x + br + Ur h + cr), z = sigmoid(Wz x + bz + Uz h + cz),
    n = tanh(Wn x + bn + r * (Un h + cn)), h' = (1 - z) * n + z * h.
    The paper multiplies r into h before Un; ONNX names the form here `linear_before_reset`.
    """
    (h,) = state
    wr, wz, wn = np.split(weights.w @ x + weights.b, 3)
    ur, uz, un = np.split(weights.u @ h + weights.c, 3)
    r, z = sigmoid(wr + ur), sigmoid(wz + uz)
    n = np.tanh(wn + r * un)
    return ((1 - z) * n + z * h,)


def lstm_step(x: Array, state: State, weights: CellWeights) -> State:
    """One step of a long short-term memory (S. Hochreiter and J. Schmidhuber, 1997) and its forget gate (Gers, 2000):

    i, f, o = sigmoid(W x + b + U h + c) of their own rows, g = tanh of its own,
    memory m' = f * m + i * g, h' = o * tanh(m') (GBC equations 10.40 to 10.44).
    """
    h, memory = state
    i, f, g, o = np.split(weights.w @ x + weights.b + weights.u @ h + weights.c, 4)
    memory = sigmoid(f) * memory + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(memory), memory


STEPS: dict[str, tuple[Step, int]] = {"rnn": (rnn_step, 1), "gru": (gru_step, 1), "lstm": (lstm_step, 2)}
"""By kind: the step, and how many vectors its state holds."""


def run_cell(kind: str, x: Array, weights: CellWeights, *, backwards: bool = False) -> tuple[Array, Array]:
    """All states [time, hidden] of one row x [time, inputs], each at its own step's place, and the last one."""
    step, parts = STEPS[kind]
    hidden = weights.u.shape[1]
    state: State = tuple(np.zeros(hidden) for _ in range(parts))
    outputs = np.zeros((len(x), hidden))
    for time in reversed(range(len(x))) if backwards else range(len(x)):
        state = step(x[time], state, weights)
        outputs[time] = state[0]
    return outputs, state[0]


def recurrent(kind: str, x: Array, lengths: Whole, layers: Sequence[Sequence[CellWeights]]) -> tuple[Array, Array]:
    """Stacked layers over padded rows x [rows, time, inputs]: only the first `lengths` steps of a row are ever read.

    Each layer holds one direction or two (forwards, backwards), which are put side by side (M. Schuster and K. K.
    Paliwal, "Bidirectional Recurrent Neural Networks", 1997). Gives the top layer's states, zero in the padding, and
    its last ones [rows, directions * hidden].
    """
    tops, lasts = [], []
    for row, length in zip(x, lengths, strict=True):
        steps = row[:length]
        for layer in layers:
            runs = [run_cell(kind, steps, weights, backwards=number == 1) for number, weights in enumerate(layer)]
            steps = np.concatenate([outputs for outputs, _ in runs], 1)
            last = np.concatenate([state for _, state in runs])
        tops.append(np.pad(steps, ((0, len(row) - length), (0, 0))))
        lasts.append(last)
    return np.array(tops), np.array(lasts)


# ---------------------------------------------------------------------- attention


def attention(query: Array, key: Array, value: Array, real: Truth) -> Array:
    """softmax(Q K^T / sqrt(width)) V over the keys that are real; zeros where none is.

    query [queries, width], key [keys, width], value [keys, any], real [keys] (A. Vaswani et al., "Attention Is All You
    Need", NIPS 2017, equation 1; the mask is the -infinity of its section 3.2.3).
    """
    if not real.any():
        return np.zeros((len(query), value.shape[1]))
    scores = query @ key.T / math.sqrt(query.shape[1])
    return softmax(np.where(real, scores, -np.inf)) @ value


def multi_head_attention(
    x: Array, real: Truth, heads: int, project: tuple[Array, Array], out: tuple[Array, Array]
) -> Array:
    """Concat(head_1, ..., head_h) W_out of one row x [length, width] that attends to itself (Vaswani et al., 3.2.2).

    `project` (weight [3 * width, width], bias) makes queries, keys and values, in this order, heads side by side.
    """
    query, key, value = (np.split(part, heads, 1) for part in np.split(dense(x, *project), 3, 1))
    mixed = [attention(q, k, v, real) for q, k, v in zip(query, key, value, strict=True)]
    return dense(np.concatenate(mixed, 1), *out)


def sinusoids(length: int, width: int) -> Array:
    """PE(place, 2 i) = sin(place / 10000^(2 i / width)), PE(place, 2 i + 1) = cos(the same); [length, width].

    Vaswani et al., section 3.5.
    """
    table = np.empty((length, width))
    for place in range(length):
        for i in range(width // 2):
            angle = place / 10_000 ** (2 * i / width)
            table[place, 2 * i], table[place, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table
