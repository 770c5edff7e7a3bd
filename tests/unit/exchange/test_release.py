import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from router.engines.handoff import Handoff
from router.errors import (
    BadAnswer,
    BadHandoff,
    ConnectFailed,
    ConnectionLost,
    EngineError,
    EngineFault,
    EngineRefusal,
    RequestError,
)
from router.exchange.release import FAREWELL_S, LAST_WORDS_S, STRANDED_BY, Releases
from router.fleet.backend import Backend
from router.settings.engines import Role
from router.settings.exchange import HandoffSettings
from tests.support.builders import a_backend
from tests.support.gateway import eventually
from tests.support.legs import Stand, call, stand
from tests.support.scripted_engine import (
    Connection,
    Request,
    Script,
    ScriptedEngine,
    answer,
    chunk,
    completion,
    error,
    event,
    handover,
    says,
    says_and_waits,
    scripted_engine,
    stream,
    stream_head,
)
from tests.support.virtual_time import virtual_time

PARAMETERS = handover()["kv_transfer_params"]
RELEASE = {"model": "pd-router/release", "messages": [], "kv_transfer_params": PARAMETERS}
NOT_FOUND = answer(error(404), "404 Not Found")
PREFILLED = says(answer(handover()))


def releasing(otherwise: Script) -> Script:
    """A decode engine that turns releases down as it should, and does something else with requests."""

    async def script(connection: Connection, request: Request) -> None:
        if request.json["model"] == RELEASE["model"]:
            await connection.send(NOT_FOUND)
        else:
            await otherwise(connection, request)

    return script


def handed() -> Handoff:
    """A hand-over."""
    return Handoff(call(), PARAMETERS, unfinished_at=0, max_age_s=1e9)


def at(engine: ScriptedEngine) -> Backend:
    """A decode engine of the fleet."""
    return a_backend(Role.DECODE, int(engine.url.rsplit(":", 1)[1]))


async def leaves(made: Stand, after: Callable[[], bool], **fields: object) -> None:
    """Ask, and give up as soon as `after` holds."""
    asking = asyncio.get_running_loop().create_task(made.ask(**fields))
    await eventually(after)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@virtual_time
async def test_a_release_is_a_request_that_decode_turns_down() -> None:
    async with stand(PREFILLED, says(NOT_FOUND)) as made:
        made.releases.release(handed(), made.legs.decode, "why")
        assert made.releases.open == 1
        await made.at_rest()
        request = made.decode.requests[0]
        assert (request.path, request.json) == ("/v1/chat/completions", RELEASE)
        assert request.headers["x-request-id"] == "id-1-release"
        assert made.told.counts == {"released why": 1}


async def _resets(connection: Connection, _: Request) -> None:
    connection.rst()


@pytest.mark.parametrize(
    ("decode", "reason"),
    [
        (says(answer(completion())), "bad_answer"),
        (says(answer(error(500), "500 Internal Server Error")), "bad_answer"),
        (says(answer(error(401), "401 Unauthorized")), "bad_answer"),
        (says_and_waits(), "timeout"),
        (_resets, "connection_lost"),
        (says(b"not http\r\n"), "bad_answer"),
    ],
    ids=["200", "500", "401", "silent", "reset", "not http"],
)
def test_what_could_not_be_given_back_is_counted(decode: Script, reason: str) -> None:
    @virtual_time
    async def run() -> None:
        async with stand(PREFILLED, decode) as made:
            made.releases.release(handed(), made.legs.decode, "why")
            await made.at_rest()
            assert made.told.counts == {f"stranded {reason}": 1}

    run()


@virtual_time
async def test_a_release_whose_connection_breaks_is_tried_again() -> None:
    async def once(connection: Connection, request: Request) -> None:
        await (_resets if len(made.decode.requests) == 1 else says(NOT_FOUND))(connection, request)

    async with stand(PREFILLED, once) as made:
        made.releases.release(handed(), made.legs.decode, "why")
        await made.at_rest()
        assert made.told.counts == {"released why": 1}


@virtual_time
async def test_releases_are_bounded() -> None:
    async with stand(PREFILLED, says(NOT_FOUND), handoff=HandoffSettings(max_releases=2)) as made:
        for _ in range(3):
            made.releases.release(handed(), made.legs.decode, "why")
        await made.at_rest()
        assert made.told.counts == {"released why": 2, "stranded too_many_releases": 1}


async def _nothing(_: Handoff) -> None:
    return


async def _fails(_: Handoff) -> None:
    raise ConnectFailed("no")


async def _is_cancelled(_: Handoff) -> None:
    raise asyncio.CancelledError


async def _is_sent(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)


