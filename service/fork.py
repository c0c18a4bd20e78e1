"""Where the short way forks while a canary runs: what a candidate answers takes the long one, the rest stays."""

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
        """Each request decoded; None for one that takes the long way, as those do that a candidate answers."""
        if not self._trials:
            return self._endpoint.at_once(requests)
        trials = [trial for name, trial in self._trials.items() if name in self._names]
        keys = [_key(request) for request in requests]
        picked = [any(_takes_long_way(trial) and trial.picks(key) for trial in trials) for key in keys]
        rest = [request for request, out in zip(requests, picked, strict=True) if not out]
        decoded = iter(self._endpoint.at_once(rest) if rest else [])
        return [None if out else _watched(next(decoded), trials, key) for key, out in zip(keys, picked, strict=True)]


def _takes_long_way(trial: Trial) -> bool:
    """Whether the candidate must read a request itself: to answer it, or because it does so in a way of its own."""
    return not trial.shadows or not trial.reads_alike


def _watched(decoded: Decoded, trials: Sequence[Trial], key: bytes) -> Decoded:
    """A request that the live version answers: counted where its model is split, shadowed where the canary picks it."""
    if isinstance(decoded, Ready):
        for trial in trials:
            if decoded.batcher is trial.slot.batcher and (not trial.shadows or trial.picks(key)):
                return decoded._replace(batcher=trial.watched)
    return decoded


def _key(request: Request) -> bytes:
    """As `service.passage.key_of`."""
    for name, value in request.headers:
        if name == KEY_HEADER and value:
            return value
    return request.request_id
