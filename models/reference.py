"""Which of two versions is the better reference for the gate, by what their manifests record of the validation rows."""

from __future__ import annotations

from collections.abc import Iterable

from models.manifest import Manifest

RULES = "gate"
"""The setting that holds the gate's rules, among them the metric."""
VALIDATION = "validation_sha256"
"""The setting that identifies the validation rows: two versions with the same value were measured on the same rows."""


def best(manifests: Iterable[Manifest]) -> Manifest | None:
    """The best of versions that were live, the best known first; None when none has figures of the validation rows.

    A later version replaces an earlier one only where the manifests prove that it is better on the same rows.
    """
    found: Manifest | None = None
    for manifest in manifests:
        if manifest.losses is None and figure(manifest) is None:
            continue
        if found is None or better(manifest, found):
            found = manifest
    return found


def better(one: Manifest, other: Manifest) -> bool:
    """Whether the manifests prove that `one` is better than `other` on the same validation rows.

    A version with losses and one with a metric alone prove nothing: the better metric may have the worse loss.
    """
    if one.losses is not None and other.losses is not None:
        return one.losses.rows_sha256 == other.losses.rows_sha256 and one.losses.mean < other.losses.mean
    if one.losses is not None or other.losses is not None:
        return False
    ours, theirs = figure(one), figure(other)
    if ours is None or theirs is None or ours[0] != theirs[0] or other_rows(one, other) is not None:
        return False
    return ours[2] < theirs[2]


def figure(manifest: Manifest) -> tuple[str, float, float] | None:
    """Name and value of the metric that the gate's rules name, and the value as a loss (lower is better), or None."""
    rules = manifest.provenance.settings.get(RULES)
    if not isinstance(rules, dict):
        return None
    name = rules.get("metric")
    value = manifest.metrics.get("validation", {}).get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or value is None:
        return None
    return name, value, -value if rules.get("higher_is_better") else value


def other_rows(one: Manifest, other: Manifest) -> str | None:
    """Why the two were not measured on the same validation rows, or None."""
    new, old = one.provenance, other.provenance
    digests = [made.settings.get(VALIDATION) for made in (new, old)]
    if None not in digests:
        return None if digests[0] == digests[1] else "their validation splits hold other rows"
    # Versions from before splits had a digest: a split follows from the data files alone.
    files = [{(each.file, each.sha256) for each in made.data} for made in (new, old)]
    if files[0] != files[1]:
        names = sorted({name for name, _ in files[0] ^ files[1]})
        return f"they come from other data files ({', '.join(names)})"
    rows = [(made.settings.get("rows") or {}).get("validation") for made in (new, old)]
    return None if None in rows or rows[0] == rows[1] else f"their validation splits have {rows[0]} and {rows[1]} rows"
