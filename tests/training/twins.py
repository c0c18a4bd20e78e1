"""Whole networks written again with the textbook's equations, on the weights of the torch module.

`TWINS` has one for each network of each task. A twin takes the trained module, the module that is exported (for what
was calibrated) and raw inputs, and gives the graph's outputs by name, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from tests.training import equations as eq
from tests.training.equations import Array, CellWeights, Truth, Whole
from training.datasets import ett
from training.nets import forecaster
from training.nets.cnn import LeanCnn
from training.nets.recurrent import Recurrent
from training.nets.series import SeriesTransformer
from training.nets.transformer import Encoder
from training.outliers import Calibration
from training.tasks import forecast as forecast_task
from training.tasks.base import Inputs

Outputs = dict[str, Array]
Twin = Callable[[nn.Module, nn.Module, Inputs], Outputs]


def numbers(values: Tensor) -> Array:
    """A tensor's values as float64."""
    return values.detach().double().numpy()


def dense_of(layer: nn.Linear) -> tuple[Array, Array]:
    """Weight and bias."""
    return numbers(layer.weight), numbers(layer.bias)


def cells_of(cells: nn.RNNBase) -> list[list[CellWeights]]:
    """The weights of torch's recurrent layers, for `eq.recurrent`."""
    sides = ["", "_reverse"] if cells.bidirectional else [""]
    return [
        [
            CellWeights(
                *(numbers(getattr(cells, f"{name}_l{layer}{side}")) for name in ("weight_ih", "weight_hh")),
                *(numbers(getattr(cells, f"{name}_l{layer}{side}")) for name in ("bias_ih", "bias_hh")),
            )
            for side in sides
        ]
        for layer in range(cells.num_layers)
    ]


# ---------------------------------------------------------------------- digit


def chain(layers: Iterable[nn.Module], x: Array) -> Array:
    """One layer behind the other, norms and all, as in inference."""
    for layer in layers:
        match layer:
            case nn.Conv2d():
                x = eq.convolution(x, numbers(layer.weight), numbers(layer.bias), layer.padding[0])
            case nn.MaxPool2d():
                x = eq.max_pooling(x, layer.kernel_size)
            case nn.BatchNorm1d() | nn.BatchNorm2d():
                facts = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
                x = eq.batch_norm(x, *map(numbers, facts), epsilon=layer.eps)
            case nn.ReLU():
                x = eq.relu(x)
            case nn.Flatten():
                x = x.reshape(len(x), -1)
            case nn.Linear():
                x = eq.dense(x, *dense_of(layer))
            case nn.Dropout() | nn.Identity():
                pass
            case _:
                raise AssertionError(f"{type(layer).__name__} has no equation in tests/training/twins.py")
    return x


def digit(module: nn.Module, serving: nn.Module, inputs: Inputs) -> Outputs:
    """Normalised pixels, the layers in their order, softmax at the calibrated temperature, mixed with doubt.

    The convolutions are those of training, on whole pictures: what is served leaves out what no logit depends on. The
    outlier head sees what the second pooling gives, or for the plain network the normalised pixels.
    """
    x = (numbers(inputs["pixels"]) / 255 - module.mean) / module.std
    folded = module.folded()
    if isinstance(serving.network, LeanCnn):
        first = [*folded.features][:6]  # two convolutions, each with its pool and ReLU
        seen = chain(first, x[:, None])
        logits = chain([*[*folded.features][6:], *serving.network.head], seen)
    else:
        seen, logits = x, chain(serving.network.layers, x)
    evidence = chain(serving.outlier, seen)[:, 0]
    return mixed(logits, evidence, serving.answer.calibration)


def mixed(logits: Array, evidence: Array, found: Calibration) -> Outputs:
    """(1 - o) * softmax(logits / T) + o / classes, o the logistic function of the outlier logit's line."""
    outlier = eq.sigmoid(evidence * found.outlier_slope + found.outlier_intercept)
    share = outlier[:, None]
    probabilities = (1 - share) * eq.softmax(logits / found.temperature) + share / logits.shape[1]
    return {"probabilities": probabilities, "outlier": outlier}


# ---------------------------------------------------------------------- encoders of sequences


