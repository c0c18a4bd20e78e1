"""The recorded corpus: real services answer every request as they did when it was recorded."""

from dataclasses import replace

import pytest

from tests.corpus import record
from tests.corpus.all import requests
from tests.corpus.calls import Http, door
from tests.corpus.masks import difference
from tests.corpus.wire import Answer

CALLS = requests()
DOORS = list(dict.fromkeys(map(door, CALLS)))
MOST_BYTES = 120_000
MOST_SHOWN = 10


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the services answer now: every request once, in order."""
    return record.ask(CALLS, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def recorded():
    return record.recorded()


@pytest.mark.slow
@pytest.mark.parametrize("name", DOORS)
def test_a_door_answers_as_recorded(name, answers, recorded):
    """Each request of the door is answered byte for byte as before, but for what `tests/corpus/masks.py` lists."""
    calls = [call for call in CALLS if door(call) == name]
    found = [text for call in calls if (text := record.changed(call, recorded.get(call.name, []), answers[call.name]))]
    shown = "\n\n".join(found[:MOST_SHOWN])
    assert not found, f"{len(found)} of {len(calls)} answers differ (docs/corpus.md says when to record anew):\n{shown}"


def test_the_corpus_is_large_and_small_and_has_no_leftovers(recorded):
    """Hundreds of requests in a small file, and an answer for each of them and for nothing else."""
    assert len(CALLS) >= 400
    assert record.FILE.stat().st_size <= MOST_BYTES
    assert set(recorded) == {call.name for call in CALLS}


def test_a_record_tells_nothing_of_its_machine(recorded):
    """No address, no folder, no time of day stands in an answer."""
    texts = [text for each in recorded.values() for answer in each for text in (answer.body, *map(str, answer.headers))]
    for machine in ("/tmp/", "/home/", "/root/", "GMT"):
        assert not [text[:200] for text in texts if machine in text], machine


BEFORE = Answer("200 OK", [("x-batch-rows", "1")], '{"digit":7,"confidence":0.9988471}', [[0.25, 1.5]])


@pytest.mark.parametrize(
    "change",
    [
        {"status": "201 Created"},
        {"headers": [("X-Batch-Rows", "1")]},
        {"headers": [("x-batch-rows", "1"), ("vary", "Origin")]},
        {"body": '{"digit":7, "confidence":0.9988471}'},
        {"body": '{"confidence":0.9988471,"digit":7}'},
        {"body": '{"digit":8,"confidence":0.9988471}'},
        {"body": '{"digit":7,"confidence":0.9988}'},
        {"tensors": [[0.25, 1.5001]]},
        {"tensors": [[0.25], [1.5]]},
    ],
)
def test_a_change_is_seen(change):
    """A status, a header, a space, an order, a label or a number that changed is shown as a difference."""
    assert "+++ got" in difference(BEFORE, replace(BEFORE, **change))


def test_last_bits_are_no_change():
    """Another processor's last bits of a probability are the same answer."""
    other = replace(BEFORE, body='{"digit":7,"confidence":0.99884707}', tensors=[[0.25000003, 1.5]])
    assert difference(BEFORE, other) == ""


def test_a_difference_names_the_request_and_both_answers():
    """One who breaks an answer reads what was sent, what came before and what comes now."""
    call = Http("fast digit seven", "POST", "/predict/digit", {}, b"the picture")
    text = record.changed(call, [BEFORE], [replace(BEFORE, body='{"digit":8,"confidence":0.9988471}')])
    for part in ("fast digit seven: POST /predict/digit", "the picture", '-{"digit":7', '+{"digit":8'):
        assert part in text
