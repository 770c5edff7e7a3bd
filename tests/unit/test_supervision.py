import asyncio
import logging

import pytest

from router.supervision import Tasks, last_resort
from tests.support.virtual_time import virtual_time


async def test_work_runs_and_is_forgotten_when_it_ends() -> None:
    tasks, done = Tasks(), asyncio.Event()

    async def work() -> None:
        done.set()

    tasks.spawn(work(), "work")
    assert len(tasks) == 1
    await done.wait()
    await tasks.drain(1)
    assert len(tasks) == 0


async def test_a_task_bears_the_name_it_was_given() -> None:
    tasks = Tasks()
    names: list[str] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        names.append(task.get_name())

    tasks.spawn(work(), "probe 10.0.0.7")
    await tasks.drain(1)
    assert names == ["probe 10.0.0.7"]


async def test_closing_cancels_what_runs_and_waits_for_its_end() -> None:
    tasks = Tasks()
    tidied: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            tidied.append("tidied")

    tasks.spawn(work(), "work")
    await asyncio.sleep(0)
    await tasks.close()
    assert (tidied, len(tasks)) == (["tidied"], 0)


async def test_a_crash_is_logged_with_its_name_and_takes_nobody_along(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    survived = asyncio.Event()

    async def crash() -> None:
        raise ZeroDivisionError("oops")

    async def survive() -> None:
        await asyncio.sleep(0)
        survived.set()

    tasks.spawn(crash(), "crashing")
    tasks.spawn(survive(), "surviving")
    await survived.wait()
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "background task 'crashing' failed")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_cancelled_task_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    tasks.spawn(asyncio.sleep(60), "sleeping")
    await tasks.close()
    assert caplog.records == []


@virtual_time
async def test_draining_waits_no_longer_than_it_may() -> None:
    loop = asyncio.get_running_loop()
    tasks = Tasks()
    tasks.spawn(asyncio.sleep(60), "long")
    tasks.spawn(asyncio.sleep(1), "short")
    began = loop.time()
    await tasks.drain(5)
    assert loop.time() - began == pytest.approx(5, abs=0.1)
    assert len(tasks) == 1
    await tasks.close()


async def test_nothing_to_drain_is_no_wait() -> None:
    await Tasks().drain(60)


@virtual_time
async def test_draining_waits_for_what_ending_work_starts() -> None:
    tasks = Tasks()
    ended: list[str] = []

    async def second() -> None:
        await asyncio.sleep(1)
        ended.append("second")

    async def first() -> None:
        await asyncio.sleep(1)
        tasks.spawn(second(), "second")

    tasks.spawn(first(), "first")
    await tasks.drain(5)
    assert ended == ["second"]


def test_a_turn_that_failed_is_logged_and_the_next_one_comes(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with last_resort("look"):
            raise ZeroDivisionError
    assert [(record.message, record.facts) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("background work failed", {"work": "look"})
    ] * 2
    with pytest.raises(asyncio.CancelledError), last_resort("look"):
        raise asyncio.CancelledError
