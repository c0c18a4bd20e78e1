"""Tests, and the programs that measure."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for programs under `tests.bench` that load ONNX Runtime first
