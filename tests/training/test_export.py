"""Export to ONNX and the proof of parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from models.manifest import TensorSpec
from training import doubt, export
from training.export import ExportError, ParityError
from training.nets.cnn import DigitCnn, LeanCnn
from training.outliers import Calibration
from training.tasks.base import Inputs, ServingSpec, Splits
from training.tasks.digit import TASK, Serving

SPEC: ServingSpec = TASK.spec(Splits(None, None, None, [], {}, {}))  # type: ignore[arg-type]
ALONE = replace(SPEC, outputs=SPEC.outputs[:1])
"""For networks that give probabilities only."""


def _serving(scale: float = 1.0) -> Serving:
    torch.manual_seed(0)
    network = LeanCnn(DigitCnn(0.13, 0.31).eval())
    return Serving(network, doubt.head(network.seen, network.doubt_layers), Calibration(scale, 1.0, -3.0, 0.5)).eval()


@pytest.fixture(scope="module", name="exported")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.export(_serving(), TASK.example(2, 0, 0), SPEC, path)
    return path


def test_the_graph_is_one_file_with_the_promised_tensors(exported: Path) -> None:
    """uint8 pixels with a free batch in, probabilities and outlier out, opset 20, nothing beside the file."""
    model = onnx.load(exported)
    assert [one.version for one in model.opset_import if one.domain == ""] == [export.OPSET]
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert [value.name for value in model.graph.output] == ["probabilities", "outlier"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not {"Dropout", "BatchNormalization"} & {node.op_type for node in model.graph.node}


def test_the_file_holds_nothing_of_the_machine_that_made_it(exported: Path) -> None:
    """No stack trace and no path of a source file travels with a model."""
    content = exported.read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(export.__file__).parent).encode() not in content


def test_onnx_runtime_gives_what_torch_gives(exported: Path) -> None:
    """Within 1e-4 over batches of 1, 3 and 32, and the cases are on record."""
    parity = export.check_parity(_serving(), exported, TASK.example, [0])
    assert parity.max_abs_diff < 1e-5
    assert parity.cases == [[1, 0], [3, 0], [32, 0]]


def test_another_network_fails_parity(exported: Path) -> None:
    """A file that is not the module's is refused, with the case that shows it."""
    with pytest.raises(ParityError, match=r"torch and ONNX Runtime differ by .* at batch 1, length 0"):
        export.check_parity(_serving(scale=2.0), exported, TASK.example, [0])


class _Mixing(nn.Module):
    """Rows that look at each other, as a network with a mistake in its mask does."""

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.float32).mean((1, 2)).unsqueeze(1).expand(-1, 10)
        return x - x.mean(0, keepdim=True)


def test_rows_that_depend_on_their_batch_fail_parity(tmp_path: Path) -> None:
    """The same row alone and in a batch must give the same."""
    path = tmp_path / "model.onnx"
    export.export(_Mixing(), TASK.example(2, 0, 0), ALONE, path)
    with pytest.raises(ParityError, match="a row alone differs from the row in its batch"):
        export.check_parity(_Mixing(), path, TASK.example, [0])


class _NotANumber(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.float32).mean((1, 2)).unsqueeze(1).expand(-1, 10)
        return torch.sqrt(-1.0 - x)


def test_outputs_that_are_no_numbers_fail_parity(tmp_path: Path) -> None:
    """NaN equals nothing, so it passes no comparison."""
    path = tmp_path / "model.onnx"
    export.export(_NotANumber(), TASK.example(2, 0, 0), ALONE, path)
    with pytest.raises(ParityError):
        export.check_parity(_NotANumber(), path, TASK.example, [0])


class _Branching(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.sum().item() > 5:
            return pixels.to(torch.float32)
        return -pixels.to(torch.float32)


def test_a_network_torch_cannot_export_is_an_error_in_one_line(tmp_path: Path) -> None:
    """The exporter's pages of advice become one sentence."""
    with pytest.raises(ExportError, match="torch cannot export the network: Could not guard") as caught:
        export.export(_Branching(), TASK.example(2, 0, 0), SPEC, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_a_graph_other_than_promised_is_refused(tmp_path: Path) -> None:
    """The task's spec is checked against what came out."""
    promised = replace(
        SPEC, outputs=[TensorSpec(name="probabilities", dtype="float32", shape=["batch", 11]), SPEC.outputs[1]]
    )
    with pytest.raises(ExportError, match="the graph's outputs are"):
        export.export(_Mixing(), TASK.example(2, 0, 0), promised, tmp_path / "model.onnx")


def test_the_exporter_stays_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing on either stream, as standard output may carry events; warnings would fail the test as errors."""
    export.export(_Mixing(), TASK.example(2, 0, 0), ALONE, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def test_weights_are_counted_as_served() -> None:
    """The digit network's 93,322 and the outlier head's 51,265."""
    assert export.count_weights(_serving()) == 93_322 + 51_265


def test_inputs_go_by_name(exported: Path) -> None:
    """`run` returns all outputs by name."""
    inputs: Inputs = TASK.example(5, 0, 1)
    outputs = export.run(export.session(exported), inputs)
    assert {name: values.shape for name, values in outputs.items()} == {"probabilities": (5, 10), "outlier": (5,)}
