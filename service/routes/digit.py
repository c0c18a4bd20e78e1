"""`POST /predict/digit` and its batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.types import Scope

from service.answers import Classifier
from service.batch import Answer, Part
from service.engine import Array
from service.errors import InvalidInput, Location, ServiceError, UnreadableBody, attempt
from service.exchange import Body, Decoded, Ready, Request, body_of
from service.explain.digit import explain
from service.inputs import forms, image, numbers
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
from service.routes.endpoint import Endpoint, Gone
from service.warnings import Findings
from service.wire import header, media_type, parse_json

_MISSPELT = frozenset({"image/jpg", "image/tif", "image/x-png", "image/x-ms-bmp"})
"""Not registered, but many clients send them; the bytes tell what a picture is anyway."""

_OPTIONS = ("explain", "model", "version")

_DECODE_ON_LOOP_BYTES = 2_048
"""Larger files are decoded on a thread; an MNIST picture of 300 bytes takes less time than the hop."""


class _Picture(NamedTuple):
    """A picture file, or its base64, and what decodes it."""

    call: Callable[..., Array]
    data: bytes | str

    def decode(self, max_pixels: int) -> Array:
        return self.call(self.data, max_pixels=max_pixels)


class _Pictures(NamedTuple):
    """Many of them, and where they lie in the request."""

    call: Callable[..., Array]
    data: Sequence[bytes | str]
    loc: Location


class Digit(Endpoint):
    """One picture, in any of its forms."""

    async def answer(self, scope: Scope, body: bytes, gone: Gone) -> tuple[Any, Sequence[Answer]]:
        asked = asked_in_query(scope)
        await self.registry.model("image", asked.model, asked.version)  # an unknown model is told first
        content_type = header(scope, b"content-type") or b""
        pixels = (await self._pixels(content_type, body))[np.newaxis]
        classifier, answer, reasons = await self.run(pixels, asked, gone)
        return {**_told(classifier, (), answer), **reasons[0]}, [answer]

    async def run(self, pixels: Array, asked: Asked, gone: Gone) -> tuple[Classifier, Answer, list[dict[str, Any]]]:
        """Pixels uint8 [rows, 28, 28] to an answer, and what reads it.

        The dictionaries, one for each row, hold its `explanation` where it was asked for.
        """
        slot, loaded = await self.registry.model("image", asked.model, asked.version)
        part = Part({loaded.manifest.inputs[0].name: pixels}, len(pixels))
        if not asked.explain:
            (future,) = slot.batcher.submit(loaded.engine, [part], timeout_s=self.timeout_s, gone=gone)
            return loaded.classifier, await future, [{}] * len(pixels)
        with slot.batcher.hold(loaded.engine):
            prober = self.prober(slot, loaded, gone)
            (future,) = slot.batcher.submit(loaded.engine, [part], timeout_s=self.timeout_s, gone=gone)
            answer = await future
            rows = zip(pixels, loaded.classifier.probabilities(answer), strict=True)
            return loaded.classifier, answer, [{"explanation": await explain(prober, *row)} for row in rows]

    async def _pixels(self, content_type: bytes, body: bytes) -> Array:
        found = self._picture(content_type, body)
        if isinstance(found, np.ndarray):
            return found
        if len(found.data) <= _DECODE_ON_LOOP_BYTES:
            return found.decode(self.settings.max_image_pixels)
        return await self.off_loop(found.decode, self.settings.max_image_pixels)

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        there = self.registry.at_once("image")
        if there is None:
            return [None] * len(requests)
        slot, loaded = there
        name, render = loaded.manifest.inputs[0].name, functools.partial(self._render, loaded.classifier, ())
        return [
            Ready(slot.batcher, loaded.engine, Part({name: found}, len(found)), render)
            if isinstance(found, np.ndarray)
            else found
            for found in self._rows_at_once(requests)
        ]

    @staticmethod
    def _render(classifier: Classifier, findings: Sequence[Findings], answer: Answer) -> bytes | Body:
        return body_of(_told(classifier, findings, answer))

    def _rows_at_once(self, requests: Sequence[Request]) -> list[Array | ServiceError | None]:
        """Each request's pixels [1, 28, 28]; None for large pictures. Those in MNIST's form are recognised together."""
        found = [attempt(self._picture, request.content_type, request.body) for request in requests]
        ready = iter(image.in_mnist_form([each.data for each in found if isinstance(each, _Picture)]))
        decoded = [self._decoded(each, next(ready)) if isinstance(each, _Picture) else each for each in found]
        return [each[np.newaxis] if isinstance(each, np.ndarray) else each for each in decoded]

    def _decoded(self, picture: _Picture, ready: Array | None) -> Array | ServiceError | None:
        if ready is not None or len(picture.data) > _DECODE_ON_LOOP_BYTES:
            return ready
        return attempt(picture.decode, self.settings.max_image_pixels)

    def _picture(self, content_type: bytes, body: bytes) -> Array | _Picture:
        """The pixels of a request, or its picture where that is still to be decoded."""
        kind = media_type(content_type)
        if kind in image.IMAGE_TYPES or kind in _MISSPELT:
            return _Picture(image.from_bytes, body)
        if kind == "multipart/form-data":
            found = forms.files(body, content_type, "file")
            if len(found) != 1:
                raise invalid(
                    f"The form has {len(found)} files; one is taken here, many at /predict/digit/batch.",
                    ("body", "file"),
                )
            return _Picture(image.from_bytes, found[0])
        if is_json(kind):
            content = _content(body)
            if one_of(content, ("image", "pixels"), (), ("body",)) == "pixels":
                return image.from_pixels(content["pixels"])
            return _Picture(image.from_base64, text_of(content["image"], ("body", "image")))
        raise unsupported(kind, [*sorted(image.IMAGE_TYPES), "multipart/form-data", "application/json"])


class DigitBatch(Digit):
    """Many pictures, answered in order."""

    most_short_bytes = 262_144

    async def answer(self, scope: Scope, body: bytes, gone: Gone) -> tuple[Any, Sequence[Answer]]:
        asked = asked_in_query(scope)
        await self.registry.model("image", asked.model, asked.version)
        pixels = await self._pixels(header(scope, b"content-type") or b"", body)
        if asked.explain:
            check_explained(len(pixels), ("query", "explain"))
        classifier, answer, reasons = await self.run(pixels, asked, gone)
        predictions = [{**told, **reason} for told, reason in zip(classifier.digits(answer), reasons, strict=True)]
        return {"predictions": predictions, "model": classifier.model}, [answer]

    @staticmethod
    def _render(classifier: Classifier, findings: Sequence[Findings], answer: Answer) -> bytes | Body:
        return body_of({"predictions": classifier.digits(answer, findings), "model": classifier.model})

    def _rows_at_once(self, requests: Sequence[Request]) -> list[Array | ServiceError | None]:
        """Each request's pixels [n, 28, 28]; None where a picture is not in MNIST's form."""
        found = [attempt(self._pictures, request.content_type, request.body) for request in requests]
        return [_stacked(image.in_mnist_form(each.data)) if isinstance(each, _Pictures) else each for each in found]

    async def _pixels(self, content_type: bytes, body: bytes) -> Array:
        found = self._pictures(content_type, body)
        if isinstance(found, np.ndarray):
            return found
        ready = image.in_mnist_form(found.data)
        pixels = _stacked(ready)
        return pixels if pixels is not None else np.stack(await self.off_loop(self._rest, found, ready))

    def _pictures(self, content_type: bytes, body: bytes) -> Array | _Pictures:
        """The pixels [n, 28, 28] of a request, or its pictures where those are still to be decoded."""
        kind = media_type(content_type)
        most = self.settings.max_batch_items
        if kind == "multipart/form-data":
            found = forms.files(body, content_type, "file")
            check_count(len(found), ("body", "file"), most)
            return _Pictures(image.from_bytes, found, ("body", "file"))
        if is_json(kind):
            content = _content(body)
            key = one_of(content, ("images", "pixels"), (), ("body",))
            if isinstance(content[key], np.ndarray):
                check_count(len(content[key]), ("body", key), most)
                return image.from_pixels_batch(content[key])
            items = items_of(content[key], ("body", key), most)
            if key == "pixels":
                return image.from_pixels_batch(items)
            texts = [text_of(item, ("body", key, index)) for index, item in enumerate(items)]
            return _Pictures(image.from_base64, texts, ("body", key))
        raise unsupported(kind, ["multipart/form-data", "application/json"])

    def _rest(self, pictures: _Pictures, ready: Sequence[Array | None]) -> list[Array]:
        """Decode what is not ready; a bad picture is a 422 that names its index."""
        decoded = []
        for index, (file, pixels) in enumerate(zip(pictures.data, ready, strict=True)):
            try:
                found = pictures.call(file, max_pixels=self.settings.max_image_pixels) if pixels is None else pixels
            except (InvalidInput, UnreadableBody) as error:
                raise invalid(f"Picture {index}: {error.detail}", (*pictures.loc, index), error.code) from None
            decoded.append(found)
        return decoded


def _stacked(pictures: Sequence[Array | None]) -> Array | None:
    """All pictures as one array; None if one is not there."""
    found = [pixels for pixels in pictures if pixels is not None]
    return np.stack(found) if len(found) == len(pictures) else None


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
