"""A training whose loss becomes infinite: its job fails with a sentence, and nothing that is served changes."""

import sys

import pytest

from models.store import Store
from tests.server import ROOT, Server, shipped, wait_until
from tests.workers import WorkerProcess

pytestmark = pytest.mark.slow

CHILD = ROOT / "tests" / "training" / "runaway.py"
START = f"import sys; from training.worker import main; sys.exit(main(sys.argv[1:], (sys.executable, {str(CHILD)!r})))"
SEVEN = [[255 if 5 <= row <= 7 or column == 27 - row else 0 for column in range(28)] for row in range(28)]


def answer(server):
    got = server.client.post("/predict/digit", params={"model": "digit-mlp"}, json={"pixels": SEVEN})
    assert got.status_code == 200, got.text
    return got.json()


def test_a_diverging_run_fails_with_a_sentence_and_the_live_version_stays(tmp_path, data_dir):
    """The trainer, the worker and the service are the real ones; the answer before is the answer during and after."""
    order = {"task": "digit", "network": "mlp", "epochs": 6, "batch_size": 64, "learning_rate": 0.01}
    command = (sys.executable, "-c", START)
    with Server(tmp_path, trainer="external") as server, WorkerProcess(tmp_path, command=command):
        before, models = answer(server), server.client.get("/models/digit-mlp").json()
        posted = server.client.post("/train", json={**order, "promote": "always"})
        assert posted.status_code == 202, posted.text
        url = posted.headers["location"]

        def ended():
            assert answer(server) == before
            return (job := server.client.get(url).json())["finished_at"] and job

        job = wait_until(ended, 300, 0.2)  # the trainer is nice to whatever else runs here
        assert (job["status"], job["result"]) == ("failed", None), job
        assert job["error"].startswith("the training diverged in epoch 4")
        assert job["error"].endswith("the loss is no longer a finite number; try a learning rate below 0.01")
        assert [row["epoch"] for row in job["history"]] == [1, 2, 3]
        assert answer(server) == before
        assert server.client.get("/models/digit-mlp").json() == models
    store = Store(tmp_path / "models")
    live = shipped("digit-mlp")
    assert (store.versions("digit-mlp"), store.live("digit-mlp")) == ([live], live)
    assert store.verify("digit-mlp", live).version == live
