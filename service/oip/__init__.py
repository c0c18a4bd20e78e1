"""The Open Inference Protocol, version 2: its requests, its answers, and what it tells of models."""
