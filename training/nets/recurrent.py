"""RNN, GRU and LSTM layers over padded rows that export to one ONNX node a layer with true sequence lengths.

In training the rows run as a packed sequence. While a graph is exported the same weights are written as ONNX
`RNN`, `GRU` or `LSTM` nodes (opset 14 signatures) with `sequence_lens`, as neither exporter of torch 2.13 can take
packed sequences and unrolled loops freeze the length. Padding never reaches a state, in either direction.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Kind = Literal["rnn", "gru", "lstm"]

_MODULES: dict[Kind, type[nn.RNN | nn.GRU | nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
_GATE_ORDER: dict[Kind, list[int]] = {
    "rnn": [0],
    "gru": [1, 0, 2],  # torch r z n, ONNX z r h
    "lstm": [0, 3, 1, 2],  # torch i f g o, ONNX i o f c
}


class Recurrent(nn.Module):
    """`layers` recurrent layers of `hidden` units over rows [batch, time, inputs] that are padded at the end.

    `forward(x, lengths)` returns the top layer's outputs [batch, time, directions * hidden], zero in the padding, and
    its last states [batch, directions * hidden]: after step `lengths - 1` forwards, after step 0 backwards.
    `lengths` [batch] int64 are at least 1. `dropout` acts between the layers, in training only.
    """

    def __init__(
        self,
        kind: Kind,
        inputs: int,
        hidden: int,
        *,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.hidden, self.layers, self.directions = hidden, layers, 2 if bidirectional else 1
        self.cells = _MODULES[kind](
            inputs,
            hidden,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )

    @property
    def features(self) -> int:
        """Width of the outputs and of the last states."""
        return self.directions * self.hidden

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if torch.onnx.is_in_onnx_export():
            return self._as_nodes(x, lengths)
        # the lengths of a packed sequence live on the CPU, wherever the values are
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, state = self.cells(packed)
        padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])
        last = (state[0] if self.kind == "lstm" else state)[-self.directions :]
        return padded, last.transpose(0, 1).flatten(1)

    def _as_nodes(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch, time = x.shape[0], x.shape[1]
        y, sequence_lens = x.transpose(0, 1), lengths.to(torch.int32)
        attributes: dict[str, Any] = {
            "hidden_size": self.hidden,
            "direction": "bidirectional" if self.directions == 2 else "forward",
        }
        if self.kind == "gru":
            attributes["linear_before_reset"] = 1  # torch multiplies the reset gate after the recurrent product
        state = (self.directions, batch, self.hidden)
        shapes: list[Any] = [(time, *state), state] + ([state] if self.kind == "lstm" else [])
        for layer in range(self.layers):
            results = torch.onnx.ops.symbolic_multi_out(
                self.kind.upper(),
                (y, *self._node_weights(layer), sequence_lens),
                attrs=attributes,
                dtypes=[torch.float32] * len(shapes),
                shapes=shapes,
                version=14,
            )
            y = results[0].permute(0, 2, 1, 3).reshape(time, batch, self.features)
        return y.transpose(0, 1), results[1].permute(1, 0, 2).reshape(batch, self.features)

    def _node_weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """ONNX `W`, `R` and `B` of a layer: directions first, gates in ONNX order, both biases side by side."""
        weight_ih, weight_hh, bias_ih, bias_hh = (
            torch.stack([self._gates(f"{name}_l{layer}{side}") for side in ["", "_reverse"][: self.directions]])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return weight_ih, weight_hh, torch.cat([bias_ih, bias_hh], 1)

    def _gates(self, name: str) -> Tensor:
        order = _GATE_ORDER[self.kind]
        gates = getattr(self.cells, name).chunk(len(order), 0)
        return torch.cat([gates[i] for i in order], 0)
