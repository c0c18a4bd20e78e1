"""The 64 requests of the benchmark in each form a client may send, from MNIST's test images."""

import base64
import gzip
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 64
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


def write(folder: Path, form: str, pictures: np.ndarray) -> tuple[Path, str]:
    """All bodies of a form as files 00..63; their folder and Content-Type."""
    target = folder / form
    target.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        body, content_type = encode(form, picture)
        (target / f"{number:02d}").write_bytes(body)
    return target, content_type
