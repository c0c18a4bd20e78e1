"""The offline wing: data, networks, fitting, export and the gate. Never imports `service`."""

import importlib
import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is loaded: it would call its maker

try:
    importlib.import_module("models")
except ImportError as exc:  # on this machine it cannot run; the message is a sentence
    sys.exit(f"neuroserve: {exc}")
