"""Whole fleets in every shape: who serves when who is missing, full, broken or speaks nonsense."""

import asyncio
from typing import Any

import pytest

from router.admission.permits import FULL_S
from router.call import Api
from router.settings.engines import Role
from router.sim.engine import SimEngine
from router.sim.faults import Fault
from router.sim.spoiled import VARIANTS
from tests.support.client import Reply, Verdict, ask, asker, judge, request
from tests.support.fleet import Site, engine, site, until

MODEL = "sim-8b"
LIVELY = {"interval_s": 0.05, "down_interval_s": 0.05, "down_after": 2}
CALM = {"interval_s": 3600}

streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def chat(words: int = 100, *, model: str = MODEL, **fields: Any) -> dict[str, Any]:
    """A request with a prompt of so many tokens and some for the template."""
    text = "".join(f"{number:3} " for number in range(words))
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 20} | fields


async def right(here: Site, body: dict[str, Any]) -> None:
    """The gateway answers `body` with the right text."""
    assert judge(await ask(here.url, body), body) is Verdict.RIGHT


async def routed(here: Site) -> dict[str, float]:
    """Requests by the route they went in the end."""
    routes = ("disaggregated", "local", "aggregated", "none")
    counts = {route: await here.metric("pd_router_requests_total", route=route) for route in routes}
    return {route: count for route, count in counts.items() if count}


async def fell_back(here: Site, reason: str) -> float:
    """Requests whose hand-over failed for this reason."""
    return await here.metric("pd_router_fallback_total", reason=reason)


def refused(reply: Reply, status: int, *, retry: bool = False) -> None:
    """A JSON error of this status; with `retry` it says when to come back."""
    assert judge(reply, {}) is Verdict.REFUSED
    assert reply.status == status
    assert ("retry-after" in reply.headers) is retry


# Shapes of fleets


@streamed_or_not
async def test_aggregated_engines_only(stream: bool) -> None:
    async with site(engine("aggregated"), engine("aggregated")) as here:
        for _ in range(4):
            await right(here, chat(stream=stream))
        assert await routed(here) == {"aggregated": 4}


@streamed_or_not
async def test_a_pair_hands_over(stream: bool) -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        await right(here, chat(stream=stream))
        assert await routed(here) == {"disaggregated": 1}
        assert (prefill.ledger.totals.issued, prefill.ledger.totals.pulled) == (1, 1)
        assert decode.core.counters.local_compute_tokens == 0


async def test_decode_engines_alone_serve() -> None:
    async with site(engine("decode")) as here:
        await right(here, chat())
        assert await routed(here) == {"local": 1}


async def test_several_models_go_to_their_own_engines() -> None:
    pairs = {name: (engine("prefill", model=name), engine("decode", model=name)) for name in ("a", "b")}
    async with site(*pairs["a"], *pairs["b"]) as here:
        for name in ("a", "b", "b"):
            await right(here, chat(model=name, stream=True))
        refused(await ask(here.url, chat(model="c")), 404)
        issued = {name: prefill.ledger.totals.issued for name, (prefill, _) in pairs.items()}
        assert issued == {"a": 1, "b": 2}
        assert {name: decode.ledger.totals.completed for name, (_, decode) in pairs.items()} == issued
        assert sum(one.ledger.totals.refused for pair in pairs.values() for one in pair) == 0


# Rules of routing


async def test_mode_local_never_prefills_elsewhere() -> None:
    prefill = engine("prefill")
    async with site(prefill, engine("decode"), routing={"mode": "local"}) as here:
        await right(here, chat(5000))
        assert await routed(here) == {"local": 1}
        assert prefill.ledger.totals.requests == 0


async def test_mode_disaggregated_has_no_thresholds() -> None:
    rules = {"mode": "disaggregated", "min_novel_tokens": 10_000, "min_concurrency": 100}
    async with site(engine("prefill"), engine("decode"), routing=rules) as here:
        await right(here, chat(5))
        assert await routed(here) == {"disaggregated": 1}


