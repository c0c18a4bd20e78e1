"""The environment variables `NEUROSERVE_…`: which are ours, which are Kubernetes's, and which are likely typing errors.

Kubernetes tells every container of each service in its namespace by variables that begin with the service's name:
beside a service named `neuroserve` there are `NEUROSERVE_PORT=tcp://10.96.12.7:8000` and a dozen more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import NamedTuple

PREFIX = "NEUROSERVE_"
_SETTINGS = """
ACCESS_LOG ALLOWED_HOSTS ALLOW_OPEN_NETWORK API_KEY API_KEYS API_KEYS_FILE CORS_ORIGINS CUDA_GRAPHS DATABASE_URL
DEADLINE_MS DEVICE DRAIN_S GPU_MEM_LIMIT_MB GRAFANA_PUBLISH GRPC_PORT HOST JOB_TIME_LIMIT_S KEEP_ALIVE_S
KEEP_JOBS_DAYS KEEP_VERSIONS KEY_CONCURRENCY KEY_REQUESTS_PER_S LOG_FORMAT LOG_LEVEL MAX_BATCH_ITEMS MAX_BATCH_ROWS
MAX_BODIES_BYTES MAX_BODY_BYTES MAX_DECODE_PIXELS MAX_DECODE_REQUESTS MAX_IMAGE_PIXELS MAX_QUEUED_JOBS MAX_QUEUE_ROWS
MAX_SERIES_STEPS MAX_TEXT_CHARS MAX_WAIT_MS PORT POSTGRES_PASSWORD PUBLISH READ_TIMEOUT_S ROOT_PATH SCRAPE_KEY_FILE
SHUTDOWN_GRACE_S STATE TENSORRT TRAINER TRAINER_SILENT_S TRAIN_CONCURRENCY TRAIN_GPU_MEM_SHARE URL WORKERS
WORKER_SILENT_S
"""
NAMES = frozenset(PREFIX + name for name in _SETTINGS.split())
"""The settings of the service and its trainer, the names that the client reads, and those of the compose files."""
_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://", re.IGNORECASE)
_KUBERNETES = re.compile(
    r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(?:_\w+)?|\w+_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?"
)
_NEAR = 2


class Findings(NamedTuple):
    """What is wrong with the environment: `refusal` forbids the start; `notes` are lines for the log."""

    refusal: str | None
    notes: list[str]


def is_address(value: object) -> bool:
    """Whether a value is of the form in which Kubernetes gives a service's address; no setting is."""
    return isinstance(value, str) and _ADDRESS.match(value.strip()) is not None


def check(environ: MutableMapping[str, str], known: Iterable[str] = ()) -> Findings:
    """Look at all variables of the prefix, and take those of Kubernetes that have a setting's name out of `environ`.

    `known` are further names, to those of `NAMES`.
    """
    names = NAMES.union(known)
    given = {name.upper(): name for name in environ if name.upper().startswith(PREFIX)}
    addresses = sorted(name for name, written in given.items() if is_address(environ[written]))
    for name in addresses:
        del environ[given[name]]
    notes = []
    if addresses:
        notes.append(f"ignored {', '.join(addresses)}: addresses that Kubernetes gives, and no settings")
    unknown = [name for name in sorted(given) if name not in names and name not in addresses]
    unknown = [name for name in unknown if not _KUBERNETES.fullmatch(name)]
    for name in unknown:
        near = min(sorted(names), key=lambda each: distance(name, each))
        if distance(name, near) <= _NEAR:
            return Findings(f"{name} is not a setting; did you mean {near}?", notes)
    if unknown:
        notes.append(f"ignored {', '.join(unknown)}: no settings of this version")
    return Findings(None, notes)


def distance(one: str, other: str) -> int:
    """How many letters must be put in, left out, changed or swapped with their neighbour to make one of the other."""
    if abs(len(one) - len(other)) > _NEAR:
        return _NEAR + 1
    above: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        further, above, row = above, row, [i]
        for j, beside in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != beside))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == beside:
                cost = min(cost, further[j - 2] + 1)
            row.append(cost)
    return row[-1]
