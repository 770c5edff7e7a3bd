from router.bench.replay.oracle import Oracle, belady_reused_tokens, lru_reused_tokens, pooled
from router.settings.routing import Routing
from tests.support.traces import a_request, chats

BLOCK = 512


def test_what_came_before_is_reused_as_far_as_the_cache_reaches() -> None:
    requests = [a_request(blocks) for blocks in ("ab", "xy", "abc")]
    assert lru_reused_tokens(requests, 4 * BLOCK) == 2 * BLOCK
    assert lru_reused_tokens(requests, 2 * BLOCK) == 0


def test_who_knows_the_future_keeps_what_comes_again() -> None:
    requests = [a_request(blocks) for blocks in ("a", "x", "y", "ab", "z", "ac")]
    assert lru_reused_tokens(requests, 2 * BLOCK) == BLOCK
    assert belady_reused_tokens(requests, 2 * BLOCK) == 2 * BLOCK


def test_the_optimum_is_no_less_than_lru_and_both_have_all_with_room_for_all() -> None:
    requests = chats(60, 6)
    for blocks in (50, 200, 500):
        assert lru_reused_tokens(requests, blocks * BLOCK) <= belady_reused_tokens(requests, blocks * BLOCK)
    assert lru_reused_tokens(requests, 10**9) == belady_reused_tokens(requests, 10**9)


def test_each_pool_has_one_cache_and_the_rule_is_that_of_the_routing() -> None:
    turns = ("abcd", "abcde", "abcdefghijk", "abcdxyzuvw")
    requests = [a_request(blocks) for blocks in turns]
    rules = Routing(min_novel_tokens=513)  # the second turn is a continuation, with a block more than the first
    assert pooled(requests, 10**6, 10**6, rules) == Oracle(
        prefill_reused_tokens=(4 + 4) * BLOCK,
        local_reused_tokens=4 * BLOCK,
        decode_found_tokens=(4 + 5 + 4) * BLOCK,
    )
    everything_remote = Routing(mode="disaggregated")
    both = pooled(requests, 10**6, 10**6, everything_remote)
    assert both.reused_tokens == both.prefill_reused_tokens == lru_reused_tokens(requests, 10**6)
