import asyncio

import pytest

from router.deadline import Deadline


class Loop:
    """A loop whose time a test moves; counts the timers it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, object, Handle]] = []
        self.armed = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> "Handle":
        self.armed += 1
        handle = Handle()
        self.timers.append((when, callback, handle))
        return handle

    def move_to(self, now: float) -> None:
        self.now = now
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _, callback, handle in due:
            if not handle.cancelled:
                callback()  # type: ignore[operator]


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def passed() -> list[float]:
    return []


@pytest.fixture
def deadline(loop: Loop, passed: list[float]) -> Deadline:
    owner: asyncio.AbstractEventLoop = loop  # type: ignore[assignment]
    return Deadline(owner, lambda: passed.append(loop.now))


def test_the_last_moment_set_counts(loop: Loop, deadline: Deadline, passed: list[float]) -> None:
    deadline.set_after(10)
    loop.move_to(4)
    deadline.set_after(10)
    loop.move_to(13.9)
    assert passed == []
    loop.move_to(14)
    assert passed == [14]
    loop.move_to(100)
    assert passed == [14]


def test_it_may_come_nearer(loop: Loop, deadline: Deadline, passed: list[float]) -> None:
    deadline.set_after(15)
    deadline.set_after(10)
    loop.move_to(10)
    assert passed == [10]
    loop.move_to(20)
    assert passed == [10]


def test_a_cleared_one_never_comes(loop: Loop, deadline: Deadline, passed: list[float]) -> None:
    deadline.set_after(10)
    deadline.clear()
    loop.move_to(20)
    assert passed == []
    deadline.set_after(5)
    loop.move_to(25)
    assert passed == [25]


def test_a_closed_one_keeps_no_timer(loop: Loop, deadline: Deadline, passed: list[float]) -> None:
    deadline.set_after(10)
    deadline.close()
    assert all(handle.cancelled for _, _, handle in loop.timers)
    loop.move_to(20)
    assert passed == []


def test_moving_it_a_thousand_times_arms_few_timers(loop: Loop, deadline: Deadline) -> None:
    for request in range(1000):
        loop.move_to(request * 0.1)
        deadline.clear()
        deadline.set_after(15)
    assert loop.armed <= 1 + 100 / 15
