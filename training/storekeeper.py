"""What an operator does to a store by hand; the service does the same over HTTP. Torch is not needed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from models.store import Store, StoreError

STAMP = "%Y-%m-%d %H:%M"


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Add the sub-commands list, verify, promote, rollback and prune, and return them."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in (("list", "show all versions"), ("verify", "hash every file of every version")):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("name", nargs="?", help="one model only")
    promote = verbs.add_parser("promote", help="make a version live")
    promote.add_argument("name")
    promote.add_argument("version", type=int)
    rollback = verbs.add_parser("rollback", help="make the version that was live before live again")
    rollback.add_argument("name")
    prune = verbs.add_parser("prune", help="remove old versions, and what dead processes left unfinished")
    prune.add_argument("name", nargs="?", help="one model only")
    prune.add_argument("--keep", type=_count, default=5, help="how many of the newest stay (5)")
    return list(verbs.choices.values())


def run(args: argparse.Namespace, store: Store) -> int:
    """Do it and print what happened; StoreError when it cannot be done."""
    name: str = args.name
    if args.verb == "list":
        _print(_listing(store, args.name))
    elif args.verb == "verify":
        return _verify(store, args.name)
    elif args.verb == "promote":
        store.promote(name, args.version)
        _print([f"{name} version {args.version} is live"])
    elif args.verb == "rollback":
        _print([f"{name} version {store.rollback(name)} is live"])
    else:
        _prune(store, args.name, args.keep)
    return 0


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _prune(store: Store, only: str | None, keep: int) -> None:
    left = store.sweep()
    for name in _names(store, only):
        gone = store.prune(name, keep)
        _print([f"removed {', '.join(map(str, gone)) or 'nothing'} of {name}"])
    if left:
        _print([f"removed {len(left)} {'leftover' if len(left) == 1 else 'leftovers'} of processes that are gone"])


def _names(store: Store, name: str | None) -> list[str]:
    if name is not None and not store.versions(name):
        raise StoreError(f"{store.root} has no model {name}; it has {', '.join(store.names()) or 'none'}")
    return store.names() if name is None else [name]


def _listing(store: Store, only: str | None) -> Iterator[str]:
    for name in _names(store, only):
        live = store.live(name)
        for version in store.versions(name):
            try:
                manifest = store.manifest(name, version)
            except StoreError as exc:
                yield f"{name} {version}: {exc}"
                continue
            mark = "live" if version == live else "    "
            figures = ", ".join(f"{key} {value:.4f}" for key, value in manifest.metrics.get("test", {}).items())
            yield f"{name} {version:>4} {mark} {manifest.created_at.strftime(STAMP)}  {figures}"


def _verify(store: Store, only: str | None) -> int:
    damaged = 0
    for name in _names(store, only):
        for version in store.versions(name):
            try:
                store.verify(name, version)
                _print([f"{name} {version}: whole"])
            except StoreError as exc:
                damaged += 1
                _print([f"{exc}"])
    return 1 if damaged else 0


def _print(lines: Iterator[str] | list[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201 (a terminal program)