def transformer_encoder(module: Encoder, x: Array, real: Truth) -> Array:
    """Blocks with the norm before each part (Xiong et al., ICML 2020), row by row; x [rows, length, width]."""
    return np.array([_read(module, row, keep) for row, keep in zip(x, real, strict=True)])


def _read(module: Encoder, x: Array, real: Truth) -> Array:
    for block in module.blocks:
        attention = block.attention
        x = x + eq.multi_head_attention(
            _norm(block.norm_attention, x), real, attention.heads, dense_of(attention.project), dense_of(attention.out)
        )
        wide = eq.relu(eq.dense(_norm(block.norm_forward, x), *dense_of(block.widen)))
        x = x + eq.dense(wide, *dense_of(block.narrow))
    return _norm(module.norm, x)


def _norm(layer: nn.LayerNorm, x: Array) -> Array:
    return eq.layer_norm(x, numbers(layer.weight), numbers(layer.bias), layer.eps)


def recurrent(module: Recurrent, x: Array, lengths: Whole) -> tuple[Array, Array]:
    """All outputs of the top layer and its last states."""
    return eq.recurrent(module.kind, x, lengths, cells_of(module.cells))


# ---------------------------------------------------------------------- topic


def topic_transformer(module: nn.Module, serving: nn.Module, inputs: Inputs) -> Outputs:
    """The normalised geometric mean of the members' probabilities, on the tables as they are served."""
    ids = inputs["token_ids"].numpy()
    chances = [eq.softmax(_member(member, ids)) for member in serving.network.members]
    return _with_outliers(serving, ids, np.mean([np.log(chance) for chance in chances], axis=0))


def _with_outliers(serving: nn.Module, ids: Whole, logits: Array) -> Outputs:
    """A softmax at the temperature, mixed with equal shares by the outlier probability."""
    found, reader = serving.answer.calibration, serving.reader
    logit = np.array([_style(reader, row) for row in ids])
    outlier = 1 / (1 + np.exp(-(logit * found.outlier_slope + found.outlier_intercept)))
    known = eq.softmax(logits / found.temperature)
    return {
        "probabilities": (1 - outlier[:, None]) * known + outlier[:, None] / known.shape[1],
        "outlier": outlier,
    }


def _style(reader: nn.Module, row: Whole) -> float:
    """Mean and largest value of the vectors of a row's words and neighbours, its length, one hidden layer."""
    words, table = numbers(reader.vectors.weight), numbers(reader.pairs.weight)
    pairs = [(before, after) for before, after in pairwise([0, *row]) if after]
    read = np.array([[*words[after], *table[(before * 7919 + after * 104729) % len(table)]] for before, after in pairs])
    if not pairs:
        read = np.zeros((0, words.shape[1] + table.shape[1]))
    mean, largest = read.sum(0) / max(1, len(pairs)), read.max(0, initial=-1.0)
    features = np.concatenate([mean, largest, [np.log(max(1, len(pairs)))]])
    hidden = eq.relu(eq.dense(features[None], *dense_of(reader.hidden)))
    return float(eq.dense(hidden, *dense_of(reader.out))[0, 0])


def _member(module: nn.Module, ids: Whole) -> Array:
    """Word vectors and positions read by the encoder; its masked mean, that of the vectors, and the pairs' weights."""
    real, vectors = ids != 0, eq.embedding(ids, numbers(module.vectors.weight))
    x = eq.dense(vectors, *dense_of(module.entry))
    places = 0.1 * eq.sinusoids(ids.shape[1], x.shape[2])
    read = transformer_encoder(module.encoder, x + places, real)
    both = np.concatenate([eq.masked_mean(read, real), eq.masked_mean(vectors, real)], 1)
    return eq.dense(both, *dense_of(module.head)) + np.array([_of_pairs(module, row) for row in ids])


def _of_pairs(module: nn.Module, row: Whole) -> Array:
    table = numbers(module.pairs.weight)
    pairs = [(one, other) for one, other in pairwise(row) if one and other]
    total = sum((table[(one * 7919 + other * 104729) % len(table)] for one, other in pairs), np.zeros(table.shape[1]))
    return total / np.sqrt(max(1, len(pairs)))


