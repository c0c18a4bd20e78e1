"""Whether there is anything to do, asked of a real job database."""

from models.jobs import JobSpec
from service.jobdb import JobDatabase
from training.jobqueue import prepare
from training.pending import Pending

SPEC = JobSpec(task="digit", network="mlp", epochs=1, batch_size=128, learning_rate=0.001, seed=0)


def test_a_job_is_seen_when_it_is_submitted_and_no_longer_when_it_is_cancelled(tmp_path):
    """Every answer follows the last change that another connection has made."""
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    prepare(url)
    pending, database = Pending(url), JobDatabase(url, 4)
    assert not pending.any()
    for _ in range(3):
        job = database.submit(SPEC, None)
        assert pending.any()
        database.cancel(job.id)
        assert not pending.any()
    database.close()
    pending.close()


def test_a_file_that_did_not_change_is_not_read_again(tmp_path):
    """An idle worker asks twice a second."""
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    prepare(url)
    pending = Pending(url)
    assert not pending.any()
    pending._client.destroy()
    pending._client = None
    for _ in range(10):
        assert not pending.any()
    assert pending._client is None
    pending.close()
