"""Ten trainings in a row beside a client; `tests/bench/soak.py` does a hundred."""

import pytest

from tests.bench import soak


@pytest.mark.slow
def test_ten_trainings_with_swaps_under_load_level_off(tmp_path):
    """No request fails, each version answers, memory and disk stay in bounds, and old versions go."""
    record = soak.soak(tmp_path, 10)
    assert record.failed == []
    assert record.answered > 50
    assert len(record.versions) >= 10
    assert record.kept <= soak.KEPT + 3  # beside them the live one, the one before it, the gate's and the shipped one
    assert max(record.disk["models"][5:]) < 1.1 * record.disk["models"][5]
    assert set(record.disk["jobs"]) == {0.0}
    assert record.disk["jobs.sqlite"][-1] < 1024
    for name in record.memory:
        assert record.growth(name) < 10, (name, record.memory[name])
