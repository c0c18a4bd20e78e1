"""The walls of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WINGS = ("models", "neuroserve", "service", "training")
FORBIDDEN = {
    "models": {"neuroserve", "training", "service", "torch", "onnxruntime", "numpy", "fastapi"},
    "neuroserve": {"models", "service", "training", "torch", "onnxruntime", "numpy", "pydantic", "fastapi"},
    "training": {"neuroserve", "service", "fastapi", "uvicorn"},
    "service": {"neuroserve", "training", "torch", "onnx", "onnxscript", "matplotlib"},
}
DOORS = {"neuroserve/cli.py": {"service"}}
"""`neuroserve serve` and `neuroserve key` are the service's own; the command loads it for these two alone."""


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("wing", WINGS)
def test_no_wing_imports_what_it_must_not(wing):
    """`service` and `training` stand on `models` and never on each other; the client stands on none of them."""
    files = sorted((ROOT / wing).rglob("*.py"))
    assert files
    found = {str(path.relative_to(ROOT)): imported(path) & FORBIDDEN[wing] for path in files}
    offences = {name: bad for name, names in found.items() if (bad := names - DOORS.get(name, set()))}
    assert not offences


def test_importing_the_application_loads_neither_torch_nor_training():
    """In a fresh interpreter `import service.app` leaves the offline wing alone."""
    code = (
        "import sys, service.app\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'training', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_training_package_is_importable_without_torch():
    """The worker, the gate and the publisher run where only the child process needs torch."""
    code = (
        "import sys, training.worker, training.gate, training.publish\n"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'service', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_and_functions_stay_short():
    """At most about 500 lines a file and 60 a function."""
    for path in [path for wing in WINGS for path in (ROOT / wing).rglob("*.py")]:
        source = path.read_text("utf-8")
        assert source.count("\n") <= 500, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
