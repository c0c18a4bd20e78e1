"""The baseline: one digit per request with FastAPI and ONNX Runtime, written the way most people write it."""

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, UploadFile
from PIL import Image
from pydantic import BaseModel

app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


class Prediction(BaseModel):
    digit: int
    probabilities: list[float]


@app.post("/predict/digit")
def predict(file: UploadFile) -> Prediction:
    """A `def` endpoint on FastAPI's thread pool; no batching."""
    pixels = np.asarray(Image.open(file.file).convert("L").resize((28, 28)), dtype=np.uint8)[None]
    probabilities = session.run(None, {"pixels": pixels})[0][0]
    return Prediction(digit=int(probabilities.argmax()), probabilities=probabilities.tolist())
