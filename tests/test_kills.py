"""kill -9 of the training process, the worker, the service and all of them, at 30 moments of a job: no job is lost."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from models.store import Store
from tests.killing import Follower, Service, diary, repeated
from tests.server import ROOT, shipped, wait_until
from tests.workers import children

pytestmark = pytest.mark.slow

CHILDREN = ROOT / "tests" / "training"
KILLS = 30
EPOCHS = 4
PHASES = ["queue", "data", "epoch 1", "epoch 2", "epoch 3", "epoch 4", "export", "candidate"]
LENGTHS = {"queue": 0.5, "data": 0.3, "export": 0.3, "candidate": 0.15}
EPOCH_S = 0.35
PLAN = {"epoch_s": EPOCH_S, "stage_s": 0.3, "bytes": 24 * 2**20, "accuracy": 0.999}  # better than the live version
CHILDLESS = {"queue", "candidate"}  # the child is not there yet, or gone


def moments(rng: random.Random, jobs: int) -> list[list[tuple[str, str, float]]]:
    """Three kills for each job, in different phases of it: target, phase, and the time from the phase's beginning.

    Over ten jobs each target comes seven or eight times, and each phase too.
    """
    targets = (["child", "worker", "service", "all"] * jobs)[: 3 * jobs]
    plans = []
    for _ in range(jobs):
        mine = [targets.pop() for _ in range(3)]
        while True:
            phases = sorted(rng.sample(PHASES, 3), key=PHASES.index)
            if not any(target == "child" and phase in CHILDLESS for target, phase in zip(mine, phases, strict=True)):
                break
        plans.append(
            [
                (target, phase, rng.uniform(0, LENGTHS.get(phase, EPOCH_S)))
                for target, phase in zip(mine, phases, strict=True)
            ]
        )
    return plans


def at(state: Path, job_id: str, phase: str) -> bool:
    """Whether the job has come to the phase."""
    name, _, epoch = phase.partition(" ")
    return any(entry.what == name and entry.epoch == int(epoch or 0) for entry in diary(state, job_id))


def stage_of(service: Service, job_id: str) -> str:
    """The last thing the job's training has told its diary."""
    entries = diary(service.state, job_id)
    return f"{entries[-1].what} {entries[-1].epoch or ''}".strip() if entries else "queue"


def recovery_s(service: Service, job_id: str, killed: float, mark: int) -> float:
    """Seconds from the kill until the job is seen to go on: a training writes again, or it has ended."""

    def goes_on():
        entries = diary(service.state, job_id)
        return len(entries) > mark or job_of(service, job_id).get("finished_at")

    wait_until(goes_on, 150)
    entries = diary(service.state, job_id)
    return (entries[mark].at if len(entries) > mark else time.time()) - killed


def job_of(service: Service, job_id: str) -> dict:
    try:
        return service.client.get(f"/train/{job_id}").json()
    except OSError:
        return {}
    except Exception as exc:  # the service is being started again
        if type(exc).__module__.startswith("httpx"):
            return {}
        raise


def order(service: Service, **changes: object) -> str:
    body = {"task": "digit", "network": "mlp", "epochs": EPOCHS, "promote": "manual", **changes}
    wait_until(service.answers, 60)
    posted = service.client.post("/train", json=body)
    assert posted.status_code == 202, posted.text
    return posted.json()["id"]


def check_story(service: Service, follower: Follower, job_id: str) -> None:
    """Ids 1, 2, 3, ... without gap or double, each epoch once, and the same for who reads it afterwards."""
    follower.join(60)
    assert follower.events, "the follower has heard nothing"
    assert [place for place, _, _ in follower.events] == list(range(1, len(follower.events) + 1))
    names = [name for _, name, _ in follower.events]
    assert (names[0], names[-1], names.count("done")) == ("status", "done", 1)
    assert [data["status"] for _, name, data in follower.events if name == "status"] == ["queued", "running"]
    assert [data["row"]["epoch"] for _, name, data in follower.events if name == "epoch"] == list(range(1, EPOCHS + 1))
    afterwards = Follower(follower.url)
    afterwards.join(60)
    assert afterwards.events == follower.events


