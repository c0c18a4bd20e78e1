"""What doors say of their rows: codes and probabilities, and how often a code was counted."""

import json
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.service.oip import outputs

NAME = "digit-cnn"
INFER = f"/v2/models/{NAME}/infer"
OUTLIER = "not_like_training_data"


class Told(NamedTuple):
    """What a door said of its rows: the codes and the probabilities of each, and the codes of the whole answer."""

    codes: list
    probabilities: list
    header: str | None


def bar(outlier):
    """A bar uint8 [28, 28] that the doubting test model calls no digit with this probability."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:24, 13:16] = 255
    pixels[14, 14] = round(255 * outlier)
    return pixels


def png(pixels):
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def told(answer):
    """What the JSON of `/predict` said."""
    assert answer.status_code == 200, answer.text
    content = answer.json()
    rows = content.get("predictions", [content])
    assert all(row["warnings"] for row in rows if "warnings" in row)
    codes = [[each["code"] for each in row.get("warnings", [])] for row in rows]
    assert all(each["detail"].endswith(".") for row in rows for each in row.get("warnings", []))
    return Told(codes, [row["probabilities"] for row in rows], answer.headers.get("X-Warnings"))


def told_by_tensors(answer):
    """What the Open Inference Protocol said over HTTP."""
    found, content = outputs(answer)
    probabilities = found["probabilities"]
    parameters = content.get("parameters")
    codes = json.loads(parameters["warnings"]) if parameters else [[]] * len(probabilities)
    return Told(codes, probabilities.tolist(), answer.headers.get("X-Warnings"))


def without_outliers(found):
    """What a door said, without what the network itself thinks of the input."""
    kept = [[code for code in row if code != OUTLIER] for row in found.codes]
    named = [code for code in (found.header or "").split(", ") if code and code != OUTLIER]
    return kept, sorted(named)


def counted(server, code=OUTLIER, model=NAME):
    """How often answers of the model carried the code, by the metric."""
    line = f'neuroserve_warnings_total{{code="{code}",model="{model}"}} '
    return sum(float(row.removeprefix(line)) for row in server.client.get("/metrics").text.splitlines() if line in row)
