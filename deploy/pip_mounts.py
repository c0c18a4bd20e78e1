"""Carries this machine's pip settings into an image build: `pip config list | python pip_mounts.py FILE`.

Writes the settings that say where packages come from to FILE, a pip.conf, and prints the `--volume` options that bring
it, the local folders it names and the certificates of this machine to where a build finds them.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

LISTS = {"extra-index-url", "find-links", "trusted-host"}
SINGLE = {"cert", "index-url", "no-index", "timeout"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

Settings = dict[str, list[str]]


def read(lines: Iterable[str]) -> Settings:
    """The kept settings by key. Lists of several sources are united; else the first, the environment's, counts."""
    settings: Settings = {}
    for line in lines:
        name, _, quoted = line.strip().partition("=")
        key, words = name.rpartition(".")[2], " ".join(shlex.split(quoted)).split()
        if key in LISTS:
            settings[key] = list(dict.fromkeys([*settings.get(key, []), *words]))
        elif key in SINGLE:
            settings.setdefault(key, words)
    return settings


def places(settings: Settings) -> list[Path]:
    """Local files and folders that the settings name. Of an index its parent: its pages point at files beside it."""
    words = [word for values in settings.values() for word in values]
    paths = [Path(word.removeprefix("file://")) for word in words]
    found = [path.parent if path.name == "simple" else path for path in paths if path.is_absolute() and path.exists()]
    return list(dict.fromkeys(found))


def main(config: Path) -> None:
    """Read standard input, write `config`, print the options."""
    settings = read(sys.stdin)
    lines = [f"{key} = {' '.join(words)}" for key, words in settings.items()]
    config.write_text("\n".join(["[global]", *lines, ""]), "utf-8")
    mounts = {path: path for path in places(settings)}
    if CERTIFICATES.exists():
        mounts[CERTIFICATES] = CERTIFICATES
    mounts[config] = Path("/etc/pip.conf")
    sys.stdout.writelines(f"--volume={source}:{target}:ro\n" for source, target in mounts.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
