"""Every request of the corpus, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Iterator

from tests.corpus import digits, operations, sequences, tensors
from tests.corpus.calls import Call
from tests.corpus.services import CALLER, OPERATOR, WEAK


def requests() -> list[Call]:
    """All requests; each has a name of its own."""
    found = list(_requests())
    names = [call.name for call in found]
    assert len(set(names)) == len(names), sorted(name for name in set(names) if names.count(name) > 1)
    return found


def _requests() -> Iterator[Call]:
    yield from operations.requests()
    yield from digits.requests()
    yield from sequences.requests()
    yield from tensors.requests()
    yield from operations.with_keys(OPERATOR, CALLER, WEAK)
    for holder, secret in {"nobody": None, "operator": OPERATOR, "caller": CALLER, "unknown": WEAK}.items():
        for name, method, message in (
            ("infer", "ModelInfer", tensors.message(tensors.DIGIT, tensors.pixels(7))),
            ("metadata", "ModelMetadata", {"name": tensors.DIGIT}),
            ("index", "RepositoryIndex", {}),
            ("live", "ServerLive", {}),
        ):
            yield tensors.with_key(tensors.rpc(f"{name} with the key of {holder}", method, message), secret)
    yield from operations.changes()
