import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from router import supervision
from router.supervision import LONGEST_PAUSE_S, LastResort, Tasks, Telling, Trouble
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


@virtual_time
async def test_work_that_missed_its_cancellation_is_cancelled_again() -> None:
    tasks, missed = Tasks(), 0

    async def work() -> None:
        nonlocal missed
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                missed += 1
                if missed == 3:
                    raise

    tasks.spawn(work(), "work")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.close()
    assert (missed, len(tasks)) == (3, 0)


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


def test_a_fault_that_stays_is_told_ever_more_rarely_but_once_an_hour() -> None:
    trouble = Trouble(0)
    tellings = [(now, trouble.failed("fault", now)) for now in range(4 * 3600)]
    assert [(now, telling) for now, telling in tellings if telling is not Telling.NOTHING] == [
        (0, Telling.ALL),
        *((60 * minutes, Telling.BRIEFLY) for minutes in (1, 3, 7, 15, 31, 63, 123, 183)),
    ]
    assert trouble.failures == 4 * 3600
    assert LONGEST_PAUSE_S == 3600


def test_another_fault_is_news_and_the_first_one_is_none_because_of_it() -> None:
    trouble = Trouble(0)
    tellings = [trouble.failed(kind, now) for now, kind in enumerate(["a", "a", "b", "a", "b"])]
    assert tellings == [Telling.ALL, Telling.NOTHING, Telling.ALL, Telling.NOTHING, Telling.NOTHING]


def test_a_fault_is_gone_when_it_was_not_met_for_a_minute() -> None:
    trouble = Trouble(0)
    trouble.failed("fault", 30)
    assert [trouble.gone(now) for now in (31, 89, 90)] == [False, False, True]


class Log:
    """What a test's log was told: seconds since it was made, the message, the facts, and whether with a traceback."""

    def __init__(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        caplog.set_level(logging.INFO)
        self.lines: list[tuple[int, str, dict[str, object], bool]] = []
        began = asyncio.get_running_loop().time()

        def handle(record: logging.LogRecord) -> None:
            at_s = round(asyncio.get_running_loop().time() - began)
            self.lines.append((at_s, record.getMessage(), record.facts, record.exc_info is not None))  # type: ignore[attr-defined]

        monkeypatch.setattr(caplog.handler, "emit", handle)


async def turns(work: Callable[[int], object], count: int, resort: LastResort) -> None:
    """Turns of work, one a second."""
    for number in range(count):
        with resort.turn():
            work(number)
        await asyncio.sleep(1)


@virtual_time
async def test_a_fault_that_stays_has_one_traceback_and_a_line_when_it_is_gone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)
    await turns(lambda number: 1 / 0 if number < 200 else None, 300, LastResort("look"))
    why = "ZeroDivisionError: division by zero"
    assert log.lines == [
        (0, "background work failed", {"work": "look", "why": why}, True),
        (60, "background work still fails", {"work": "look", "failures": 61, "for_s": 60, "why": why}, False),
        (180, "background work still fails", {"work": "look", "failures": 181, "for_s": 180, "why": why}, False),
        (259, "background work is well again", {"work": "look", "failures": 200, "for_s": 199}, False),
    ]


@virtual_time
async def test_what_fails_now_and_then_is_one_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)
    await turns(lambda number: 1 / (number % 2), 100, LastResort("look"))
    assert [(at_s, message) for at_s, message, *_ in log.lines] == [
        (0, "background work failed"),
        (60, "background work still fails"),
    ]


@virtual_time
async def test_a_fault_that_comes_again_is_told_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)
    await turns(lambda number: 1 / (number % 100), 101, LastResort("look"))
    assert [(at_s, message, told) for at_s, message, _, told in log.lines] == [
        (0, "background work failed", True),
        (60, "background work is well again", False),
        (100, "background work failed", True),
    ]


@virtual_time
async def test_what_is_raised_elsewhere_is_another_fault(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)

    def work(number: int) -> None:
        if number % 2:
            raise ValueError(number)
        raise ValueError(number)

    await turns(work, 6, LastResort("look"))
    assert [(at_s, facts["why"], told) for at_s, _, facts, told in log.lines] == [
        (0, "ValueError: 0", True),
        (1, "ValueError: 1", True),
    ]


@virtual_time
async def test_what_a_library_raises_for_two_callers_of_ours_are_two_faults(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)
    places = iter(("a.py", "b.py", "a.py", "b.py"))

    async def turn() -> None:
        name = f"{Path(supervision.__file__).parent}/{next(places)}"
        exec(compile("import json\njson.loads('no JSON')", name, "exec"))

    resort = LastResort("look")
    for _ in range(4):
        with resort.turn():
            await turn()
        await asyncio.sleep(1)
    assert [at_s for at_s, *_ in log.lines] == [0, 1]


@virtual_time
async def test_of_several_that_fail_together_the_first_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(caplog, monkeypatch)

    def work(number: int) -> None:
        raise ExceptionGroup("together", [ValueError("this"), KeyError("that")] if number else [KeyError("it")])

    await turns(work, 4, LastResort("look"))
    assert [(at_s, facts["why"]) for at_s, _, facts, _ in log.lines] == [(0, "KeyError: 'it'"), (1, "ValueError: this")]


@virtual_time
async def test_a_turn_that_hangs_before_it_fails_is_not_well(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, resort = Log(caplog, monkeypatch), LastResort("look")
    for _ in range(3):
        with resort.turn():
            await asyncio.sleep(61)
            raise TimeoutError
    assert [message for _, message, *_ in log.lines] == ["background work failed", "background work still fails"]


@virtual_time
async def test_a_turn_that_lasts_is_well(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    log, resort = Log(caplog, monkeypatch), LastResort("follow", lasting=True)
    for lasts_s in (10, 70, 10):
        with resort.turn():
            await asyncio.sleep(lasts_s)
            raise ConnectionError("lost\nat once")
    await asyncio.sleep(100)
    assert [(at_s, message, facts.get("why")) for at_s, message, facts, _ in log.lines] == [
        (10, "background work failed", "ConnectionError: lost at once"),
        (70, "background work is well again", None),
        (80, "background work failed", "ConnectionError: lost at once"),
    ]


@virtual_time
async def test_what_is_to_be_expected_needs_no_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, resort = Log(caplog, monkeypatch), LastResort("follow", expected=ConnectionError)
    for error in (ConnectionError(), ValueError()):
        with resort.turn():
            raise error
    tellings = [(facts["why"], told) for _, _, facts, told in log.lines]
    assert tellings == [("ConnectionError", False), ("ValueError", True)]


async def test_a_turn_that_is_cancelled_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(asyncio.CancelledError), LastResort("look").turn():
        raise asyncio.CancelledError
    assert caplog.records == []