async def test_mode_auto_keeps_short_prompts_on_decode() -> None:
    async with site(engine("prefill"), engine("decode"), routing={"min_novel_tokens": 100}) as here:
        await right(here, chat(90))
        await right(here, chat(100))
        assert await routed(here) == {"local": 1, "disaggregated": 1}
        assert await here.metric("pd_router_decisions_total", reason="short_prompt") == 1


async def test_mode_auto_looks_at_concurrency_unless_the_prompt_is_long() -> None:
    rules = {"min_concurrency": 1, "long_prompt_tokens": 1000}
    decode = engine("decode", time_scale=1.0, decode_step_s=0.005)
    async with site(engine("prefill"), decode, routing=rules) as here:
        await right(here, chat(100))
        assert await here.metric("pd_router_decisions_total", reason="low_concurrency") == 1
        await right(here, chat(1000))
        async with asker(here.url) as first:
            first.send(request(Api.CHAT, chat(100, stream=True)))
            await first.read()
            await right(here, chat(100))
            await first.read_all()
        assert await routed(here) == {"local": 2, "disaggregated": 2}


async def test_one_token_needs_no_hand_over() -> None:
    async with site(engine("prefill"), engine("decode")) as here:
        await right(here, chat(max_tokens=1))
        assert await here.metric("pd_router_decisions_total", reason="single_token") == 1


# Engines that are gone or full


@streamed_or_not
async def test_without_prefill_decode_computes_the_prompt(stream: bool) -> None:
    prefill = engine("prefill")
    async with site(prefill, engine("decode"), probes=LIVELY) as here:
        await prefill.kill()
        await here.state_of(prefill, "down")
        await right(here, chat(stream=stream))
        assert await here.metric("pd_router_decisions_total", reason="prefill_unavailable") == 1


async def test_a_prefill_engine_that_has_just_gone_costs_its_request_nothing() -> None:
    prefill = engine("prefill")
    async with site(prefill, engine("decode"), probes=CALM) as here:
        await prefill.kill()
        await right(here, chat())
        assert await fell_back(here, "connect_failed") == 1


async def test_where_decode_must_not_prefill_the_client_is_told() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, probes=LIVELY, routing={"on_prefill_unavailable": "fail"}) as here:
        prefill.faults.add(Fault("status", status=500, count=1))
        refused(await ask(here.url, chat()), 502)
        await prefill.kill()
        await here.state_of(prefill, "down")
        refused(await ask(here.url, chat()), 503, retry=True)
        assert decode.ledger.totals.requests == 0


async def test_without_decode_nothing_is_prefilled() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, probes=LIVELY) as here:
        await decode.kill()
        await here.state_of(decode, "down")
        refused(await ask(here.url, chat()), 503, retry=True)
        assert prefill.ledger.totals.requests == 0


async def test_a_decode_engine_that_has_just_gone_wastes_no_prefill() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, probes=CALM) as here:
        await decode.kill()
        refused(await ask(here.url, chat()), 502)
        assert prefill.ledger.totals.requests == 0


FULL = {"decode_permits": 1}


@pytest.mark.parametrize("roles", [("prefill", "decode"), ("aggregated",)], ids=["pair", "aggregated"])
async def test_who_finds_no_room_waits_for_his_turn(roles: tuple[str, ...]) -> None:
    engines = [engine(role, time_scale=1.0, decode_step_s=0.01) for role in roles]
    body = chat(stream=True)
    async with site(*engines, admission=FULL) as here, asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(here.url, body)) for _ in range(8)]
        await until(lambda: here.app.line.depth(Role.DECODE) == 7, "seven to wait")
        assert here.held().keys() <= {"requests", "tokens", "permits", "connections"}
        assert here.held()["permits"] <= len(roles), "only one request holds anything"
        assert {judge(await one, body) for one in asked} == {Verdict.RIGHT}
        assert here.app.line.depth(Role.DECODE) == 0
        assert await here.metric("pd_router_queue_seconds_count") == 7
        assert engines[-1].ledger.totals.requests == 8


