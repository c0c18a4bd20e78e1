"""Tasks that run as long as the process: an error in a round ends none, and one that has ended is known."""

import asyncio

from service.background import Background


def test_an_error_in_one_round_is_logged_once_and_the_next_round_comes(caplog):
    """Whatever a round raises, the rounds go on; the same error is told once, another one again."""
    rounds = []

    def look():
        rounds.append(1)
        if len(rounds) < 4:
            raise OSError(24, "Too many open files")
        if len(rounds) == 5:
            raise RuntimeError("something nobody thought of")

    async def scenario():
        background = Background()
        background.every("store watcher", 0.005, look)
        while len(rounds) < 7:  # noqa: ASYNC110 (the rounds are counted where no event loop is known)
            await asyncio.sleep(0.005)
        assert background.dead() == {}
        background.stop("store watcher")

    asyncio.run(scenario())
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "Too many open files" in line]) == 1
    assert len([line for line in said if "nobody thought of" in line]) == 1


def test_what_has_ended_is_told_and_what_was_stopped_is_not():
    """A cancelled task and a thread that is gone are dead; a task that was stopped on purpose is not missed."""

    async def scenario():
        background = Background()

        async def look():
            await asyncio.sleep(0)

        for name in ("one", "two", "three"):
            background.every(name, 0.001, look).get_name()
        background.check("thread", lambda: False)
        background._tasks["two"].cancel()
        background.stop("three")
        await asyncio.sleep(0.02)
        assert set(background.dead()) == {"two", "thread"}
        assert "has ended" in background.dead()["two"]
        background.stop("thread")
        background.stop("one")
        assert set(background.dead()) == {"two"}

    asyncio.run(scenario())
