"""The comparison of a candidate with the reference version: paired losses on the same validation rows.

The reference is the best version that was ever live, on the rows that the candidate was measured on. A candidate may be
worse than it by one standard error of the mean paired difference. As every candidate is held against the best version
and not against the last one, allowed losses do not add up. Torch is not needed.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.manifest import Manifest, Record, file_entry
from models.reference import VALIDATION
from models.store import Store, StoreError

MEASURED_FILE = "references.npz"
"""Losses of other versions on the candidate's validation rows, in the candidate's folder; it is not published."""
MOST = 8
"""Versions that a training measures at most: the best known one, the live one, then the newest that were live."""

Losses = NDArray[np.float32]


class Comparison(Record):
    """A candidate beside the reference `version`, or `problem`: why it cannot be compared.

    `difference` is the candidate's mean loss less the reference's; `standard_error` is that of the mean of the paired
    differences over `count` rows or blocks. `passed_over` tells which versions could not serve as the reference.
    """

    version: int | None = None
    candidate: float | None = None
    reference: float | None = None
    difference: float | None = None
    standard_error: float | None = None
    count: int = 0
    problem: str | None = None
    passed_over: list[str] = Field(default_factory=list)


def considered(store: Store, name: str) -> list[int]:
    """The versions that may be the reference."""
    live = store.live_history_or_empty(name)[:1]
    contenders = store.contenders(name)
    known = store.reference(name)
    chosen = dict.fromkeys([*([] if known is None else [known]), *live, *reversed(contenders)])
    return [version for version in chosen if version in contenders][:MOST]


def unmeasured(draft: Manifest, store: Store) -> list[Manifest]:
    """The considered versions that fit the draft and have no losses on its validation rows."""
    rows = draft.provenance.settings.get(VALIDATION)
    found = []
    for version in considered(store, draft.name):
        with contextlib.suppress(StoreError):
            manifest = store.manifest(draft.name, version)
            if _misfit(draft, manifest) is None and _own_losses(store, manifest, rows) is None:
                found.append(manifest)
    return found


def write_measured(candidate: Path, measured: Iterable[tuple[Manifest, Losses | str]]) -> None:
    """Keep the losses of versions, or why there are none, for `compare`."""
    found = {_key(manifest): np.array(losses) for manifest, losses in measured}
    with (candidate / MEASURED_FILE).open("wb") as stream:
        np.savez(stream, **found)  # type: ignore[arg-type]


def compare(candidate: Path, draft: Manifest, store: Store) -> Comparison | None:
    """The candidate beside the reference; None when the draft has no losses or no version was ever live."""
    versions = considered(store, draft.name)
    if draft.losses is None or not versions:
        return None
    ours = _read(candidate / draft.losses.file)
    if ours is None:
        return Comparison(problem="its losses on the validation rows cannot be read; train it again")
    rows, measured = draft.losses.rows_sha256, _read_measured(candidate)
    known: dict[int, Losses] = {}
    passed_over: list[str] = []
    for version in versions:
        theirs = _losses(draft, store, version, rows, measured)
        if theirs is None:
            return Comparison(
                problem=f"version {version}, which may be the reference, was not measured on the validation rows of "
                f"this training; train it again"
            )
        if isinstance(theirs, str):
            passed_over.append(f"version {version} cannot be the reference: {theirs}")
        elif len(theirs) != len(ours):
            passed_over.append(f"version {version} cannot be the reference: it has {len(theirs)} losses")
        else:
            known[version] = theirs
    if not known:
        return Comparison(passed_over=passed_over)
    best = min(known, key=lambda version: float(known[version].mean(dtype=np.float64)))
    return paired(ours, known[best]).model_copy(update={"version": best, "passed_over": passed_over})


def paired(ours: Losses, theirs: Losses) -> Comparison:
    """Mean losses, their difference and the standard error of the mean paired difference, s / sqrt(count)."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    differences, count = ours - theirs, len(ours)
    error = float(differences.std(ddof=1)) / count**0.5 if count > 1 else 0.0
    return Comparison(
        candidate=float(ours.mean()),
        reference=float(theirs.mean()),
        difference=float(differences.mean()),
        standard_error=error,
        count=count,
    )


def _losses(
    draft: Manifest, store: Store, version: int, rows: str, measured: dict[str, NDArray[np.generic]]
) -> Losses | str | None:
    """A version's losses on the rows, why it has none, or None when nobody has measured it."""
    try:
        manifest = store.manifest(draft.name, version)
    except StoreError as exc:
        return str(exc)
    if (misfit := _misfit(draft, manifest)) is not None:
        return misfit
    own = _own_losses(store, manifest, rows)
    if own is not None:
        return own
    found = measured.get(_key(manifest))
    if found is None:
        return None
    return str(found) if found.dtype.kind == "U" else found.astype(np.float32)


def _misfit(draft: Manifest, manifest: Manifest) -> str | None:
    """Why the losses of the two cannot be compared, or None."""
    new, old = draft.contract, manifest.contract
    differing = [key for key in ("task", "kind", "labels", "series") if new.get(key) != old.get(key)]
    return f"its {' and '.join(differing)} differ from the candidate's" if differing else None


def _own_losses(store: Store, manifest: Manifest, rows: object) -> Losses | None:
    """The losses that the version itself keeps, None when it has none of these rows or the file was changed."""
    if manifest.losses is None or manifest.losses.rows_sha256 != rows:
        return None
    path = store.folder(manifest.name, manifest.version) / manifest.losses.file
    try:
        if file_entry(path) != manifest.files[manifest.losses.file]:
            return None
    except OSError:
        return None
    return _read(path)


def _read(path: Path) -> Losses | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found.astype(np.float32) if isinstance(found, np.ndarray) and found.ndim == 1 and len(found) else None


def _read_measured(candidate: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(candidate / MEASURED_FILE, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}


def _key(manifest: Manifest) -> str:
    """The version and its very file: another store may have another version of that number."""
    return f"{manifest.version}-{manifest.files[manifest.model_file].sha256}"
