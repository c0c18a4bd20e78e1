"""What a user of a neuroserve service imports: `neuroserve.client`, and the `neuroserve` command."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # the command loads ONNX Runtime where it serves