def check_store(service: Service, job_ids: list[str]) -> None:
    """Every version is whole, each job has made one, and no job's folder is left."""
    store = Store(service.state / "models")
    versions = [store.verify("digit-mlp", version) for version in store.versions("digit-mlp")]
    made = Counter(manifest.provenance.job_id for manifest in versions)
    assert {job_id: made[job_id] for job_id in job_ids} == dict.fromkeys(job_ids, 1)
    assert len(versions) == len(job_ids) + 1  # the shipped one
    assert not [path.name for path in (service.state / "jobs").iterdir()]


def there(service: Service, target: str, job_id: str) -> bool:
    """Whether the process to kill lives; or the job has ended without it."""
    alive = {"child": lambda: children(job_id), "worker": service.worker}.get(target, lambda: True)
    return bool(alive() or job_of(service, job_id).get("finished_at"))


def survive(service: Service, plan: list[tuple[str, str, float]], figures: list[dict], **changes: object) -> str:
    """One job that is killed by the plan; its id."""
    job_id = order(service, **changes)
    follower = Follower(f"{service.url}/train/{job_id}/events")
    repeats = 0
    for target, phase, delay_s in plan:
        if phase != "queue":
            wait_until(lambda phase=phase: at(service.state, job_id, phase), 150, 0.01)
        time.sleep(delay_s)
        wait_until(lambda target=target: there(service, target, job_id), 150, 0.01)
        mark, where, killed = len(diary(service.state, job_id)), stage_of(service, job_id), time.time()
        if service.kill(target, job_id):
            seconds = recovery_s(service, job_id, killed, mark)
            figures.append({"target": target, "where": where, "seconds": seconds})
            repeats += 1
    wait_until(lambda: job_of(service, job_id).get("finished_at"), 240)
    job = job_of(service, job_id)
    assert job["status"] == "succeeded", (job, plan)
    assert [row["epoch"] for row in job["history"]] == list(range(1, EPOCHS + 1))
    again = repeated(diary(service.state, job_id))
    assert again <= repeats, f"{again} epochs repeated by {repeats} kills"
    figures[-1]["repeated"] = again
    check_story(service, follower, job_id)
    return job_id


def tell(figures: list[dict], seconds: float) -> None:
    """The figures of docs/reliability.md."""
    again = sum(one.get("repeated", 0) for one in figures)
    print(f"\n{len(figures)} kills in {seconds:.0f} s; {again} epochs begun again, each after a kill within it")
    for target in ("child", "worker", "service", "all"):
        mine = [one for one in figures if one["target"] == target]
        times = sorted(one["seconds"] for one in mine)
        if times:
            print(
                f"{target:8} {len(mine):2} kills; goes on after {times[len(times) // 2]:.1f} s (median), "
                f"{times[-1]:.1f} s (worst); hit in {dict(Counter(one['where'] for one in mine))}"
            )


def test_thirty_kills_lose_no_job(tmp_path, monkeypatch):
    """Ten jobs, three kills each: every one succeeds with one version, and its client reads one whole story."""
    (tmp_path / "plan.json").write_text(json.dumps({**PLAN, "diary": str(tmp_path / "diary")}))
    figures, begun, jobs = [], time.monotonic(), []
    with Service(tmp_path, CHILDREN / "child.py") as service:
        for plan in moments(random.Random(20), 12):  # the last ones are for kills that came too late
            if len(figures) < KILLS:
                jobs.append(survive(service, plan, figures))
        check_store(service, jobs)
        assert Store(tmp_path / "models").live("digit-mlp") == shipped("digit-mlp")
    tell(figures, time.monotonic() - begun)
    assert len(figures) >= KILLS
    assert {one["target"] for one in figures} == {"child", "worker", "service", "all"}


def test_the_real_trainer_survives_as_well(tmp_path, data_dir, monkeypatch):
    """A real network on few images: everything is killed in epoch 2, the child in epoch 3, the worker at the export."""
    monkeypatch.setenv("DATA_DIR", str(data_dir.resolve()))
    (tmp_path / "plan.json").write_text(json.dumps({"epoch_s": 0.5, "diary": str(tmp_path / "diary")}))
    plan = [("all", "epoch 2", 0.2), ("child", "epoch 3", 0.2), ("worker", "export", 0.5)]
    figures, begun = [], time.monotonic()
    with Service(tmp_path, CHILDREN / "counted.py") as service:
        job_id = survive(service, plan, figures, promote="always")
        check_store(service, [job_id])
        assert Store(tmp_path / "models").live("digit-mlp") == shipped("digit-mlp") + 1
    tell(figures, time.monotonic() - begun)
    assert len(figures) == 3
