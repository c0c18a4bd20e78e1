"""How much the state folder holds, by what it is for."""

import asyncio
import os

from service.diskuse import DiskUse, used


def test_bytes_are_told_by_what_they_are_for(tmp_path):
    """Each part by itself; a file of two names counts once; what is missing is zero."""
    for name, size in {
        "models/digit-cnn/1/model.onnx": 100_000,
        "jobs.sqlite": 50_000,
        "jobs/some-job/checkpoint.pt": 70_000,
        "elsewhere": 30_000,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    os.link(tmp_path / "elsewhere", tmp_path / "twice")
    (family,) = asyncio.run(DiskUse(tmp_path).families())
    found = {sample.labels["part"]: sample.value for sample in family.samples}
    assert found["data"] == found["engines"] == 0
    for part, size in {"models": 100_000, "jobs": 50_000, "checkpoints": 70_000, "other": 30_000}.items():
        assert size <= found[part] < size + 30_000, part
    assert sum(found.values()) == used(tmp_path)
    assert used(tmp_path / "nothing") == 0
