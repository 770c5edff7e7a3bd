import asyncio
from collections import deque
from collections.abc import Sequence
from typing import cast

import pytest

from router.admission.line import Line, Place
from router.errors import Unavailable
from router.settings.admission import Admission
from router.settings.engines import Role
from tests.support.virtual_time import virtual_time

M, D = "m", Role.DECODE


def a_line(**rules: float) -> Line:
    """A line on the running loop's clock."""
    return Line(Admission(**rules), asyncio.get_running_loop().time)


def now() -> float:
    return asyncio.get_running_loop().time()


async def stand(line: Line, names: Sequence[str], served: list[str], wait_s: float = 10) -> list[asyncio.Task[None]]:
    """Tasks in line, in the order of their names, that note when they are served or turned away."""

    async def one(name: str) -> None:
        try:
            await line.wait(M, D, now() + wait_s)
        except Unavailable:
            served.append(f"-{name}")
        else:
            served.append(name)

    tasks = [asyncio.get_running_loop().create_task(one(name)) for name in names]
    await asyncio.sleep(0)
    return tasks


@virtual_time
async def test_first_come_first_served() -> None:
    line, served = a_line(), list[str]()
    tasks = await stand(line, "abc", served)
    assert (line.depth(D), line.depth(Role.PREFILL), line.before(M, [Role.PREFILL, D])) == (3, 0, D)
    assert (line.depth(D, M), line.depth(D, "another model")) == (3, 0)
    for _ in "abc":
        line.freed([M], D)
    await asyncio.wait(tasks)
    assert served == ["a", "b", "c"]
    assert (line.depth(D), line.before(M, [D])) == (0, None)


@virtual_time
async def test_one_place_wakes_one() -> None:
    line, served = a_line(), list[str]()
    tasks = await stand(line, "ab", served)
    line.freed([M], D)
    await asyncio.sleep(0.1)
    assert served == ["a"]
    line.call_next(M, D)
    await asyncio.wait(tasks)
    assert served == ["a", "b"]


@virtual_time
async def test_another_model_or_pool_is_another_line() -> None:
    line, served = a_line(), list[str]()
    tasks = await stand(line, "a", served)
    line.freed(["other"], D)
    line.freed([M], Role.PREFILL)
    await asyncio.sleep(0.1)
    assert served == []
    line.freed(["other", M], D)
    await asyncio.wait(tasks)


@virtual_time
async def test_nobody_waits_longer_than_he_would() -> None:
    line, served = a_line(), list[str]()
    began = now()
    await asyncio.wait(await stand(line, "a", served, wait_s=3))
    assert now() - began == pytest.approx(3)
    assert (served, line.before(M, [D])) == (["-a"], None)


@virtual_time
async def test_a_full_line_takes_nobody() -> None:
    line, served = a_line(queue_size=2), list[str]()
    tasks = await stand(line, "abc", served)
    assert served == ["-c"]
    for _ in "ab":
        line.freed([M], D)
    await asyncio.wait(tasks)


@virtual_time
async def test_without_a_line_there_is_no_wait() -> None:
    line, served = a_line(queue_size=0), list[str]()
    await stand(line, "a", served)
    assert (served, line.before(M, [D])) == (["-a"], None)


@virtual_time
async def test_who_would_wait_in_vain_is_told_so_at_once_and_when_to_come_back() -> None:
    line, served = a_line(), list[str]()
    for _ in range(6):  # one a second gets free
        line.freed([M], D)
        await asyncio.sleep(1)
    tasks = await stand(line, [str(i) for i in range(12)], served, wait_s=5)
    assert served == [f"-{i}" for i in range(3, 12)], "the fourth may well have to wait for 4 + sqrt(3) places"
    assert line.refusal(D).retry_after_s == 4
    assert line.refusal(D).code == "decode_saturated"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@virtual_time
async def test_who_had_a_turn_in_vain_is_before_who_came_when_he_did() -> None:
    line, served = a_line(), list[str]()
    tasks = await stand(line, "b", served)

    async def again() -> None:
        await line.wait(M, D, now() + 10, again=True)
        served.append("a")

    tasks.append(asyncio.get_running_loop().create_task(again()))
    await asyncio.sleep(0)
    for _ in "ab":
        line.freed([M], D)
    await asyncio.wait(tasks)
    assert served == ["a", "b"]


