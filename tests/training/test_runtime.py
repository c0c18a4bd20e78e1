"""A training's share of a GPU, with a device that only writes down what it is told."""

from __future__ import annotations

import pytest
import torch

from training.runtime import limit_gpu_memory


class _Device:
    def __init__(self) -> None:
        self.told: list[tuple[float, torch.device]] = []

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.told.append((fraction, device))


@pytest.mark.parametrize(("setting", "share"), [(None, 0.5), ("", 0.5), ("0.25", 0.25), ("1", 1.0)])
def test_a_training_takes_only_its_share_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, share: float
) -> None:
    """Half of the memory unless the setting says otherwise."""
    monkeypatch.delenv("NEUROSERVE_TRAIN_GPU_MEM_SHARE", raising=False)
    if setting is not None:
        monkeypatch.setenv("NEUROSERVE_TRAIN_GPU_MEM_SHARE", setting)
    fake, where = _Device(), torch.device("cuda", 0)
    assert limit_gpu_memory(fake, where) == share
    assert fake.told == [(share, where)]


@pytest.mark.parametrize("setting", ["0", "1.5", "-1", "nan", "half"])
def test_a_wrong_share_is_refused(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """The error names the setting; nothing is limited by accident."""
    monkeypatch.setenv("NEUROSERVE_TRAIN_GPU_MEM_SHARE", setting)
    fake = _Device()
    with pytest.raises(ValueError, match="NEUROSERVE_TRAIN_GPU_MEM_SHARE"):
        limit_gpu_memory(fake, torch.device("cuda", 0))
    assert fake.told == []


def test_the_real_device_takes_the_same_call() -> None:
    """torch's own function has the name and the arguments that the fake has."""
    import inspect

    inspect.signature(torch.cuda.set_per_process_memory_fraction).bind(0.5, torch.device("cuda", 0))
