"""SIGTERM of the service in the middle of a job: the running epoch is saved if it ends in time, and nothing is lost."""

import time

import pytest

from tests.killing import Follower, Service, diary, repeated
from tests.server import ROOT, wait_until
from tests.service.test_train import job_of, serving
from tests.workers import children, plan

pytestmark = pytest.mark.slow

CHILD = ROOT / "tests" / "training" / "child.py"
EPOCHS = 3


@pytest.mark.parametrize(("grace_s", "epoch_s", "again"), [(25.0, 1.5, 0), (4.0, 6.0, 1)])
def test_a_job_pauses_with_the_service_and_goes_on_with_it(tmp_path, grace_s, epoch_s, again):
    """With time enough no epoch is done twice, else the running one; status and stream are one story all the while."""
    plan(tmp_path, epoch_s=epoch_s, accuracy=0.999, diary=str(tmp_path / "diary"))
    order = {"task": "digit", "network": "mlp", "epochs": EPOCHS, "promote": "manual"}
    with Service(tmp_path, CHILD, shutdown_grace_s=grace_s) as service:
        job_id = service.client.post("/train", json=order).json()["id"]
        waiting = service.client.post("/train", json=order).json()["id"]
        follower = Follower(f"{service.url}/train/{job_id}/events")
        wait_until(lambda: [row for row in diary(tmp_path, job_id) if row[3:] == ("epoch", 2)], 60)
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < grace_s + 10
        assert not children(job_id)
        told = [row[3:] for row in diary(tmp_path, job_id)]
        assert (("done", 2) in told) == (again == 0)
        touched = ("epoch", 3) in told  # begun in the moment before the child was ended
        with serving(tmp_path) as other:  # the same state, no worker
            paused = job_of(other, job_id)
            assert paused["status"] == "running"
            assert 2 - again <= len(paused["history"]) < EPOCHS
            assert paused["finished_at"] is None
            assert job_of(other, waiting)["status"] == "queued"
        plan(tmp_path, epoch_s=0.2, accuracy=0.999, diary=str(tmp_path / "diary"))
        service.start()
        wait_until(service.answers, 60)
        job = wait_until(lambda: (job := job_of(service.client, job_id))["finished_at"] and job, 60)
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert [row["epoch"] for row in job["history"]] == [1, 2, 3]
        assert repeated(diary(tmp_path, job_id)) == again + touched
        follower.join(30)
        wait_until(lambda: job_of(service.client, waiting)["finished_at"], 60)
    assert [place for place, _, _ in follower.events] == list(range(1, len(follower.events) + 1))
    assert [data["row"]["epoch"] for _, name, data in follower.events if name == "epoch"] == [1, 2, 3]
    assert [data["status"] for _, name, data in follower.events if name == "status"] == ["queued", "running"]
    assert follower.events[-1][1] == "done"
    assert follower.connections >= 2
