"""`POST /predict/sequence` and its batch: texts and series, told apart by their keys."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
from starlette.types import Scope

from models.manifest import Kind
from service.answers import forecast
from service.batch import Answer, Part
from service.caller import Caller
from service.engine import Engine, Tensors
from service.errors import Location, attempt
from service.exchange import Body, Decoded, Ready, Request, body_of
from service.explain import series as series_reasons
from service.explain import text as text_reasons
from service.explain.prober import Prober
from service.inputs import numbers, series
from service.inputs.fields import asked_in_body, check_explained, flag_of, items_of, json_object, one_of, require_json
from service.routes.endpoint import Endpoint
from service.slot import Loaded, Place
from service.warnings import NOTHING, Findings
from service.wire import header, parse_json

_ONE_OF = ("text", "values")
_OPTIONS = ("model", "version", "explain")
_ACCEPT = "accept_implausible"
_SERIES_OPTIONS = (*_OPTIONS, "start", _ACCEPT)
_BODY: Location = ("body",)
_ON_LOOP_COST = 8_192
"""Characters of text that are decoded on the event loop, 3 ms; longer requests take a thread."""
_ROW_COST = 8
"""Of a list of numbers: what reads it takes as long as for so many characters."""
_GO = 8
"""Items that a thread decodes without a look at the caller."""


class _Row(NamedTuple):
    """One decoded input: where it goes, its tensors and, for a series, the times of its forecast.

    `sent` is the text or the readings as they came.
    """

    slot: Place
    loaded: Loaded
    part: Part
    times: list[str]
    sent: Any
    explain: bool
    findings: Findings = NOTHING


class _Asked(NamedTuple):
    """One item of a request: its JSON object, whether that is text or a series, and what else it asks for."""

    content: dict[str, Any]
    kind: Kind
    name: str | None
    version: int | None
    explain: bool

    @property
    def cost(self) -> int:
        """How long it takes to decode, in characters of text."""
        if self.kind == "text":
            text = self.content["text"]
            return len(text) if isinstance(text, str) else 0
        values = self.content["values"]
        return _ROW_COST * len(values) if isinstance(values, list) else 0


class Sequences(Endpoint):
    """One text or series."""

    async def answer(self, scope: Scope, body: bytes, caller: Caller) -> tuple[Any, Sequence[Answer]]:
        require_json(header(scope, b"content-type") or b"")
        predictions, answers = await self.predict([await self.parsed(body, caller, _content)], [_BODY], caller)
        return predictions[0], answers

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        return [attempt(self._ready, request) for request in requests]

    def _ready(self, request: Request) -> Ready | None:
        require_json(request.content_type)
        asked = self._asked(_content(request.body), _BODY)
        there = self.registry.at_once(asked.kind)
        if there is None or (asked.name, asked.version, asked.explain) != (None, None, False):
            return None
        if asked.cost > _ON_LOOP_COST:
            return None
        row = self._decode(*there, asked, _BODY)
        return Ready(row.slot.batcher, row.loaded.engine, row.part, functools.partial(_render, row))

    async def predict(
        self, items: Sequence[Any], places: Sequence[Location], caller: Caller
    ) -> tuple[list[dict[str, Any]], list[Answer]]:
        """Decode every item before any is queued; rows of one model are admitted together, with one version."""
        with ExitStack() as held:
            rows = await self._rows(items, places, held, caller)
            explained = [index for index, row in enumerate(rows) if row.explain]
            if explained:
                check_explained(len(explained), (*places[explained[-1]], "explain"))
            probers = {index: self.prober(rows[index].slot, rows[index].loaded, caller) for index in explained}
            answers = await self._answers(rows, caller)
            predictions = [_prediction(row, answer) for row, answer in zip(rows, answers, strict=True)]
            for index, prober in probers.items():
                predictions[index]["explanation"] = await self._explain(rows[index], answers[index], prober, caller)
        return predictions, answers

    async def _rows(
        self, items: Sequence[Any], places: Sequence[Location], held: ExitStack, caller: Caller
    ) -> list[_Row]:
        """Every item decoded, many or long ones on a thread. The engines stay open in `held`: to find the version of a
        later item, or to decode it, can take so long that that of an earlier one is swapped out."""
        found: list[tuple[Place, Loaded, _Asked, Location]] = []
        engines: set[Engine] = set()
        for item, loc in zip(items, places, strict=True):
            asked = self._asked(item, loc)
            slot, loaded = await self.registry.model(asked.kind, asked.name, asked.version)
            if loaded.engine not in engines:
                held.enter_context(slot.batcher.hold(loaded.engine))
                engines.add(loaded.engine)
            found.append((slot, loaded, asked, loc))
        cost = sum(asked.cost for _, _, asked, _ in found)
        if cost <= _ON_LOOP_COST:
            return [self._decode(*each) for each in found]
        rows: list[_Row] = []
        with self.decoding.admit(cost, caller) as admission:
            for go in range(0, len(found), _GO):
                rows += await admission.run(self._decode_all, found[go : go + _GO])
        return rows

    def _decode_all(self, found: Sequence[tuple[Place, Loaded, _Asked, Location]]) -> list[_Row]:
        return [self._decode(*each) for each in found]

    async def _explain(self, row: _Row, answer: Answer, prober: Prober, caller: Caller) -> dict[str, Any]:
        manifest, encoder = row.loaded.manifest, row.loaded.encoder
        if encoder is not None:
            ids = row.part.inputs[manifest.inputs[0].name][0]
            offsets = await self.decoding.run(len(row.sent), caller, encoder.offsets, row.sent)
            (probabilities,) = row.loaded.classifier.probabilities(answer)
            return await text_reasons.explain(prober, row.sent, ids, offsets, probabilities)
        mean = [spec.name for spec in manifest.outputs].index("mean")
        return await series_reasons.explain(prober, row.part.inputs, len(row.sent), answer.outputs[mean][0])

    async def _answers(self, rows: Sequence[_Row], caller: Caller) -> list[Answer]:
        groups: dict[Place, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.slot, []).append(index)
        futures: dict[int, asyncio.Future[Answer]] = {}
        for slot, indices in groups.items():
            for loaded in dict.fromkeys(rows[index].loaded for index in indices):
                mine = [index for index in indices if rows[index].loaded is loaded]
                parts = [rows[index].part for index in mine]
                admitted = slot.batcher.submit(loaded.engine, parts, timeout_s=caller.left_s(), gone=caller.gone)
                futures.update(zip(mine, admitted, strict=True))
        return list(await asyncio.gather(*(futures[index] for index in range(len(rows)))))

    def _asked(self, item: Any, loc: Location) -> _Asked:
        content = json_object(item, loc)
        kind: Kind = "text"
        if one_of(content, _ONE_OF, _SERIES_OPTIONS if "values" in content else _OPTIONS, loc) == "values":
            kind = "series"
        return _Asked(content, kind, *asked_in_body(content, loc))

    def _decode(self, slot: Place, loaded: Loaded, asked: _Asked, loc: Location) -> _Row:
        content, explain = asked.content, asked.explain
        if asked.kind == "text":
            part, findings = self._text(loaded, content["text"], (*loc, "text"))
            return _Row(slot, loaded, part, [], content["text"], explain, findings)
        part, parsed = self._series(loaded, content, loc)
        return _Row(slot, loaded, part, parsed.times, content["values"], explain, parsed.findings)

    def _text(self, loaded: Loaded, text: Any, loc: Location) -> tuple[Part, Findings]:
        if loaded.encoder is None:
            raise TypeError(f"{loaded.manifest.name} has no tokenizer")
        read = loaded.encoder.read(text, max_chars=self.settings.max_text_chars, loc=tuple(loc))
        part = Part({loaded.manifest.inputs[0].name: read.ids[np.newaxis]}, 1, len(read.ids))
        return part, loaded.encoder.findings(read)

    def _series(self, loaded: Loaded, content: dict[str, Any], loc: Location) -> tuple[Part, series.Series]:
        spec = loaded.manifest.series
        if spec is None:
            raise TypeError(f"{loaded.manifest.name} is no series model")
        limit = self.settings.max_series_steps
        parsed = series.parse(
            content["values"],
            content.get("start"),
            spec,
            max_steps=limit,
            loc=tuple(loc),
            ranges=loaded.ranges,
            accept_implausible=flag_of(content, _ACCEPT, loc),
        )
        tensors: Tensors = {
            "values": parsed.values[np.newaxis],
            "lengths": np.array([parsed.length], np.int64),
            "hour_of_week": np.array([parsed.hour_of_week], np.int64),
        }
        return Part(tensors, 1, parsed.length), parsed


class SequenceBatch(Sequences):
    """Many, kinds mixed, answered in order."""

    async def answer(self, scope: Scope, body: bytes, caller: Caller) -> tuple[Any, Sequence[Answer]]:
        require_json(header(scope, b"content-type") or b"")
        content = json_object(await self.parsed(body, caller, parse_json), _BODY)
        one_of(content, ("inputs",), (), _BODY)
        items = items_of(content["inputs"], ("body", "inputs"), self.settings.max_batch_items)
        places = [("body", "inputs", index) for index in range(len(items))]
        predictions, answers = await self.predict(items, places, caller)
        return {"predictions": predictions}, answers


def _content(body: bytes) -> Any:
    """The JSON of a body; a series in it as an array, where it is in order."""
    read = numbers.read(body, "values", "d") if b'"values"' in body else None
    return parse_json(body) if read is None else {**read[1], "values": read[0]}


def _render(row: _Row, answer: Answer) -> bytes | Body:
    return body_of(_prediction(row, answer))


def _prediction(row: _Row, answer: Answer) -> dict[str, Any]:
    manifest = row.loaded.manifest
    if manifest.kind == "text":
        return row.loaded.classifier.topic(answer, row.findings)
    return forecast([output[0] for output in answer.outputs], row.times, manifest, row.findings)
