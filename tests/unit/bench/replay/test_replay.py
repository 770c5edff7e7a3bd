from dataclasses import replace

import pytest

from router.bench.replay.oracle import lru_reused_tokens, pooled
from router.bench.replay.replay import Record, Replay, Shape, rules_of
from router.bench.replay.report import max_over_mean, percentile
from router.fleet.load import Load
from router.settings.engines import Role
from router.settings.routing import PolicyName
from tests.support.traces import chats, strangers

SMALL = Shape(prefill=3, decode=3, prefill_cache_tokens=100_000, decode_cache_tokens=200_000)
CHATS = chats(150, 6)


def replayed(policy: PolicyName, shape: Shape = SMALL, requests: list = CHATS) -> Record:  # type: ignore[type-arg]
    return Replay(shape, policy).run(requests)


def test_every_request_is_answered_and_every_token_accounted_for() -> None:
    replay = Replay(SMALL, "prefix_aware")
    seen = list[int]()
    record = replay.run(CHATS, seen.append)
    assert seen == list(range(1, len(CHATS) + 1))
    assert len(record.ttft_s) == len(record.decision_us) == sum(record.reasons.values()) == len(CHATS)
    assert record.reused_tokens + record.computed_tokens == sum(request.input_tokens for request in CHATS)
    assert len(record.prefilled) + record.reasons["continuation"] == len(CHATS)
    assert min(record.ttft_s) > 0
    assert {replay.permits.taken(backend) for backend in (*replay.prefill, *replay.decode)} == {0}
    assert all(backend.load == Load() for backend in (*replay.prefill, *replay.decode))
    caches = [engine.cache for engine in replay.prefill.values()]
    caches += [engine.cache for engine in replay.decode.values()]
    assert {cache.in_use_tokens for cache in caches} == {0}


def test_chats_are_kept_together_nearly_as_if_caches_were_one() -> None:
    record = replayed("prefix_aware")
    oracle = pooled(CHATS, 300_000, 600_000, rules_of(SMALL, "prefix_aware"))
    assert record.reused_tokens >= 0.95 * oracle.reused_tokens
    assert all(max_over_mean(work) < 1.3 for work in record.work_s.values())


@pytest.mark.parametrize("other", ["round_robin", "least_loaded", "power_of_two", "session"])
def test_no_other_policy_reuses_as_much_or_answers_as_soon(other: PolicyName) -> None:
    aware, simple = replayed("prefix_aware"), replayed(other)
    assert simple.reused_tokens < aware.reused_tokens
    assert percentile(aware.ttft_s, 0.9) < percentile(simple.ttft_s, 0.9)


def test_with_one_engine_each_every_policy_reuses_what_a_pooled_cache_does() -> None:
    lone = replace(SMALL, prefill=1, decode=1, mode="disaggregated")
    pooled_tokens = lru_reused_tokens(CHATS, lone.prefill_cache_tokens)
    for policy in ("round_robin", "prefix_aware"):
        assert replayed(policy, lone).reused_tokens == pytest.approx(pooled_tokens, rel=0.02)


def test_where_nothing_is_shared_load_is_all_that_counts() -> None:
    requests = strangers(900)
    aware, simple = (replayed(policy, requests=requests) for policy in ("prefix_aware", "least_loaded"))
    assert aware.reused_tokens == simple.reused_tokens == 0
    assert percentile(aware.ttft_s, 0.9) <= 1.1 * percentile(simple.ttft_s, 0.9)
    assert max_over_mean(aware.work_s[Role.PREFILL]) < 1.15


def test_a_replay_is_the_same_every_time() -> None:
    assert replayed("prefix_aware").ttft_s == replayed("prefix_aware").ttft_s
