"""What is removed in the long run: old versions of a model, old jobs, and what dead processes have left.

Every step is whole or not done, and safe beside the service and other workers; of several workers one tidies at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dbos import DBOSClient, DBOSPortableJSONSerializer
from sqlalchemy.exc import SQLAlchemyError

from models import disk
from models.jobs import APPLICATION, WORKFLOW
from models.manifest import Manifest
from models.store import Store, StoreError, VersionDamagedError, VersionNotFoundError

ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]
EVERY_S = 3600.0
FIRST_S = 60.0
LOCK_FILE = "retention.lock"
_AT_ONCE = 200
_SETTLED_S = 3600.0
"""So long after its end a job's folder is left alone: its worker removes it itself."""
_ZOO = Path(disk.__file__).parent / "zoo"

log = logging.getLogger("training.worker")


@dataclass(frozen=True)
class Retention:
    """How many of the newest versions of a model stay, and for how many days jobs do; 0 keeps all."""

    versions: int = 0
    jobs_days: float = 0.0


KEEP_ALL = Retention()


def prune_versions(store: Store, name: str, keep: int, zoo: Path = _ZOO) -> list[int]:
    """Remove all but the newest `keep` versions of a model; the removed ones.

    The live one, the one before it, a canary's, the gate's reference and those that came with the product stay as well.
    """
    if not keep or len(store.versions(name)) <= keep:
        return []
    gone = store.prune(name, keep, shipped(store, name, Store(zoo)))
    if gone:
        log.info("removed %s of %s: the newest %d stay", ", ".join(map(str, gone)), name, keep)
    return gone


def shipped(store: Store, name: str, zoo: Store) -> set[int]:
    """The versions of a model in `store` that hold the files of one in `zoo`, whatever their numbers."""
    ours = [manifest.files for _, manifest in _manifests(zoo, name)]
    return {version for version, manifest in _manifests(store, name) if manifest.files in ours}


def _manifests(store: Store, name: str) -> Iterable[tuple[int, Manifest]]:
    for version in store.versions(name):
        with contextlib.suppress(VersionDamagedError, VersionNotFoundError):
            yield version, store.manifest(name, version)


class Housekeeper:
    """Tidies `state`, the store and the job database at `url` once an hour on a thread of its own, from `start` on."""

    def __init__(self, state: Path, store: Store, url: str, retention: Retention) -> None:
        self._state, self._store, self._url, self._retention = state, store, url, retention
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="housekeeper", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more; what is under way may be cut off anywhere."""
        self._stop.set()

    def _run(self) -> None:
        pause_s = FIRST_S
        while not self._stop.wait(pause_s):
            pause_s = EVERY_S
            try:
                self.tidy()
            except Exception:  # the next hour is another try
                log.exception("old jobs and versions could not be removed")

    def tidy(self) -> None:
        """Do all of it now, unless another worker does; what one part raises leaves the others to be done."""
        try:
            handle = disk.take(self._state / LOCK_FILE)
        except (disk.LockedError, OSError):
            return
        try:
            for part in (self._versions, self._leftovers, self._engines, self._jobs):
                try:
                    part()
                except (StoreError, SQLAlchemyError, OSError) as exc:
                    log.warning("tidying: %s", str(exc).partition("\n")[0])
        finally:
            os.close(handle)

    def _versions(self) -> None:
        for name in self._store.names():
            prune_versions(self._store, name, self._retention.versions)

    def _leftovers(self) -> None:
        self._store.sweep()

    def _engines(self) -> None:
        """TensorRT's engines of versions that are gone."""
        for folder in (self._state / "tensorrt").glob("*/*"):
            model = folder.parent.name
            if folder.name.isdecimal() and int(folder.name) not in self._store.versions(model):
                shutil.rmtree(folder, ignore_errors=True)

    def _jobs(self) -> None:
        client = DBOSClient(
            system_database_url=self._url,
            serializer=DBOSPortableJSONSerializer(),
            application_name=APPLICATION,
            system_database_pool_size=1,
            system_database_polling_concurrency=0,
            retry_connection_errors=False,
        )
        try:
            if self._retention.jobs_days:
                remove_jobs(client, datetime.now(UTC) - timedelta(days=self._retention.jobs_days))
            self._folders(client)
        finally:
            client.destroy()

    def _folders(self, client: DBOSClient) -> None:
        """The folders of jobs that have ended, or of which there is no record any more."""
        folders = {path.name: path for path in (self._state / "jobs").glob("*") if path.is_dir()}
        if not folders:
            return
        rows = client.list_workflows(workflow_ids=list(folders), load_input=False, load_output=False)
        known = {row.workflow_id: row.status for row in rows}
        for job_id, path in folders.items():
            quiet_s = time.time() - path.stat().st_mtime
            if known.get(job_id, ENDED[0]) in ENDED and quiet_s > _SETTLED_S:
                shutil.rmtree(path, ignore_errors=True)
                log.info("removed the folder of job %s, which has ended", job_id)


def remove_jobs(client: DBOSClient, before: datetime) -> int:
    """Remove the records of jobs that have ended and were submitted before then: rows, steps, events; how many."""
    removed = 0
    while rows := client.list_workflows(
        name=WORKFLOW,
        status=ENDED,
        end_time=before.isoformat(),
        limit=_AT_ONCE,
        load_input=False,
        load_output=False,
    ):
        client.delete_workflows([row.workflow_id for row in rows])
        removed += len(rows)
    if removed:
        log.info("removed the records of %d jobs that were submitted before %s", removed, before.date())
    return removed
