import random
from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.call import Call
from router.fleet.backend import Backend
from router.routing.policies.burden import line_tokens, slowness
from router.routing.policies.prefix_aware import GIVEN_WORTH, MIN_SHARE, NEAR_SHARE, WORTH, PrefixAware
from router.routing.prefix.given import Given
from router.routing.prefix.index import PrefixIndex
from router.routing.prefix.prefixes import Prefixes
from router.settings.routing import Routing
from tests.support.builders import a_backend, a_completion, paced

SLACK_TOKENS = 5000
RULES = Routing(ttft_slack_s=0.5, prefill_tokens_per_s=10_000)


def prompt(tokens: int, of: str = "x", more: int = 0) -> Call:
    return a_completion(prompt=of * 4 * tokens + "more" * more)


def engines(count: int = 3, role: str = "prefill", **load: Any) -> list[Backend]:
    return [a_backend(role, port, **load) for port in range(1, count + 1)]


class Routed:
    """A policy and what it goes by."""

    def __init__(self, seed: int = 1) -> None:
        self.prefixes = Prefixes(PrefixIndex(1_000_000, 100_000))
        self.policy = PrefixAware(self.prefixes, RULES, random.Random(seed))

    def sent(self, engine: Backend, call: Call) -> None:
        self.prefixes.expect(call, engine).confirm()

    def holds(self, engine: Backend, call: Call) -> None:
        """It was sent there so long ago that it does not count as given lately."""
        self.sent(engine, call)
        self.prefixes.index.given = Given()

    def pick(self, candidates: list[Backend], call: Call) -> Backend:
        return self.policy.pick(candidates, call)


def test_the_engine_that_holds_the_prompt_has_it() -> None:
    routed, (first, second, third) = Routed(), engines()
    routed.holds(second, prompt(6400))
    for _ in range(20):
        assert routed.pick([first, second, third], prompt(6400, more=100)) is second


def test_what_nobody_holds_goes_where_least_is_to_do() -> None:
    routed, (first, second, third) = Routed(), engines(tokens=100)
    third.load.tokens = 99
    assert routed.pick([first, second, third], prompt(6400)) is third


def test_a_slow_engine_that_has_nothing_to_do_is_left_alone_while_a_fast_one_has_little() -> None:
    routed, (fast, slow) = Routed(), engines(2)
    for engine, speed in ((fast, 20_000), (slow, 2000)):
        paced(engine, prefill_tokens_per_s=speed)
    fast.load.tokens = 100
    picked = Counter(routed.pick([fast, slow], prompt(8000)) for _ in range(320))
    assert 1 <= picked[slow] < 32, "now and then, to see whether it still is"
    routed.holds(slow, prompt(8000))
    assert routed.pick([fast, slow], prompt(8000, more=100)) is slow, "there is little left to compute"


def test_ties_are_broken_at_random() -> None:
    first, second, third = engines()
    third.load.tokens = 1
    picked = [Routed(seed).pick([first, second, third], prompt(640)) for seed in range(200)]
    assert 70 <= picked.count(first) <= 130
    assert third not in picked


def test_waiting_longer_than_the_slack_is_not_worth_it() -> None:
    routed, (first, second) = Routed(), engines(2)
    routed.holds(first, prompt(6400))
    first.load.tokens = 6400 + SLACK_TOKENS
    assert routed.pick([first, second], prompt(6400)) is first
    first.load.tokens += 1
    assert routed.pick([first, second], prompt(6400)) is second


def test_a_short_prefix_that_all_prompts_share_draws_only_so_many_of_them() -> None:
    routed, (first, second) = Routed(), engines(2)
    routed.holds(first, prompt(64))
    first.load.tokens = 64 + 16 * 64
    asked = prompt(64, more=190)
    assert routed.pick([first, second], asked) is first
    first.load.tokens += 1
    assert routed.pick([first, second], asked) is second


def test_a_prefix_that_is_a_small_part_of_a_prompt_is_worth_its_tokens_only() -> None:
    routed, (first, second) = Routed(), engines(2)
    routed.holds(first, prompt(640))
    first.load.tokens = 641
    assert routed.pick([first, second], prompt(640, more=1919)) is first
    assert routed.pick([first, second], prompt(640, more=1921)) is second
    first.load.tokens = 639
    assert routed.pick([first, second], prompt(640, more=1921)) is first


def test_of_engines_that_hold_nearly_as_much_the_cheapest_is_taken() -> None:
    routed, (first, second, third) = Routed(), engines()
    routed.holds(first, prompt(6400))
    routed.holds(second, prompt(5120))
    routed.holds(third, prompt(5056))
    first.load.tokens = 2000
    assert routed.pick([first, second, third], prompt(6400)) is second
    second.load.tokens = 2000
    assert routed.pick([first, second, third], prompt(6400)) is first, "0.79 of the best is not near it"


def test_a_hot_prefix_spreads_as_far_as_its_load_needs() -> None:
    routed, candidates = Routed(), engines(4)
    for _ in range(40):
        call = prompt(1280)
        chosen = routed.pick(candidates, call)
        routed.sent(chosen, call)
        chosen.lease(1280)
    requests = [engine.load.requests for engine in candidates]
    assert all(requests)
    assert max(requests) - min(requests) <= 6