async def _is_sent_and_refused(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    raise EngineRefusal(400, b"")


async def _is_sent_and_failed(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    raise EngineError("d:1 answered 503")


async def _is_sent_and_answered_badly(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    raise BadAnswer("d:1: half an answer")


async def _is_sent_and_answered_with_nothing(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    fault = BadAnswer("d:1: a stream without an event")
    fault.over = True
    raise fault


async def _is_sent_and_lost(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    raise ConnectionLost("d:1: connection lost")


async def _is_sent_and_cancelled(handoff: Handoff) -> None:
    handoff.spend(handoff.call, 0)
    raise asyncio.CancelledError


async def _is_given_back(handoff: Handoff) -> None:
    handoff.surrender()


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (_nothing, "released unused"),
        (_fails, "released upstream_error"),
        (_is_cancelled, "released client_gone"),
        (_is_sent_and_refused, "released decode_refused"),
        (_is_sent_and_failed, "released decode_failed"),
        (_is_sent_and_answered_badly, "stranded bad_answer"),
        (_is_sent_and_answered_with_nothing, "released decode_failed"),
        (_is_sent_and_lost, "stranded connection_lost"),
        (_is_sent, None),
        (_is_sent_and_cancelled, None),
        (_is_given_back, None),
    ],
)
def test_custody_ends_with_a_release_unless_decode_may_be_pulling(
    block: Callable[[Handoff], Awaitable[None]], told: str | None
) -> None:
    @virtual_time
    async def run() -> None:
        async with stand(PREFILLED, says(NOT_FOUND)) as made:
            handoff = handed()
            try:
                with made.releases.unless_used(handoff, made.legs.decode):
                    await block(handoff)
            except (RequestError, asyncio.CancelledError):
                pass
            await made.at_rest()
            assert made.told.counts == ({told: 1} if told else {})

    run()


@virtual_time
async def test_nothing_in_custody_is_nothing_to_release() -> None:
    async with stand(PREFILLED, says(NOT_FOUND)) as made:
        with made.releases.unless_used(None, made.legs.decode):
            pass
        assert made.releases.open == 0


@virtual_time
async def test_a_refusal_of_decode_gives_the_hand_over_back() -> None:
    async with stand(PREFILLED, releasing(says(answer(error(400), "400 Bad Request")))) as made:
        with pytest.raises(EngineRefusal):
            await made.ask()
        await made.at_rest()
        assert made.decode.bodies[-1] == RELEASE
        assert made.told.counts == {"released decode_refused": 1}


@pytest.mark.parametrize(("decode", "streams"), [(says(answer(completion())), False), (says(stream("a")), True)])
def test_an_answer_of_decode_leaves_nothing_to_give_back(decode: Script, streams: bool) -> None:
    @virtual_time
    async def run() -> None:
        async with stand(PREFILLED, releasing(decode)) as made:
            await made.ask(stream=streams)
            await made.at_rest()
            assert len(made.decode.requests) == 1
            assert not made.told.counts

    run()


@virtual_time
async def test_a_decode_engine_that_cannot_be_reached_any_more_was_not_sent_the_hand_over() -> None:
    ready = asyncio.Event()

    async def prefill(connection: Connection, _: Request) -> None:
        await ready.wait()
        await connection.send(answer(handover()))

    async with stand(prefill, releasing(says(answer(completion())))) as made:
        pool = made.connections.to(made.decode.url)
        asking = asyncio.get_running_loop().create_task(made.ask())
        await eventually(lambda: bool(made.prefill.requests))
        next(iter(pool._open)).abort()
        port, pool._port = pool._port, 1
        ready.set()
        with pytest.raises(ConnectFailed):
            await asking
        pool._port = port
        await made.at_rest()
        assert made.decode.bodies == [RELEASE]
        assert made.told.counts == {"released upstream_error": 1}


@virtual_time
async def test_a_prefill_leg_that_was_given_up_is_waited_for_just_long_enough_to_release_it() -> None:
    async def prefill(connection: Connection, _: Request) -> None:
        await asyncio.sleep(0.05)
        await connection.send(answer(handover()))

    async with stand(prefill, releasing(says(answer(completion())))) as made:
        await leaves(made, lambda: bool(made.prefill.requests))
        await made.at_rest()
        assert made.decode.bodies == [RELEASE]
        assert made.told.counts == {"released prefill_given_up": 1}


@virtual_time
async def test_a_long_prefill_that_was_given_up_is_aborted() -> None:
    async with stand(says_and_waits(), releasing(says(answer(completion())))) as made:
        await leaves(made, lambda: bool(made.prefill.requests))
        began = asyncio.get_running_loop().time()
        await eventually(lambda: not made.prefill.open)
        assert asyncio.get_running_loop().time() - began == pytest.approx(FAREWELL_S, abs=0.02)
        await made.at_rest()
        assert not made.told.counts


@virtual_time
async def test_an_answer_that_crosses_with_the_farewell_counts() -> None:
    async def prefill(connection: Connection, _: Request) -> None:
        await connection.gone()
        await connection.send(answer(handover()))
        connection.fin()

    async with stand(prefill, releasing(says(answer(completion())))) as made:
        await leaves(made, lambda: bool(made.prefill.requests))
        await made.at_rest()
        assert made.told.counts == {"released prefill_given_up": 1}


@virtual_time
async def test_an_engine_that_does_not_hear_the_farewell_is_left() -> None:
    async def prefill(connection: Connection, _: Request) -> None:
        await connection.gone()
        await asyncio.sleep(10)

    async with stand(prefill, releasing(says(answer(completion())))) as made:
        await leaves(made, lambda: bool(made.prefill.requests))
        began = asyncio.get_running_loop().time()
        await eventually(lambda: not made.releases.open, within_s=10)
        assert asyncio.get_running_loop().time() - began == pytest.approx(FAREWELL_S + LAST_WORDS_S, abs=0.02)
        assert not made.told.counts


@virtual_time
async def test_a_decode_leg_that_was_given_up_stays_until_decode_has_certainly_taken_it() -> None:
    async def decode(connection: Connection, _: Request) -> None:
        await asyncio.sleep(0.05)
        await connection.send(stream_head() + chunk(event("a")))
        await connection.gone()

    async with stand(PREFILLED, decode) as made:
        began = asyncio.get_running_loop().time()
        await leaves(made, lambda: bool(made.decode.requests), stream=True)
        assert made.decode.open == 1
        await made.at_rest()
        assert asyncio.get_running_loop().time() - began < FAREWELL_S
        assert (made.decode.open, made.told.counts) == (0, {})


@pytest.mark.parametrize(("decode_failed", "asked"), [(False, [0, 1]), (True, [1])])
def test_another_engine_gives_back_what_one_cannot(decode_failed: bool, asked: list[int]) -> None:
    @virtual_time
    async def run() -> None:
        async with (
            stand(PREFILLED, says(answer(error(503), "503 Busy"))) as made,
            scripted_engine(says(NOT_FOUND)) as well,
        ):
            releases = Releases(made.connections, HandoffSettings(), made.told, lambda _: [at(well)])
            releases.release(handed(), made.legs.decode, "why", decode_failed=decode_failed)
            await eventually(lambda: not releases.open)
            assert [number for number, engine in enumerate((made.decode, well)) if engine.requests] == asked
            assert made.told.counts == {"released why": 1}

    run()


@pytest.mark.parametrize(
    "block", [_fails, _is_sent_and_failed, _is_sent_and_answered_with_nothing], ids=["unsent", "error", "nothing"]
)
def test_a_decode_engine_that_has_just_failed_is_not_the_first_to_be_asked(
    block: Callable[[Handoff], Awaitable[None]],
) -> None:
    @virtual_time
    async def run() -> None:
        async with stand(PREFILLED, says(NOT_FOUND)) as made, scripted_engine(says(NOT_FOUND)) as well:
            releases = Releases(made.connections, HandoffSettings(), made.told, lambda _: [at(well)])
            handoff = handed()
            with pytest.raises(EngineFault), releases.unless_used(handoff, made.legs.decode):
                await block(handoff)
            await eventually(lambda: not releases.open)
            assert (made.decode.requests, well.bodies) == ([], [RELEASE])

    run()


@pytest.mark.parametrize(("silent", "after_s"), [(0, 0), (1, 2), (2, 4), (3, 6)])
def test_an_engine_that_is_silent_leaves_the_others_their_share_of_the_time(silent: int, after_s: float) -> None:
    @virtual_time
    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as held:
            made = await held.enter_async_context(stand(PREFILLED, says_and_waits() if silent else says(NOT_FOUND)))
            scripts = [says_and_waits() if number < silent else says(NOT_FOUND) for number in (1, 2)]
            others = [at(await held.enter_async_context(scripted_engine(script))) for script in scripts]
            releases = Releases(made.connections, HandoffSettings(release_timeout_s=6), made.told, lambda _: others)
            began = loop.time()
            releases.release(handed(), made.legs.decode, "why")
            await eventually(lambda: not releases.open, within_s=10)
            assert loop.time() - began == pytest.approx(after_s, abs=0.1)
            assert made.told.counts == {"stranded timeout" if silent == 3 else "released why": 1}

    run()


@virtual_time
async def test_what_no_engine_gives_back_is_stranded() -> None:
    async with stand(PREFILLED, says(answer(error(503), "503 Busy"))) as made:
        releases = Releases(made.connections, HandoffSettings(), made.told, lambda engine: [engine])
        releases.release(handed(), made.legs.decode, "client_gone")
        await eventually(lambda: not releases.open)
        assert len(made.decode.requests) == 2
        assert made.told.counts == {"stranded bad_answer": 1}


def kinds(of: type[EngineFault]) -> set[type[EngineFault]]:
    """All sorts of a fault, itself left out."""
    return {kind for child in of.__subclasses__() for kind in (child, *kinds(child))}


@virtual_time
async def test_every_reason_for_which_kv_is_stranded_is_known_beforehand() -> None:
    async with stand(PREFILLED, says(NOT_FOUND)) as made:
        releases = Releases(made.connections, HandoffSettings(max_releases=1), made.told)
        for kind in kinds(EngineFault) - {BadHandoff}:  # which is found out before it is sent
            handoff = handed()
            handoff.spend(handoff.call, 0.0)
            with pytest.raises(kind), releases.unless_used(handoff, made.legs.decode):
                raise kind("sent in vain")
        await eventually(lambda: not releases.open)
    stranded = {told.removeprefix("stranded ") for told in made.told.counts if told.startswith("stranded ")}
    assert stranded == set(STRANDED_BY)
