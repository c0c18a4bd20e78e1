"""Requests of the protocol to rows in the same queue as `/predict`'s, and the answers back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from service.batch import Answer
from service.errors import Busy, DeadlinePassed, NotFound, ServiceError, Unavailable
from service.exchange import Body
from service.metrics import Metrics
from service.oip import answer, compression, request
from service.oip.answer import LENGTH_HEADER
from service.oip.contract import Contract, Query
from service.registry import Registry
from service.settings import Settings
from service.slot import Loaded
from service.warnings import Warned, codes_by_row
from service.warnings import headers as warning_headers
from service.wire import Header

_LARGEST_VERSION = 2**31 - 1
_RAW = b"0"


class Framing(NamedTuple):
    """The headers of a request that say how its body is to be read, and how the answer may be packed."""

    json_length: bytes | None
    packed: bytes | None
    takes: bytes | None

    def json_bytes(self, body: bytes) -> int:
        """How much of a body is JSON, as far as the headers are right."""
        said = self.json_length
        return int(said) if said is not None and said.isdigit() and len(said) < 10 else len(body)


def framing(headers: Sequence[Header]) -> Framing:
    """What of a request's headers (lower-case names) matters here."""
    json_length = packed = takes = None
    for name, value in headers:
        if name == LENGTH_HEADER:
            json_length = value
        elif name == b"content-encoding":
            packed = value if value.strip().lower() != b"identity" else None
        elif name == b"accept-encoding":
            takes = compression.asked_for(value)
    return Framing(json_length, packed, takes)


def version_of(text: str | None, name: str) -> int | None:
    """The version of a path, None where it names none. NotFound for what is no version."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 11) or not 1 <= int(text) <= _LARGEST_VERSION:
        raise NotFound(f"{name} has no version {text[:32]!r}; a version is a whole number from 1.")
    return int(text)


class Door:
    """What all ways in share: the contract of every loaded version, and the count of what was refused."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None:
        self.registry = registry
        self.settings = settings
        self.deadline_s = settings.deadline_ms / 1000
        self._tally = metrics.tally
        self._contracts: WeakKeyDictionary[Loaded, Contract] = WeakKeyDictionary()

    def query(self, loaded: Loaded, body: bytes, json_length: bytes | None, most_rows: Callable[[int], int]) -> Query:
        """A request checked against the version it is for, in parts of at most `most_rows(length)` rows.

        Raises InvalidInput, UnreadableBody, NotOffered.
        """
        contract = self.contract(loaded)
        if json_length == _RAW:
            return contract.check_raw(body, most_rows)
        end = request.split(body, json_length)
        return contract.check(request.read(body[:end]), body, end, most_rows)

    def contract(self, loaded: Loaded) -> Contract:
        """What requests for a version are checked against."""
        contract = self._contracts.get(loaded)
        if contract is None:
            encoder, most_items = loaded.encoder, self.settings.max_batch_items
            if encoder is None:
                contract = Contract(loaded.manifest, None, most_items, ranges=loaded.ranges)
            else:
                contract = Contract(loaded.manifest, encoder.vocabulary, most_items, encoder.is_unknown)
            self._contracts[loaded] = contract
        return contract

    def timeout_s(self, query: Query) -> float:
        """The deadline of a request: its own, if that is shorter than the service's."""
        asked = query.asked.timeout_s
        return self.deadline_s if asked is None else min(asked, self.deadline_s)

    @staticmethod
    def codes(loaded: Loaded, query: Query, answers: Sequence[Answer]) -> list[list[str]]:
        """The codes of the warnings of each row; an empty list where no row has one."""
        if loaded.outliers.place is None and not query.codes:
            return []
        outliers = [loaded.outliers.rows(answer.outputs) for answer in answers]
        if not any(outliers) and not query.codes:
            return []
        counts = [len(answer.outputs[0]) for answer in answers]
        judged = [
            [warning.code] if warning else []
            for count, found in zip(counts, outliers, strict=True)
            for warning in (found or [None] * count)
        ]
        return codes_by_row(sum(counts), query.codes, judged)

    def warned(self, loaded: Loaded, codes: Sequence[Sequence[str]]) -> list[Warned]:
        """The warnings of an answer's rows, as they are counted."""
        return [Warned(loaded.manifest.name, code) for row in codes for code in row]

    def reply(self, loaded: Loaded, query: Query, takes: bytes | None, answers: Sequence[Answer]) -> Body:
        """The response, packed if the client takes it so and it is worth it."""
        codes = self.codes(loaded, query, answers)
        body = answer.reply(loaded.manifest, query, answers, codes)
        if codes:
            warned = self.warned(loaded, codes)
            body = body._replace(headers=[*body.headers, *warning_headers(warned)], warned=warned)
        packed = compression.pack(body.content, takes) if takes is not None else None
        if packed is None or takes is None:
            return body
        headers = [*body.headers, (b"content-encoding", takes), (b"vary", b"accept-encoding")]
        return body._replace(content=packed, headers=headers)

    def renderer(self, loaded: Loaded, query: Query, takes: bytes | None) -> functools.partial[Body]:
        """`reply` for one answer that is still to come."""
        return functools.partial(self._reply_to_one, loaded, query, takes)

    def _reply_to_one(self, loaded: Loaded, query: Query, takes: bytes | None, one: Answer) -> Body:
        return self.reply(loaded, query, takes, [one])

    def count(self, loaded: Loaded, error: ServiceError | None, seconds: float) -> None:
        """Count a request that its model did not answer: refused, or (no error) left by its client."""
        if error is None:
            self._tally.failure(loaded.manifest.name, loaded.version, "CANCELED", seconds)
        elif isinstance(error, Busy | Unavailable | DeadlinePassed):
            self._tally.failure(loaded.manifest.name, loaded.version, "REJECTED", seconds)