async def test_who_leaves_the_line_costs_the_others_nothing() -> None:
    prefill, decode = engine("prefill"), engine("decode", time_scale=1.0, decode_step_s=0.01)
    body = chat(stream=True)
    async with site(prefill, decode, admission=FULL) as here, asker(here.url) as first:
        first.send(request(Api.CHAT, body))
        await first.read()
        async with asker(here.url) as second, asyncio.TaskGroup() as group:
            second.send(request(Api.CHAT, body))
            await until(lambda: here.app.line.depth(Role.DECODE) == 1, "the second to wait")
            third = group.create_task(ask(here.url, body))
            await until(lambda: here.app.line.depth(Role.DECODE) == 2, "the third to wait")
            second.reset()
            await until(lambda: here.app.line.depth(Role.DECODE) == 1, "the second to leave", within_s=0.2)
            assert judge(await third, body) is Verdict.RIGHT
        assert judge(await first.read_all(), body) is Verdict.RIGHT
        assert decode.ledger.totals.requests == 2


async def test_who_waits_for_an_engine_that_goes_is_told() -> None:
    prefill, decode = engine("prefill", lease_s=0.5), engine("decode", time_scale=1.0, decode_step_s=0.05)
    body = chat(stream=True)
    async with site(prefill, decode, admission=FULL, probes=LIVELY) as here, asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(here.url, body)) for _ in range(3)]
        await until(lambda: here.app.line.depth(Role.DECODE) == 2, "two to wait")
        await decode.kill()
        verdicts = [judge(await one, body) for one in asked]
        assert verdicts.count(Verdict.REFUSED) >= 2
        assert here.app.line.depth(Role.DECODE) == 0


@pytest.mark.parametrize("change", ["drain", "remove"])
async def test_who_waits_for_an_engine_that_an_operator_takes_out_is_told(change: str) -> None:
    decode = engine("decode", time_scale=1.0, decode_step_s=0.05)
    body = chat(stream=True)
    async with site(decode, admission=FULL) as here, asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(here.url, body)) for _ in range(4)]
        await until(lambda: here.app.line.depth(Role.DECODE) == 3, "three to wait")
        backend_id = decode.url.removeprefix("http://")
        if change == "drain":
            here.app.membership.drain(backend_id, drained=True)
        else:
            here.app.membership.remove(backend_id)
        await until(lambda: here.app.line.depth(Role.DECODE) == 0, "all to be told", within_s=0.5)
        verdicts = [judge(await one, body) for one in asked]
        assert (verdicts.count(Verdict.RIGHT), verdicts.count(Verdict.REFUSED)) == (1, 3)


async def test_a_full_decode_pool_says_when_to_come_back() -> None:
    prefill, decode = engine("prefill"), engine("decode", time_scale=1.0, decode_step_s=0.01)
    body = chat(stream=True)
    async with site(prefill, decode, admission=FULL | {"queue_size": 0}) as here:
        async with asker(here.url) as first:
            first.send(request(Api.CHAT, body))
            await first.read()
            refused(await ask(here.url, chat()), 503, retry=True)
            assert prefill.ledger.totals.requests == 1
            assert judge(await first.read_all(), body) is Verdict.RIGHT
        await right(here, body)


async def test_a_full_prefill_pool_leaves_prompts_to_decode() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    prefill.faults.add(Fault("delay", delay_s=0.3, count=1))
    body = chat()
    async with site(prefill, decode, admission={"prefill_permits": 1}) as here, asker(here.url) as first:
        first.send(request(Api.CHAT, body))
        await here.busy(prefill)
        await right(here, chat(50))
        assert await routed(here) == {"local": 1}
        assert judge(await first.read_all(), body) is Verdict.RIGHT


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_an_engine_that_restarts_serves_again_under_its_new_id(role: str) -> None:
    prefill, decode = engine("prefill"), engine("decode")
    restarted = prefill if role == "prefill" else decode
    async with site(prefill, decode, probes=LIVELY) as here:
        await right(here, chat())
        before = restarted.core.engine_id
        await restarted.kill()
        await here.state_of(restarted, "down")
        await restarted.start(port=int(restarted.url.rsplit(":", 1)[1]))
        await here.state_of(restarted, "up")
        assert restarted.core.engine_id != before
        for words in (100, 150):
            await right(here, chat(words, stream=True))
        assert await routed(here) == {"disaggregated": 3}
        assert prefill.ledger.totals.pulled == 3


