from collections import Counter
from typing import Any

from router.bench.replay.oracle import Oracle
from router.bench.replay.replay import Record, Shape
from router.bench.replay.report import COLUMNS, Bound, bound, max_over_mean, percentile, row, text, tree
from router.settings.engines import Role
from tests.support.traces import a_request, chats

REQUESTS = [a_request("abcd"), a_request("abcde")]
ORACLE = Oracle(prefill_reused_tokens=1024, local_reused_tokens=1024, decode_found_tokens=4096)


def a_row() -> dict[str, Any]:
    record = Record(
        ttft_s=[0.3, 0.1, 0.2],
        decision_us=[10.04, 30.0, 20.06],
        prefilled=REQUESTS,
        prefill_reused_tokens=1024,
        local_reused_tokens=512,
        decode_found_tokens=1024,
        computed_tokens=3072,
        reasons=Counter(novel_prompt=2),
        work_s={Role.PREFILL: [{0: 1.0, 1: 2.0}, {0: 1.0}], Role.DECODE: [{0: 5.0}, {1: 5.0}]},
    )
    return row("prefix_aware", record, ORACLE, Shape())


def test_the_figures_of_a_policy() -> None:
    assert a_row() == {
        "policy": "prefix_aware",
        "reuse_share_of_oracle": 0.75,
        "prefill_reuse_share": 0.5,
        "decode_reuse_share": 0.25,
        "reused_tokens": 1536,
        "computed_tokens": 3072,
        "ttft_p50_s": 0.2,
        "ttft_p90_s": 0.2,
        "ttft_p99_s": 0.2,
        "max_over_mean_load": 1.5,
        "max_over_mean_load_by_pool": {"prefill": 1.5, "decode": 1.0},
        "decision_us_p50": 20.1,
        "reasons": {"novel_prompt": 2},
    }


def test_where_nothing_can_be_reused_nothing_is_missed() -> None:
    record = Record(work_s={Role.PREFILL: [{}]})
    figures = row("round_robin", record, Oracle(0, 0, 0), Shape())
    assert (figures["reuse_share_of_oracle"], figures["max_over_mean_load"], figures["ttft_p90_s"]) == (1.0, 1.0, 0.0)


def test_percentiles_and_imbalance() -> None:
    assert [percentile(range(101), share) for share in (0, 0.5, 0.99, 1)] == [0, 50, 99, 100]
    assert max_over_mean([{0: 3.0}, {0: 1.0}, {5: 2.0}]) == 1.5


def test_the_bound_is_for_the_whole_fleets_caches() -> None:
    requests = chats(40, 5)
    small = Shape(prefill=2, decode=2, prefill_cache_tokens=10_000, decode_cache_tokens=20_000)
    twice = Shape(prefill=4, decode=4, prefill_cache_tokens=10_000, decode_cache_tokens=20_000)
    less, more = bound(requests, small), bound(requests, twice)
    assert less.oracle.reused_tokens < more.oracle.reused_tokens
    assert less.oracle.decode_found_tokens <= less.belady_found_tokens


def test_both_forms_have_every_column() -> None:
    figures = tree(REQUESTS, Shape(), Bound(ORACLE, 5000), [a_row(), a_row() | {"policy": "session"}])
    assert figures["oracle"]["reused_tokens"] == 2048
    assert figures["prompt_tokens"] == 9 * 512
    assert [policy["policy"] for policy in figures["policies"]] == ["prefix_aware", "session"]
    head, aware, session, oracle, *_ = lines = text(figures).splitlines()
    assert head.split() == ["policy", *COLUMNS]
    assert aware.split() == ["prefix_aware", "0.75", "1,536", "3,072", "0.2", "0.2", "0.2", "1.5", "20.1"]
    assert session.startswith("session ")
    assert oracle.split()[-2:] == ["1.0", "2,048"]
    assert {len(line) for line in (head, aware, session)} == {len(head)}
    assert "prefix_aware: of what pooled caches reuse, prefill 0.5 and decode 0.25; 2 novel_prompt" in lines
    assert lines[-1].endswith("finds 4,096 by LRU, 5,000 by Belady's optimum")
