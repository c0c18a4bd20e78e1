"""Where the short way forks while a canary runs: its share takes the long way, the rest is answered as ever."""

from __future__ import annotations

from collections.abc import Sequence

from models.manifest import Kind
from service.exchange import Decoded, Direct, Ready, Request
from service.passage import KEY_HEADER
from service.registry import Registry
from service.trial import Trial


class Fork:
    """An endpoint's short way, for inputs of these kinds."""

    def __init__(self, endpoint: Direct, registry: Registry, kinds: Sequence[Kind]) -> None:
        self.timeout_s = endpoint.timeout_s
        self.most_short_bytes = endpoint.most_short_bytes
        self._endpoint = endpoint
        self._trials = registry.trials
        self._names = {registry.defaults[kind] for kind in kinds if kind in registry.defaults}

    def at_once(self, requests: Sequence[Request]) -> list[Decoded]:
        """Each request decoded; None for one that takes the long way, as those do that a canary picks."""
        if not self._trials:
            return self._endpoint.at_once(requests)
        trials = [trial for name, trial in self._trials.items() if name in self._names]
        keys = [_key(request) for request in requests]
        picked = [any(trial.picks(key) for trial in trials) for key in keys]
        rest = [request for request, out in zip(requests, picked, strict=True) if not out]
        decoded = iter(self._endpoint.at_once(rest) if rest else [])
        return [None if out else _counted(next(decoded), trials) for out in picked]


def _counted(decoded: Decoded, trials: Sequence[Trial]) -> Decoded:
    """A request that the live version answers, counted where its model is split."""
    if isinstance(decoded, Ready):
        for trial in trials:
            if decoded.batcher is trial.slot.batcher and not trial.shadows:
                return decoded._replace(batcher=trial.live_queue)
    return decoded


def _key(request: Request) -> bytes:
    """As `service.passage.key_of`."""
    for name, value in request.headers:
        if name == KEY_HEADER and value:
            return value
    return request.request_id