async def test_a_restart_between_two_probes_is_not_a_failure() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode, probes=CALM) as here:
        await right(here, chat())
        for one in (prefill, decode):
            await one.restart()
        await right(here, chat(150))
        assert await routed(here) == {"disaggregated": 2}


# Prefill engines that break their side


@streamed_or_not
async def test_prefill_that_fails_leaves_the_prompt_to_decode(stream: bool) -> None:
    faults = [
        (Fault("status", status=500, count=1), "engine_error"),
        (Fault("reset", count=1), "connection_lost"),
        (Fault("hang", count=1), "timeout"),
        (Fault("empty_200", count=1), "bad_answer"),
        (Fault("wrong_content_type", count=1), "bad_answer"),
        (Fault("status", status=503, count=1), "engine_error"),
    ]
    prefill = engine("prefill")
    async with site(prefill, engine("decode"), timeouts={"prefill_timeout_s": 0.2}) as here:
        for number, (fault, reason) in enumerate(faults):
            before = await fell_back(here, reason)
            prefill.faults.add(fault)
            await right(here, chat(60 + 20 * number, stream=stream))
            assert await fell_back(here, reason) == before + 1, fault
        await right(here, chat(stream=stream))  # an engine that said 503 has no room for a moment
        await asyncio.sleep(FULL_S)
        await right(here, chat(stream=stream))
        assert await routed(here) == {"local": len(faults) + 1, "disaggregated": 1}


WELL_FORMED = ("fewer_blocks", "stale_engine_id")
"""Only engines can tell: how many tokens fill a block is their affair, and a new id is what a restart looks like."""


@pytest.mark.parametrize("variant", ["missing", *(variant for variant in VARIANTS if variant not in WELL_FORMED)])
async def test_a_hand_over_that_would_harm_decode_is_not_sent_on(variant: str) -> None:
    prefill, decode = engine("prefill", lease_s=0.5), engine("decode")
    async with site(prefill, decode) as here:
        await right(here, chat(50))
        kind: Any = "missing_params" if variant == "missing" else "malformed_params"
        prefill.faults.add(Fault(kind, count=1, variant=variant))
        await right(here, chat(100))
        assert await fell_back(here, "bad_handoff") == 1
        await right(here, chat(150))
        assert await routed(here) == {"local": 1, "disaggregated": 2}
        assert (decode.ledger.totals.deaths, decode.ledger.totals.failed, decode.ledger.totals.failed_pulls) == (0,) * 3


@streamed_or_not
async def test_a_hand_over_of_an_engine_that_is_no_more_costs_the_client_nothing(stream: bool) -> None:
    prefill, decode = engine("prefill", lease_s=0.5), engine("decode")
    prefill.faults.add(Fault("malformed_params", count=1, variant="stale_engine_id"))
    async with site(prefill, decode) as here:
        await right(here, chat(stream=stream))
        assert decode.ledger.totals.failed_pulls == 1
        assert await here.metric("pd_router_retries_total", pool="decode") == 1


@streamed_or_not
async def test_a_hand_over_that_got_too_old_is_given_back(stream: bool) -> None:
    prefill, decode = engine("prefill"), engine("decode")
    prefill.faults.add(Fault("late_answer", delay_s=0.3, count=1))
    async with site(prefill, decode, probes=CALM, handoff={"handoff_max_age_s": 0.1}) as here:
        await right(here, chat(stream=stream))
        assert await fell_back(here, "over_age") == 1
        await here.quiet()
        assert (prefill.ledger.totals.pulled, prefill.ledger.totals.released) == (0, 1)


async def test_a_refusal_by_prefill_is_the_answer() -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        refused(await ask(here.url, chat(temperature="hot")), 400)
        assert (prefill.ledger.totals.refused, decode.ledger.totals.requests) == (1, 0)


# Decode engines that break their side


@streamed_or_not
async def test_a_refusal_by_decode_is_the_answer_and_frees_the_blocks(stream: bool) -> None:
    prefill, decode = engine("prefill"), engine("decode")
    async with site(prefill, decode) as here:
        reply = await ask(here.url, chat(max_tokens=10_000_000, stream=stream))
        refused(reply, 400)
        assert b"maximum context length" in reply.body
        await here.quiet()
        assert (prefill.ledger.totals.issued, prefill.ledger.totals.expired) == (1, 0)


