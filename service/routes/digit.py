"""`POST /predict/digit` and its batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.types import Scope

from service.answers import Classifier
from service.batch import Answer, Part
from service.caller import Caller
from service.decoding import SMALL_PIXELS
from service.engine import Array
from service.errors import InvalidInput, Location, ServiceError, UnreadableBody, attempt
from service.exchange import Body, Decoded, Ready, Request, body_of
from service.explain.digit import explain
from service.inputs import forms, image, numbers, several, size
from service.inputs.fields import (
    Asked,
    asked_in_query,
    check_count,
    check_explained,
    invalid,
    is_json,
    items_of,
    json_object,
    one_of,
    text_of,
    unsupported,
)
from service.inputs.image import Reading
from service.routes.endpoint import ON_LOOP_BYTES, Endpoint
from service.warnings import NOTHING, Findings
from service.wire import header, media_type, parse_json

_MISSPELT = frozenset({"image/jpg", "image/tif", "image/x-png", "image/x-ms-bmp"})
"""Not registered, but many clients send them; the bytes tell what a picture is anyway."""

_OPTIONS = ("explain", "model", "version")

_GRID_COST = 8_192
"""Finding the ink in a grid of 28x28 takes as long as for so many pixels of a large picture."""
_DECODED_ON_LOOP = 4
"""Small pictures of one request, which are decoded at once; more go to a thread."""


class _Pictures(NamedTuple):
    """Pictures of a request that are still to be read, files or grids, and where they lie if an error must say it."""

    sent: Sequence[bytes | Array]
    loc: Location | None = None
    many: bool = False

    def read(self, index: int, max_pixels: int) -> Reading:
        """One picture; a bad one of many is a 422 that names its index."""
        sent = self.sent[index]
        try:
            return image.read_file(sent, max_pixels=max_pixels) if isinstance(sent, bytes) else image.read_picture(sent)
        except (InvalidInput, UnreadableBody) as error:
            if self.loc is None:
                raise
            if self.many:
                raise invalid(f"Picture {index}: {error.detail}", (*self.loc, index), error.code) from None
            raise invalid(error.detail, self.loc, error.code) from None

    def some(self, indices: Sequence[int], max_pixels: int) -> list[Reading]:
        return [self.read(index, max_pixels) for index in indices]

    def is_small(self, index: int) -> bool:
        """Whether a picture is read in less time than a thread takes to do it."""
        sent = self.sent[index]
        return not isinstance(sent, bytes) or size.is_small(sent)

    def cost(self, index: int, max_pixels: int) -> int:
        """What a picture costs, in pixels."""
        sent = self.sent[index]
        return size.claim(sent).cost(len(sent), max_pixels) if isinstance(sent, bytes) else _GRID_COST


class _Rows(NamedTuple):
    """Pictures that were read, uint8 [n, 28, 28], and what was found in them; nothing for those in MNIST's form."""

    pixels: Array
    findings: Sequence[Findings] = ()


