"""The 64 requests of the benchmark in each form a client may send: MNIST's test images, AG News texts, ETTh1 weeks."""

import base64
import gzip
import json
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from training.datasets import ag_news, ett

COUNT = 64
FIRST_HOUR = datetime.fromisoformat("2016-07-01T00:00:00")
FORMS = ("raw", "pixels", "base64", "multipart")


def digits(data_dir: Path) -> np.ndarray:
    """The first 64 test images, uint8 [64, 28, 28]."""
    packed = gzip.decompress((data_dir / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(packed, np.uint8, offset=16).reshape(-1, 28, 28)[:COUNT]


def png(pixels: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def encode(form: str, pixels: np.ndarray) -> tuple[bytes, str]:
    """One picture as (body, Content-Type)."""
    if form == "raw":
        return png(pixels), "image/png"
    if form == "pixels":
        return json.dumps({"pixels": pixels.tolist()}).encode(), "application/json"
    if form == "base64":
        return json.dumps({"image": base64.b64encode(png(pixels)).decode()}).encode(), "application/json"
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="digit.png"\r\n'
    head += b"Content-Type: image/png\r\n\r\n"
    return head + png(pixels) + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


def texts(data_dir: Path) -> list[dict[str, str]]:
    """The first 64 texts of AG News' test split."""
    return [
        {"text": article.text}
        for article in ag_news.read_csv(data_dir / ag_news.FOLDER / ag_news.TEST_PACKED.name)[:COUNT]
    ]


def weeks(data_dir: Path) -> list[dict[str, object]]:
    """64 weeks of ETTh1's test months, each five hours after the one before."""
    readings, begin = ett.read(data_dir), 14_400
    starts = [begin + 5 * number for number in range(COUNT)]
    return [
        {"values": readings.values[at : at + 168].tolist(), "start": (FIRST_HOUR + timedelta(hours=at)).isoformat()}
        for at in starts
    ]


def batch(form: str, items: list) -> tuple[bytes, str]:
    """All items in one request."""
    if form == "pixels":
        return json.dumps({"pixels": [item.tolist() for item in items]}).encode(), "application/json"
    if form == "inputs":
        return json.dumps({"inputs": items}).encode(), "application/json"
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="digit.png"\r\n\r\n'
    parts = b"".join(head + png(item) + b"\r\n" for item in items)
    return parts + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def write(folder: Path, form: str, pictures: np.ndarray) -> tuple[Path, str]:
    """All bodies of a form as files 00..63; their folder and Content-Type."""
    return save(folder / form, [encode(form, picture) for picture in pictures])


def save(folder: Path, requests: list[tuple[bytes, str]]) -> tuple[Path, str]:
    """Bodies as files 00..63; the folder and the Content-Type of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (body, _) in enumerate(requests):
        (folder / f"{number:02d}").write_bytes(body)
    return folder, requests[0][1]