BEFORE_THE_FIRST_EVENT = [
    Fault("first_event_error", count=1),
    Fault("empty_200", count=1),
    Fault("wrong_content_type", count=1),
    Fault("status", status=500, count=1),
    Fault("status", status=503, count=1),
    Fault("status", status=401, count=1),
    Fault("reset", count=1),
    Fault("die_after_tokens", tokens=0, count=1),
    Fault("truncate", tokens=0, count=1),
]


@pytest.mark.parametrize("fleet", ["pair", "aggregated"])
@streamed_or_not
async def test_a_failure_before_the_first_event_is_tried_again(fleet: str, stream: bool) -> None:
    engines = _fleet(fleet)
    async with site(*engines, retries={"reserve": 99}) as here:
        for fault in BEFORE_THE_FIRST_EVENT:
            body = {"model": MODEL, "prompt": f"After {fault} " * 20, "max_tokens": 20, "stream": stream}
            engines[-1].faults.add(fault)
            reply = await ask(here.url, body, Api.COMPLETIONS)
            assert (fault, judge(reply, body, Api.COMPLETIONS)) == (fault, Verdict.RIGHT)
        assert await here.metric("pd_router_retries_total") == len(BEFORE_THE_FIRST_EVENT)


@pytest.mark.parametrize("fleet", ["pair", "aggregated"])
@streamed_or_not
async def test_a_failure_before_the_first_event_has_a_status(fleet: str, stream: bool) -> None:
    engines = _fleet(fleet)
    async with site(*engines, retries={"decode_tries": 1}) as here:
        for fault in BEFORE_THE_FIRST_EVENT:
            body = {"model": MODEL, "prompt": f"After {fault} " * 20, "max_tokens": 20, "stream": stream}
            engines[-1].faults.add(fault)
            reply = await ask(here.url, body, Api.COMPLETIONS)
            assert (fault, reply.status, judge(reply, body, Api.COMPLETIONS)) == (fault, 502, Verdict.REFUSED)
            assert judge(await ask(here.url, body, Api.COMPLETIONS), body, Api.COMPLETIONS) is Verdict.RIGHT


@pytest.mark.parametrize("fleet", ["pair", "aggregated"])
async def test_a_failure_inside_a_stream_is_told_inside(fleet: str) -> None:
    faults = [
        Fault("mid_stream_error", tokens=3, count=1),
        Fault("die_after_tokens", tokens=3, count=1),
        Fault("die_after_tokens", tokens=3, how="fin", count=1),
        Fault("truncate", tokens=3, count=1),
    ]
    engines = _fleet(fleet, time_scale=1.0, decode_step_s=0.005)
    body = chat(stream=True)
    async with site(*engines) as here:
        for fault in faults:
            engines[-1].faults.add(fault)
            reply = await ask(here.url, body)
            assert (fault, judge(reply, body)) == (fault, Verdict.BROKEN_OFF)
            assert reply.body.count(b"\n\n") >= 4
            await right(here, body)


async def test_an_event_without_an_end_is_not_collected_for_ever() -> None:
    decode = engine("decode")
    decode.faults.add(Fault("big_event", size_bytes=10_000_000, count=1))
    body = chat(stream=True)
    async with site(engine("prefill"), decode, retries={"decode_tries": 1}) as here:
        assert judge(await ask(here.url, body), body) in (Verdict.REFUSED, Verdict.BROKEN_OFF)
        await right(here, body)


async def test_a_whole_answer_that_is_no_json_is_not_passed_on() -> None:
    decode = engine("decode")
    decode.faults.add(Fault("garbage", count=1))
    async with site(engine("prefill"), decode, retries={"decode_tries": 1}) as here:
        refused(await ask(here.url, chat()), 502)


def _fleet(kind: str, **settings: Any) -> list[SimEngine]:
    """Engines of which the last one answers. Claims that nobody pulls end soon."""
    if kind == "aggregated":
        return [engine("aggregated", **settings)]
    return [engine("prefill", lease_s=0.5), engine("decode", **settings)]
