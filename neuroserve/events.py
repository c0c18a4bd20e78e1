"""The events of a job as the service streams them; no network here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from neuroserve.errors import ClientError, ServiceError, StrangeAnswer
from neuroserve.retries import Retries

SILENCE_S = 45.0
"""The service comments every 15 s; a stream that is silent for longer is dead."""
_PASSING = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Event:
    """One change of a job: `type` is `status`, `progress`, `epoch`, `log`, `warnings` or `done`; `data` as in /docs."""

    id: str
    type: str
    data: dict[str, Any]


class Follower:
    """What is known between the connections of one stream: the last event, and how long to wait before the next try."""

    def __init__(self, retries: Retries) -> None:
        self.done = False
        self._retries = retries
        self._failed = 0
        self._last = ""
        self._pause_s = 0.0
        self._fields: dict[str, list[str]] = {}
        self._rest = b""

    @property
    def headers(self) -> dict[str, str]:
        """Of the next request."""
        asked = {"Accept": "text/event-stream"}
        return {**asked, "Last-Event-ID": self._last} if self._last else asked

    def connected(self) -> None:
        """A new connection: half an event of the one before counts for nothing."""
        self._fields, self._rest = {}, b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes end. Lines end as the service ends them; JSON may hold any other separator."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if (event := self._line(line.decode("utf-8", "replace").removesuffix("\r"))) is not None:
                yield event

    def _line(self, text: str) -> Event | None:
        if text:
            name, _, value = text.partition(":")
            if name:
                self._fields.setdefault(name, []).append(value.removeprefix(" "))
            return None
        found, self._fields = self._fields, {}
        if "retry" in found and found["retry"][-1].isdigit():
            self._pause_s = int(found["retry"][-1]) / 1000
        return self._event(found) if "data" in found else None

    def lost_s(self, error: ClientError) -> float:
        """Seconds to wait before the next connection; raises the error when there should be none."""
        if isinstance(error, StrangeAnswer) or (isinstance(error, ServiceError) and error.status not in _PASSING):
            raise error
        self._failed += 1
        if self._failed > self._retries.most:
            raise error
        told_s = (error.retry_after_s or 0.0) if isinstance(error, ServiceError) else 0.0
        if told_s > self._retries.patience_s:
            raise error
        return max(self._pause_s, told_s) + self._retries.jitter_s(self._failed)

    def _event(self, found: dict[str, list[str]]) -> Event:
        kind = found.get("event", ["message"])[-1]
        try:
            data = json.loads("\n".join(found["data"]))
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise StrangeAnswer(f"An event {kind!r} of the stream is no JSON object; is this a neuroserve service?")
        self._last = found.get("id", [self._last])[-1]
        self._failed = 0
        self.done = kind == "done"
        return Event(self._last, kind, data)