class Digit(Endpoint):
    """One picture, in any of its forms."""

    async def answer(self, scope: Scope, body: bytes, caller: Caller) -> tuple[Any, Sequence[Answer]]:
        asked = asked_in_query(scope)
        await self.registry.model("image", asked.model, asked.version)  # an unknown model is told first
        content_type = header(scope, b"content-type") or b""
        rows = await self._rows(content_type, body, caller)
        classifier, answer, reasons = await self.run(rows.pixels, asked, caller)
        return {**_told(classifier, rows.findings, answer), **reasons[0]}, [answer]

    async def run(self, pixels: Array, asked: Asked, caller: Caller) -> tuple[Classifier, Answer, list[dict[str, Any]]]:
        """Pixels uint8 [rows, 28, 28] to an answer, and what reads it.

        The dictionaries, one for each row, hold its `explanation` where it was asked for.
        """
        slot, loaded = await self.registry.model("image", asked.model, asked.version)
        part = Part({loaded.manifest.inputs[0].name: pixels}, len(pixels))
        if not asked.explain:
            (future,) = slot.batcher.submit(loaded.engine, [part], timeout_s=caller.left_s(), gone=caller.gone)
            return loaded.classifier, await future, [{}] * len(pixels)
        with slot.batcher.hold(loaded.engine):
            prober = self.prober(slot, loaded, caller)
            (future,) = slot.batcher.submit(loaded.engine, [part], timeout_s=caller.left_s(), gone=caller.gone)
            answer = await future
            rows = zip(pixels, loaded.classifier.probabilities(answer), strict=True)
            return loaded.classifier, answer, [{"explanation": await explain(prober, *row)} for row in rows]

    async def _rows(self, content_type: bytes, body: bytes, caller: Caller) -> _Rows:
        """The pictures of a request, all read."""
        if len(body) > ON_LOOP_BYTES and media_type(content_type) not in image.IMAGE_TYPES:
            found = await self.decoding.run(len(body), caller, self._found, content_type, body)
        else:
            found = self._found(content_type, body)
        return await self._read(found, caller)

    async def _read(self, pictures: _Pictures, caller: Caller) -> _Rows:
        """Every picture read; those that are not proven small wait in the queue, all admitted together or none."""
        ready = image.in_mnist_form(pictures.sent)
        read = {index: Reading(pixels) for index, pixels in enumerate(ready) if pixels is not None}
        left = [index for index in range(len(ready)) if index not in read]
        most = self.settings.max_image_pixels
        if len(left) <= _DECODED_ON_LOOP and all(map(pictures.is_small, left)):
            read.update(zip(left, pictures.some(left, most), strict=True))
        else:
            costs = self._costs(pictures, left)
            with self.decoding.admit(sum(costs.values()), caller) as admission:
                for go in _goes(costs):
                    read.update(zip(go, await admission.run(pictures.some, go, most), strict=True))
        return _rows_of([read[index] for index in range(len(ready))])

    def _costs(self, pictures: _Pictures, left: Sequence[int]) -> dict[int, int]:
        """What each of these pictures costs, in pixels. InvalidInput where their sum is more than is ever admitted."""
        most = self.settings.max_image_pixels
        costs = {index: pictures.cost(index, most) for index in left}
        if len(costs) > 1 and sum(costs.values()) > self.decoding.max_pixels:
            raise invalid(
                f"These pictures cost as much as {sum(costs.values()):,} pixels to decode, the limit of one request is "
                f"{self.decoding.max_pixels:,}; send them in several requests, or smaller.",
                pictures.loc or ("body",),
                "image_too_large",
            )
        return costs

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        there = self.registry.at_once("image")
        if there is None:
            return [None] * len(requests)
        slot, loaded = there
        name = loaded.manifest.inputs[0].name
        plain = functools.partial(self._render, loaded.classifier, ())
        return [
            Ready(
                slot.batcher,
                loaded.engine,
                Part({name: found.pixels}, len(found.pixels)),
                functools.partial(self._render, loaded.classifier, found.findings) if found.findings else plain,
            )
            if isinstance(found, _Rows)
            else found
            for found in self._rows_at_once(requests)
        ]

    @staticmethod
    def _render(classifier: Classifier, findings: Sequence[Findings], answer: Answer) -> bytes | Body:
        return body_of(_told(classifier, findings, answer))

    def _rows_at_once(self, requests: Sequence[Request]) -> list[_Rows | ServiceError | None]:
        """Each request's picture; None for a large one. Those in MNIST's form are recognised together."""
        found = [attempt(self._found, request.content_type, request.body) for request in requests]
        ready = iter(image.in_mnist_form([each.sent[0] for each in found if isinstance(each, _Pictures)]))
        return [self._small(each, next(ready)) if isinstance(each, _Pictures) else each for each in found]

    def _small(self, pictures: _Pictures, ready: Array | None) -> _Rows | ServiceError | None:
        if ready is not None:
            return _Rows(ready[np.newaxis])
        if not pictures.is_small(0):
            return None
        read = attempt(pictures.read, 0, self.settings.max_image_pixels)
        return read if isinstance(read, ServiceError) else _rows_of([read])

    def _found(self, content_type: bytes, body: bytes) -> _Pictures:
        """The picture of a request."""
        kind = media_type(content_type)
        if kind in image.IMAGE_TYPES or kind in _MISSPELT:
            return _Pictures([body])
        if kind == "multipart/form-data":
            found = forms.files(body, content_type, "file")
            if len(found) != 1:
                raise invalid(
                    f"The form has {len(found)} files; one is taken here, many at /predict/digit/batch.",
                    ("body", "file"),
                )
            return _Pictures(found)
        if is_json(kind):
            content = _content(body)
            if one_of(content, ("image", "pixels"), (), ("body",)) == "pixels":
                return _Pictures([image.from_pixels(content["pixels"])], ("body", "pixels"))
            loc = ("body", "image")
            return _Pictures([image.from_text(text_of(content["image"], loc), loc)], loc)
        raise unsupported(kind, [*sorted(image.IMAGE_TYPES), "multipart/form-data", "application/json"])