def topic_recurrent(module: nn.Module, serving: nn.Module, inputs: Inputs) -> Outputs:
    """Word vectors read from both ends, the largest of each output along a row, beside the mean of the vectors."""
    ids = inputs["token_ids"].numpy()
    vectors = eq.embedding(ids, numbers(serving.network.vectors.weight))
    lengths = np.array([max(np.flatnonzero(row), default=0) + 1 for row in ids])
    outputs, _ = recurrent(module.layer, vectors, lengths)
    largest = np.array([row[:length].max(0) for row, length in zip(outputs, lengths, strict=True)])
    both = np.concatenate([largest, eq.masked_mean(vectors, ids != 0)], 1)
    return _with_outliers(serving, ids, eq.dense(both, *dense_of(module.head)))


# ---------------------------------------------------------------------- forecast


def forecast(module: nn.Module, serving: nn.Module, inputs: Inputs) -> Outputs:
    """Each row alone, cut to its true length: mean, lower and upper in degrees."""
    rows = zip(*(inputs[name].numpy() for name in ("values", "lengths", "hour_of_week")), strict=True)
    found = [_forecast(module, serving, values[:length].astype(float), int(hour)) for values, length, hour in rows]
    mean, width = (np.array(part) for part in zip(*found, strict=True))
    return {"mean": mean, "lower": mean - width, "upper": mean + width}


def _forecast(module: nn.Module, serving: nn.Module, values: Array, hour: int) -> tuple[Array, Array]:
    mean, std, target = numbers(module.mean), numbers(module.std), module.target
    scaled, length = (values - mean) / std, len(values)
    series = scaled[-forecaster.LOOK_BACK :, target]
    change = np.abs(np.diff(series)).mean()
    unit = np.sqrt((change + forecaster._STILLNESS) / forecaster._USUAL)
    missing = forecaster.LOOK_BACK - len(series)
    days = np.tile(series[:24], forecaster.LOOK_BACK)  # a shorter series is continued to the left by its first day
    past = np.concatenate([days[len(days) - missing :], series])
    map_part = eq.dense((past - past[-1]) / unit, *dense_of(module.past))
    map_part += eq.embedding(np.array((hour + length) % 24), numbers(module.hour.weight))
    steps = recent_steps(scaled[-forecaster.RECENT :], target, unit, hour + max(0, length - forecaster.RECENT))
    correction = eq.dense(_encoded(module.encoder, steps), *dense_of(module.head))
    ahead = (map_part + forecaster._CORRECTION * correction) * unit + past[-1]
    spread = (unit * std[target] / ett.TARGET_STD) ** forecast_task._SPREAD_POWER
    widths = numbers(serving.widths)[sum(length >= past for past in forecast_task.PASTS[1:])]
    return ahead * std[target] + mean[target], widths * spread


def recent_steps(scaled: Array, target: int, unit: float, first_hour: int) -> Array:
    """What an encoder sees of each recent step: changes to the last, the target's in its own unit, and the clock."""
    change = scaled - scaled[-1]
    change[:, target] /= unit
    hours = (first_hour + np.arange(len(scaled))) % 168
    angle = 2 * np.pi * (hours % 24) / 24
    return np.column_stack([change, np.sin(angle), np.cos(angle), hours >= 120])


def _encoded(encoder: nn.Module, steps: Array) -> Array:
    """What the encoder says of one row of steps [time, features]."""
    match encoder:
        case Recurrent():
            return recurrent(encoder, steps[None], np.array([len(steps)]))[1][0]
        case SeriesTransformer():
            x = eq.dense(steps, *dense_of(encoder.entry))
            x += eq.sinusoids(*x.shape)[::-1]  # places count back from the last step
            read = _read(encoder.encoder, x, np.ones(len(x), bool))
            return np.concatenate([read[-1], read.mean(0)])
        case _:
            raise AssertionError(f"the encoder {type(encoder).__name__} has no twin in tests/training/twins.py")


TWINS: dict[tuple[str, str], Twin] = {
    ("digit", "cnn"): digit,
    ("digit", "mlp"): digit,
    ("forecast", "lstm"): forecast,
    ("forecast", "gru"): forecast,
    ("forecast", "rnn"): forecast,
    ("forecast", "transformer"): forecast,
    ("topic", "transformer"): topic_transformer,
    ("topic", "lstm"): topic_recurrent,
    ("topic", "gru"): topic_recurrent,
    ("topic", "rnn"): topic_recurrent,
}