async def came(line: Line, name: str, at_s: int, served: list[str], *, turns: Sequence[bool]) -> asyncio.Task[None]:
    """A task that came at some second and is in line for a turn, anew or again; it notes when it has had all."""
    by = now() + 100 + at_s

    async def one() -> None:
        for again in turns:
            await line.wait(M, D, by, again=again)
        served.append(name)

    task = asyncio.get_running_loop().create_task(one())
    await asyncio.sleep(0)
    return task


@virtual_time
async def test_who_comes_from_another_line_stands_where_he_would_have_stood_in_this_one() -> None:
    line, served = a_line(), list[str]()
    tasks = [await came(line, name, at_s, served, turns=[False]) for name, at_s in (("b", 2), ("d", 4))]
    others = (("a", 1), ("c", 3), ("e", 5))
    tasks += [await came(line, name, at_s, served, turns=[True]) for name, at_s in others]
    for _ in tasks:
        line.call_next(M, D)
    await asyncio.wait(tasks)
    assert served == ["a", "b", "c", "d", "e"]


@virtual_time
async def test_two_that_have_a_turn_in_vain_at_once_stay_in_their_order() -> None:
    line, served = a_line(), list[str]()
    tasks = [await came(line, name, at_s, served, turns=[False, True]) for name, at_s in (("a", 1), ("b", 2))]
    for _ in ("in vain", "of use"):
        for _ in tasks:
            line.call_next(M, D)
        await asyncio.sleep(0.1)
    assert served == ["a", "b"]
    await asyncio.wait(tasks)


@virtual_time
async def test_who_leaves_makes_room_and_passes_his_turn_on() -> None:
    line, served = a_line(), list[str]()
    first, second, third = await stand(line, "abc", served)
    second.cancel()
    await asyncio.sleep(0)
    assert line.depth(D) == 2
    line.freed([M], D)
    first.cancel()  # in the same round as his turn came
    await asyncio.wait([first, second, third])
    assert served == ["c"]
    assert repr(line) == "<Line 0 waiting>"


@virtual_time
async def test_a_turn_that_comes_as_the_time_is_over_is_passed_on() -> None:
    line, served = a_line(), list[str]()
    asyncio.get_running_loop().call_at(now() + 3, line.freed, [M], D)  # armed before the first one's own timer
    first = await stand(line, "a", served, wait_s=3)
    second = await stand(line, "b", served, wait_s=10)
    await asyncio.wait([*first, *second])
    assert served == ["-a", "b"]


def test_come_back_is_never_sooner_than_in_a_second_nor_later_than_in_a_minute() -> None:
    clock = [0.0]
    line = Line(Admission(), lambda: clock[0])
    assert line.refusal(D).retry_after_s == 1
    for clock[0] in (0.0, 9.0):
        line.freed([M], D)
    line._lines[M, D] = deque([cast("Place", None)] * 500)
    assert line.refusal(D).retry_after_s == 60


@virtual_time
async def test_all_lines_of_a_model_are_told() -> None:
    line, woken = a_line(), list[str]()

    async def wait(model: str, pool: Role) -> None:
        await line.wait(model, pool, now() + 10)
        woken.append(f"{model} {pool}")

    places = [("m", Role.DECODE), ("m", Role.PREFILL), ("n", Role.DECODE)]
    tasks = [asyncio.get_running_loop().create_task(wait(*place)) for place in places]
    await asyncio.sleep(0)
    line.call_all_next("m")
    await asyncio.sleep(1)
    assert woken == ["m decode", "m prefill"]
    line.call_first(["n"], D)
    await asyncio.wait(tasks)


@virtual_time
async def test_while_nothing_is_known_of_the_pace_a_short_wait_is_worth_a_try() -> None:
    line, served = a_line(), list[str]()
    tasks = await stand(line, "a", served, wait_s=0.5)
    assert (line.depth(D), repr(line)) == (1, "<Line 1 waiting>")
    line.freed([M], D)
    await asyncio.wait(tasks)
    assert served == ["a"]


def test_what_is_said_to_who_cannot_wait_names_the_pool() -> None:
    assert str(Line(Admission(), lambda: 0.0).refusal(D)) == "no decode engine is free"


@virtual_time
async def test_who_lines_up_behind_one_that_is_just_leaving_hears_of_room() -> None:
    line, served = a_line(), list[str]()
    (first,) = await stand(line, "a", served)
    second = asyncio.get_running_loop().create_task(line.wait(M, D, now() + 10))
    first.cancel()
    line.freed([M], D)  # the first is leaving, the second not in line yet
    await asyncio.wait([first, second], timeout=1)
    assert second.done()