class DigitBatch(Digit):
    """Many pictures, answered in order."""

    most_short_bytes = 262_144

    async def answer(self, scope: Scope, body: bytes, caller: Caller) -> tuple[Any, Sequence[Answer]]:
        asked = asked_in_query(scope)
        await self.registry.model("image", asked.model, asked.version)
        rows = await self._rows(header(scope, b"content-type") or b"", body, caller)
        if asked.explain:
            check_explained(len(rows.pixels), ("query", "explain"))
        classifier, answer, reasons = await self.run(rows.pixels, asked, caller)
        told = classifier.digits(answer, rows.findings)
        predictions = [{**each, **reason} for each, reason in zip(told, reasons, strict=True)]
        return {"predictions": predictions, "model": classifier.model}, [answer]

    @staticmethod
    def _render(classifier: Classifier, findings: Sequence[Findings], answer: Answer) -> bytes | Body:
        return body_of({"predictions": classifier.digits(answer, findings), "model": classifier.model})

    def _rows_at_once(self, requests: Sequence[Request]) -> list[_Rows | ServiceError | None]:
        """Each request's pictures; None where one is not in MNIST's form."""
        found = [attempt(self._found, request.content_type, request.body) for request in requests]
        return [_stacked(image.in_mnist_form(each.sent)) if isinstance(each, _Pictures) else each for each in found]

    def _found(self, content_type: bytes, body: bytes) -> _Pictures:
        """The pictures of a request."""
        kind = media_type(content_type)
        most = self.settings.max_batch_items
        if kind == "multipart/form-data":
            found = forms.files(body, content_type, "file")
            check_count(len(found), ("body", "file"), most)
            return _Pictures(found, ("body", "file"), many=True)
        if is_json(kind):
            content = _content(body)
            key = one_of(content, ("images", "pixels"), (), ("body",))
            if isinstance(content[key], np.ndarray):
                check_count(len(content[key]), ("body", key), most)
                return _Pictures(list(image.from_pixels_batch(content[key])), ("body", key), many=True)
            items = items_of(content[key], ("body", key), most)
            if key == "pixels":
                return _Pictures(list(image.from_pixels_batch(items)), ("body", key), many=True)
            return _Pictures([_file(item, index) for index, item in enumerate(items)], ("body", key), many=True)
        raise unsupported(kind, ["multipart/form-data", "application/json"])


def _goes(costs: dict[int, int]) -> list[list[int]]:
    """The pictures in groups that a thread decodes without a look at the caller: each as large as a small one."""
    goes: list[list[int]] = []
    room = 0
    for index, cost in costs.items():
        if not goes or cost > room:
            goes.append([])
            room = SMALL_PIXELS
        goes[-1].append(index)
        room -= cost
    return goes


def _file(item: Any, index: int) -> bytes:
    """The file of one base64 text of many."""
    loc = ("body", "images", index)
    text = text_of(item, loc)
    try:
        return image.from_text(text, loc)
    except InvalidInput as error:
        raise invalid(f"Picture {index}: {error.detail}", loc, error.code) from None


def _rows_of(read: Sequence[Reading]) -> _Rows:
    """Pictures as rows of one request."""
    pixels = np.stack([each.pixels for each in read])
    if not any(each.no_digit for each in read):
        return _Rows(pixels)
    return _Rows(pixels, [several.findings(each.no_digit) if each.no_digit else NOTHING for each in read])


def _stacked(pictures: Sequence[Array | None]) -> _Rows | None:
    """All pictures as the rows of one request; None if one is not there."""
    found = [pixels for pixels in pictures if pixels is not None]
    return _Rows(np.stack(found)) if len(found) == len(pictures) else None


def _told(classifier: Classifier, findings: Sequence[Findings], answer: Answer) -> dict[str, Any]:
    return {**classifier.digits(answer, findings)[0], "model": classifier.model}


def _content(body: bytes) -> dict[str, Any]:
    """The JSON object of a body; pixels in it as an array, where they are in order."""
    read = numbers.read(body, "pixels", "u") if b'"pixels"' in body else None
    return _input_alone(parse_json(body) if read is None else {**read[1], "pixels": read[0]})


def _input_alone(body: Any) -> dict[str, Any]:
    """The JSON object of a body; InvalidInput tells one who gave an option here where it goes."""
    content = json_object(body, ("body",))
    for option in _OPTIONS:
        if option in content:
            raise invalid(f"{option!r} goes into the query here, as in /predict/digit?{option}=…", ("body", option))
    return content
