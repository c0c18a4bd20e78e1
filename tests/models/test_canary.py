"""A canary's order: given once, ended once, readable by all; and its rule, which decides as early as it can."""

import threading

import pytest

from models.canary import CanaryBoard, CanaryError, CanaryRule, CanaryRunsError, CanaryState
from models.store import Store, VersionInCanaryError
from tests.artifacts import publish

ORDER = {"version": 2, "against": 1, "percent": 10, "mode": "shadow", "kind": "image"}


def nothing():
    """No objection, and no figures."""
    return {}


def start(board, **changes):
    return board.start("digit-cnn", check=nothing, **{**ORDER, **changes})


def test_an_order_is_seen_by_everybody_until_it_ends(tmp_path):
    """Another process reads the same order; after the end it is the last one, with its reason and figures."""
    mine, other = CanaryBoard(tmp_path), CanaryBoard(tmp_path)
    assert other.state("digit-cnn") == CanaryState()
    order = start(mine, rule=CanaryRule(min_rows=5))
    assert other.state("digit-cnn").running == order
    ended = other.end("digit-cnn", order.number, "aborted", "it was bad", first=lambda: {"rows": 7})
    state = mine.state("digit-cnn")
    assert (state.running, state.last) == (None, ended)
    assert (state.last.reason, state.last.figures) == ("it was bad", {"rows": 7})
    assert start(mine).number == 2


def test_a_model_has_one_canary(tmp_path):
    """Of many that start one at once, one does; the others are told which version runs."""
    board, started, refused = CanaryBoard(tmp_path), [], []

    def try_it(version):
        try:
            started.append(start(board, version=version).version)
        except CanaryRunsError as exc:
            refused.append(str(exc))

    threads = [threading.Thread(target=try_it, args=(version,)) for version in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(started), len(refused)) == (1, 7)
    assert set(refused) == {f"version {started[0]} of digit-cnn is in a canary already"}


def test_an_order_ends_once(tmp_path):
    """Who comes second, or means an earlier order, changes nothing; a failing last step leaves it running."""
    board = CanaryBoard(tmp_path)
    order = start(board)

    def fails():
        raise OSError(28, "No space left on device")

    with pytest.raises(CanaryError, match="No space left"):
        board.end("digit-cnn", order.number, "promoted", "", first=fails)
    assert board.state("digit-cnn").running == order
    ends = [board.end("digit-cnn", order.number, outcome, "", first=nothing) for outcome in ("promoted", "aborted")]
    assert ends[1] is None
    assert board.state("digit-cnn").last.outcome == "promoted"
    newer = start(board)
    assert board.end("digit-cnn", order.number, "ended", "", first=nothing) is None
    assert board.state("digit-cnn").running == newer


def test_an_objection_keeps_an_order_from_being_given(tmp_path):
    """What the caller finds while nobody else can change the state counts."""
    board = CanaryBoard(tmp_path)

    def objects():
        raise RuntimeError("the live version changed")

    with pytest.raises(RuntimeError, match="live version changed"):
        board.start("digit-cnn", check=objects, **ORDER)
    assert board.state("digit-cnn").running is None


def test_what_a_later_release_adds_is_read(tmp_path):
    """A field that is not known here is no damage; a file that is no state is, and the way out is told."""
    board = CanaryBoard(tmp_path)
    order = start(board)
    path = tmp_path / "digit-cnn" / "canary" / "state.json"
    path.write_text(path.read_text().replace('"percent": 10.0', '"percent": 10.0, "colour": "yellow"'))
    assert board.state("digit-cnn").running == order
    path.write_text("{")
    with pytest.raises(CanaryError, match="remove it to end the canary"):
        board.state("digit-cnn")


def test_counts_of_earlier_orders_are_cleared(tmp_path):
    """A new order starts from zero, and old files do not pile up."""
    board = CanaryBoard(tmp_path)
    order = start(board)
    board.tally("digit-cnn", order.number, "a").write_bytes(b"1")
    board.end("digit-cnn", order.number, "ended", "", first=nothing)
    assert len(board.tallies("digit-cnn", order.number)) == 1
    newer = start(board)
    assert [board.tallies("digit-cnn", each.number) for each in (order, newer)] == [[], []]


def test_the_candidate_of_a_running_canary_stays_in_the_store(tmp_path):
    """Neither delete nor prune takes it; after the end both do."""
    store = Store(tmp_path)
    for favourite in (1, 2, 3, 4):
        publish(store, favourite=favourite)
    store.promote("digit-cnn", 1)
    board = CanaryBoard(tmp_path)
    order = start(board)
    with pytest.raises(VersionInCanaryError, match="version 2 is in a canary"):
        store.delete("digit-cnn", 2)
    assert store.prune("digit-cnn", keep=1) == [3]
    assert store.versions("digit-cnn") == [1, 2, 4]
    board.end("digit-cnn", order.number, "ended", "", first=nothing)
    assert store.prune("digit-cnn", keep=1) == [2]


def test_an_order_against_a_version_that_is_live_no_more_protects_nothing(tmp_path):
    """It has ended, if nobody has written that down yet."""
    store = Store(tmp_path)
    for favourite in (1, 2, 3):
        publish(store, favourite=favourite)
    store.promote("digit-cnn", 1)
    start(CanaryBoard(tmp_path))
    store.promote("digit-cnn", 3)
    store.delete("digit-cnn", 2)
    assert store.versions("digit-cnn") == [1, 3]


RULE = CanaryRule(min_rows=500, min_agreement=0.99, max_error_rate=0.01)


@pytest.mark.parametrize(
    ("rows", "failed", "compared", "agreement", "expected"),
    [
        (0, 0, 0, None, "waiting"),
        (499, 0, 499, 1.0, "waiting"),
        (500, 0, 500, 1.0, "passed"),
        (500, 5, 495, 1.0, "passed"),
        (6, 6, 0, None, "failed"),
        (5, 5, 0, None, "waiting"),
        (6, 0, 6, 0.0, "failed"),
        (5, 0, 5, 0.0, "waiting"),
        (500, 0, 500, 0.99, "passed"),
        (500, 0, 500, 0.988, "failed"),
        (10_000, 100, 9_900, 0.99, "passed"),
        (10_000, 101, 9_899, 1.0, "failed"),
    ],
)
def test_a_rule_decides_when_it_can_and_no_sooner(rows, failed, compared, agreement, expected):
    """It fails once the rows that are still to come cannot mend it, and passes with enough good ones."""
    assert RULE.judge(rows=rows, failed=failed, compared=compared, agreement=agreement).state == expected


def test_a_verdict_says_why():
    """The figures it rests on, in words."""
    assert RULE.judge(rows=20, failed=6, compared=14, agreement=1.0).reason == (
        "6 of 20 rows failed, at most 1.00% of 500 may"
    )
    assert RULE.judge(rows=500, failed=0, compared=500, agreement=0.9).reason == (
        "90.00% of 500 compared rows agree, at least 99.00% of 500 must"
    )


def test_without_an_agreement_only_failures_count():
    """In a split no row has two answers."""
    rule = CanaryRule(min_rows=10, max_error_rate=0.1)
    assert rule.judge(rows=10, failed=1, compared=0, agreement=None).state == "passed"
    assert rule.judge(rows=10, failed=2, compared=0, agreement=None).state == "failed"
