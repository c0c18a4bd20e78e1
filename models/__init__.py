"""The ground floor: what the training and the serving wing agree on."""

import os

from models.platforms import refusal

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is loaded: it would call its maker

if (_sentence := refusal()) is not None:
    raise ImportError(_sentence)
