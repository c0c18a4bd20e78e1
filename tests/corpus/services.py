"""The two services that the corpus is asked of: an open one, and one with keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.store import Store
from tests.artifacts import publish, publish_doubting
from tests.corpus.wire import Wire
from tests.server import SHIPPED, Server

OPERATOR, CALLER, WEAK = "corpus-operator-secret-0", "corpus-caller-secret-0", "corpus-nobody-secret-0"
ORIGIN = "https://app.example.com"


@contextmanager
def services(folder: Path) -> Iterator[Wire]:
    """Both services, started side by side on stores with further versions of the shipped digit networks."""
    states = {name: folder / name for name in ("open", "keys")}
    for state in states.values():
        fill(Store(state / "models"))
    settings = {"workers": 1, "grpc_port": 0, "trainer": "external"}
    keys = f"operator:predict+admin:{OPERATOR},caller:predict:{CALLER}"
    opened = Server(states["open"], cors_origins=ORIGIN, allowed_hosts="corpus.example.com", **settings)
    closed = Server(states["keys"], api_keys=keys, **settings)
    with opened, closed, Wire({"open": opened, "keys": closed}, {}) as wire:
        wire.hidden = {
            **{f"address of {name}": url for name, url in wire.addresses.items()},
            **{f"state of {name}": str(state) for name, state in states.items()},
        }
        yield wire


def fill(store: Store) -> None:
    """The shipped models, and versions that give one answer: a candidate of digit-cnn, one of another contract, and one
    of digit-mlp."""
    store.seed(SHIPPED)
    publish_doubting(store, "digit-cnn", favourite=5)
    publish(store, "digit-cnn", favourite=3)
    publish_doubting(store, "digit-mlp", favourite=8)
