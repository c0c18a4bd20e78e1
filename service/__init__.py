"""The online wing: HTTP in front of ONNX Runtime. Never imports torch or `training`."""
