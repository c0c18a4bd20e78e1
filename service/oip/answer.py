"""The outputs of an infer request on the wire: JSON, with the bytes of binary tensors behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.manifest import Manifest
from service.batch import Answer
from service.engine import Array
from service.exchange import Body
from service.oip import values
from service.oip.contract import Query
from service.oip.request import Wanted
from service.warnings import PARAMETER, as_parameter
from service.wire import dumps

OCTETS = b"application/octet-stream"
LENGTH_HEADER = b"inference-header-content-length"


def reply(manifest: Manifest, query: Query, answers: Sequence[Answer], codes: Sequence[Sequence[str]] = ()) -> Body:
    """The response to a request whose parts have these answers, in order; `codes` are the warnings of its rows."""
    found, tail = [], []
    for tensor, data in tensors(manifest, query, answers):
        if isinstance(data, bytes):
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            tensor["data"] = data
        found.append(tensor)
    content: dict[str, Any] = {"model_name": manifest.name, "model_version": str(answers[0].version)}
    if query.asked.id is not None:
        content["id"] = query.asked.id
    if codes:
        content["parameters"] = {PARAMETER: as_parameter(codes)}
    content["outputs"] = found
    head = dumps(content)
    if not tail:
        return Body(head)
    return Body(b"".join([head, *tail]), OCTETS, [(LENGTH_HEADER, b"%d" % len(head))])


def tensors(
    manifest: Manifest, query: Query, answers: Sequence[Answer]
) -> Iterator[tuple[dict[str, Any], bytes | list[str] | Array]]:
    """Every output that is wanted: name, datatype and shape; its bytes, or its values in row-major order."""
    for index, wanted in query.outputs:
        spec = manifest.outputs[index]
        array = answers[0].outputs[index]
        if len(answers) > 1:
            array = np.concatenate([answer.outputs[index] for answer in answers])
        if wanted.classes:
            yield _classes(array, wanted, manifest.labels)
        else:
            tensor = {"name": spec.name, "datatype": values.NAMES[spec.dtype], "shape": array.shape}
            yield tensor, array.tobytes() if wanted.binary else array.reshape(-1)


def _classes(array: Array, wanted: Wanted, labels: Sequence[str]) -> tuple[dict[str, Any], bytes | list[str]]:
    """The best classes of each row [rows, classes], best first, as `value:index` or `value:index:label`."""
    count = min(wanted.classes, array.shape[1])
    best = np.argsort(-array, axis=1, kind="stable")[:, :count]
    named = [f":{label}" for label in labels] if len(labels) == array.shape[1] else [""] * array.shape[1]
    texts = [f"{row[at]:f}:{at}{named[at]}" for row, places in zip(array, best, strict=True) for at in places.tolist()]
    tensor: dict[str, Any] = {"name": wanted.name, "datatype": "BYTES", "shape": [len(array), count]}
    if not wanted.binary:
        return tensor, texts
    encoded = [text.encode() for text in texts]
    return tensor, b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