def test_a_decode_engine_is_full_later_as_streams_wait_for_each_other_less_than_prompts() -> None:
    routed, (first, second) = Routed(), engines(2, "decode")
    routed.holds(first, prompt(6400))
    first.load.requests, first.load.tokens = 10, 5 * (6400 + SLACK_TOKENS) - 5000
    assert routed.pick([first, second], prompt(6400)) is first
    first.load.tokens += 5
    assert routed.pick([first, second], prompt(6400)) is second


def test_engines_that_are_no_candidates_do_not_count() -> None:
    routed, (first, second, third) = Routed(), engines()
    routed.holds(first, prompt(6400))
    third.load.tokens = 1
    assert routed.pick([second, third], prompt(6400)) is second


def test_a_prompt_shorter_than_a_block_is_of_no_prefix() -> None:
    routed, (first, second) = Routed(), engines(2)
    first.load.tokens = 1
    assert routed.pick([first, second], a_completion(prompt="hi")) is second


# In a quiet fleet


def test_what_all_prompts_share_does_not_bring_all_of_them_to_one_engine() -> None:
    routed, candidates = Routed(), engines(4)
    chosen = []
    for number in range(200):
        call = a_completion(prompt="x" * 2048 + f"{number:04}" * 2048)
        chosen.append(routed.pick(candidates, call))
        routed.sent(chosen[-1], call)
    assert all(40 <= chosen.count(engine) <= 60 for engine in candidates)


def test_chats_stay_where_they_are_all_the_same() -> None:
    routed, candidates = Routed(), engines(4)
    homes: dict[int, set[Backend]] = {}
    for turn in range(1, 9):
        for chat in range(20):
            call = a_completion(prompt="x" * 2048 + f"{chat:04}" * 512 * turn)
            engine = routed.pick(candidates, call)
            routed.sent(engine, call)
            homes.setdefault(chat, set()).add(engine)
    assert all(len(engines) == 1 for engines in homes.values())


def test_a_crowd_from_one_beginning_is_spread() -> None:
    routed, candidates = Routed(), engines()
    shared = 1600
    for number in range(300):
        call = a_completion(prompt="x" * 4 * shared + f"{number:04}" * 80)
        chosen = routed.pick(candidates, call)
        routed.prefixes.expect(call, chosen)
        chosen.lease(call.prompt_tokens - routed.prefixes.cached_tokens(call, chosen) or 80)
    assert max(engine.load.requests for engine in candidates) <= 1.5 * 100


# Beside the plain way


def plain_costs(routed: Routed, candidates: list[Backend], call: Call) -> list[float]:
    """What the module says, engine by engine."""
    slow: Sequence[float | None] = slowness(candidates) or [None] * len(candidates)
    held = [routed.prefixes.held(call).get(engine, 0) for engine in candidates]
    costs = []
    for engine, times, hold in zip(candidates, slow, held, strict=True):
        (pending,), (given_,) = line_tokens([engine]), routed.prefixes.index.given.lately([engine], GIVEN_WORTH)
        costs.append(
            pending + given_ - hold if times is None else times * (pending + call.prompt_tokens - hold) + given_
        )
    best = max(held)
    apart = call.prompt_tokens - best
    crowd = routed.prefixes.crowd(call, candidates[held.index(best)])
    crowded = best > 0 and apart > 0 and crowd * apart > best
    near = [cost if hold >= NEAR_SHARE * best else inf for cost, hold in zip(costs, held, strict=True)]
    dear = min(near) - min(costs) > min(SLACK_TOKENS, WORTH * best)
    return costs if best < MIN_SHARE * call.prompt_tokens or crowded or dear else near


ENGINES = st.tuples(
    st.integers(0, 9), st.sampled_from([0, 100, 5000]), st.sampled_from([0, 5, 12, 20]), st.sampled_from([0, 50, 100])
)
"""Requests, tokens, hundreds of tokens held, and speed."""


@given(st.sampled_from(["prefill", "decode"]), st.lists(ENGINES, min_size=1, max_size=6), st.integers(0, 3))
def test_costs_are_those_of_the_plain_way(role: str, pool: list[tuple[int, int, int, int]], under_way: int) -> None:
    routed, candidates = Routed(), engines(len(pool), role)
    for engine, (requests, tokens, hundreds, speed) in zip(candidates, pool, strict=True):
        engine.load.requests, engine.load.tokens = requests, tokens
        engine.load.note_others(requests % 3, tokens // 2)
        paced(engine, prefill_tokens_per_s=100.0 * speed, decode_tokens_per_s=float(speed))
        if hundreds:
            routed.sent(engine, prompt(100 * hundreds))
    for number in range(under_way):
        routed.prefixes.expect(a_completion(prompt="x" * 4000 + f"{number:04}" * 400), candidates[-1])
    call = prompt(2000, more=200)
    plain = plain_costs(routed, candidates, call)
    assert routed.policy.weigh(candidates, call).costs == plain
    if slowness(candidates) is None:  # else one choice in 32 takes all for equally fast
        assert plain[candidates.index(routed.pick(candidates, call))] == min(plain)
