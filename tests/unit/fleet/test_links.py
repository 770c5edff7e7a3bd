import pytest

from router.fleet.links import (
    COMPARED_TOKENS,
    DOUBLINGS,
    FEW_TOKENS,
    LATE_S,
    MAX_LINKS,
    NEW_REQUESTS,
    TRIAL_LOSS_S,
    TRIAL_REQUESTS,
    TRIAL_S,
    Links,
)

FAST_S, SLOW_S = 11e-6, 290e-6
"""A token of 131,072 bytes at 12 and at 0.45 GB/s."""

LATER = 9.0


def moved(links: Links, prefill: str, tokens: int, took_s: float, at: float = 0.0) -> None:
    links.begin(prefill, tokens, at).arrived(at + took_s)


def learnt(**s_per_token: float) -> Links:
    links = Links()
    for prefill, each_s in s_per_token.items():
        for tokens in (1000, 4000, 8000):
            moved(links, prefill, tokens, 0.01 + each_s * tokens)
    return links


def seconds(links: Links, prefill: str, tokens: int) -> float | None:
    link = links.get(prefill)
    assert link is not None
    return link.seconds(tokens)


def test_each_link_has_its_own_pace() -> None:
    links = learnt(a=FAST_S, b=SLOW_S)
    assert seconds(links, "a", 5000) == pytest.approx(0.01 + 5000 * FAST_S)
    assert seconds(links, "b", 5000) == pytest.approx(0.01 + 5000 * SLOW_S)
    assert links.get("c") is None
    assert len(links) == 2


def test_what_is_moving_already_comes_first() -> None:
    links = learnt(a=SLOW_S)
    first, second = links.begin("a", 3000, 1.0), links.begin("a", 2000, 1.0)
    assert (first.line_tokens, second.line_tokens) == (3000, 5000)
    assert seconds(links, "a", 1000) == pytest.approx(0.01 + 6000 * SLOW_S)
    first.arrived(1.0 + 0.01 + 3000 * SLOW_S)
    second.gone()
    second.gone()
    assert seconds(links, "a", 1000) == pytest.approx(0.01 + 1000 * SLOW_S)


def test_what_failed_tells_nothing() -> None:
    links = Links()
    for _ in range(5):
        links.begin("a", 3000, 1.0).gone()
    assert seconds(links, "a", 1000) is None


def test_a_hand_over_that_is_late_proves_its_link_slow_before_it_is_over() -> None:
    links = Links()
    links.begin("a", 4000, 1.0)
    link = links.get("a")
    assert link is not None
    assert link.at_least_s(2000, 0.99 + LATE_S) == 0
    assert link.at_least_s(2000, 1.5) == pytest.approx(0.5 * (2000 + 4000) / COMPARED_TOKENS)


@pytest.mark.parametrize(
    ("late_tokens", "tokens", "expected_s"),
    [(50, 8000, 0.15 * 8050 / COMPARED_TOKENS), (50, 500, 0.15), (0, 0, 0), (0, 100, 0.15), (8000, 8000, 0.15 * 2)],
)
def test_a_few_tokens_that_are_late_prove_little_of_many(late_tokens: int, tokens: int, expected_s: float) -> None:
    links = Links()
    links.begin("a", late_tokens, 1.0)
    link = links.get("a")
    assert link is not None
    assert link.at_least_s(tokens, 1.15) == pytest.approx(expected_s)


def test_a_link_is_slow_while_a_hand_over_is_late() -> None:
    links = learnt(a=FAST_S, b=SLOW_S)
    late = links.begin("c", 4000, 1.0)
    links.begin("a", 4000, 1.0).gone()
    assert set(links.slow_now(1.05)) == {"b"}
    assert set(links.slow_now(1.2)) == {"b", "c"}
    late.gone()
    assert set(links.slow_now(1.2)) == {"b"}


def test_late_is_longer_than_twice_what_was_expected() -> None:
    links = learnt(a=SLOW_S)
    links.begin("a", 4000, 1.0)
    link = links.get("a")
    assert link is not None
    expected_s = 0.01 + 4000 * SLOW_S
    assert link.at_least_s(1000, 0.99 + 2 * expected_s) == 0
    assert link.at_least_s(1000, 1.01 + 2 * expected_s) > 0
    assert learnt(a=SLOW_S).get("a").at_least_s(1000, 99.0) == 0  # type: ignore[union-attr] # nothing is moving


def test_slow_is_far_slower_than_the_best() -> None:
    assert learnt(a=FAST_S).slow == frozenset()
    assert learnt(a=SLOW_S).slow == frozenset()
    assert learnt(a=FAST_S, b=2 * FAST_S).slow == frozenset()
    assert learnt(a=FAST_S, b=SLOW_S, c=FAST_S).slow == {"b"}
    assert learnt(a=FAST_S, b=SLOW_S).best_s == pytest.approx(0.01 + COMPARED_TOKENS * FAST_S)
    assert learnt(a=0.1e-6, b=0.9e-6).slow == frozenset(), "some milliseconds are no reason"


def test_engines_that_are_gone_are_not_compared_with() -> None:
    links = learnt(a=FAST_S, b=SLOW_S)
    links.forget("a")
    assert (links.slow, len(links)) == (frozenset(), 1)
    links.forget("b")
    links.forget("b")
    assert (links.best_s, len(links)) == (None, 0)


def at_least_s(links: Links, prefill: str, tokens: int, now: float = 9.0) -> float:
    return links.at_least_s(prefill, tokens, now)


def test_one_slow_hand_over_speaks_against_its_link_and_one_fast_one_clears_it() -> None:
    links = Links()
    assert at_least_s(links, "a", 4000) == 0
    moved(links, "a", 1000, 0.3)
    assert seconds(links, "a", 4000) is None
    assert at_least_s(links, "a", 4000) == pytest.approx(LATE_S + 4 * (0.3 - LATE_S))
    assert at_least_s(links, "a", 1000) == pytest.approx(0.3)
    moved(links, "a", 2000, 0.03)
    assert at_least_s(links, "a", 4000) == pytest.approx(0.03)
    assert links.slow == frozenset()


def test_one_slow_hand_over_after_a_fast_one_speaks_against_nothing() -> None:
    links = Links()
    moved(links, "a", 2000, 0.03)
    moved(links, "a", 2000, 0.6)
    assert at_least_s(links, "a", 4000) == pytest.approx(0.03)


def test_a_few_tokens_that_took_long_speak_against_their_link_as_more_of_them_would() -> None:
    links = Links()
    moved(links, "a", 50, 0.3)
    assert at_least_s(links, "a", 50) == at_least_s(links, "a", FEW_TOKENS) == pytest.approx(0.3)
    assert at_least_s(links, "a", 2 * FEW_TOKENS) == pytest.approx(0.5)


def test_what_is_moving_comes_before_what_the_first_hand_overs_prove() -> None:
    links = Links()
    moved(links, "a", 1000, 0.3)
    links.begin("a", 1000, 9.0)
    assert at_least_s(links, "a", 1000) == pytest.approx(0.5)


def test_three_hand_overs_are_an_estimate_that_nothing_is_held_against() -> None:
    links = learnt(a=SLOW_S)
    assert at_least_s(links, "a", 4000) == 0


def test_of_a_link_that_nobody_has_heard_of_the_best_of_the_others_tells() -> None:
    links = Links()
    moved(links, "a", 1000, 0.6)
    moved(links, "b", 1000, 0.3)
    assert at_least_s(links, "new", 1000) == pytest.approx(0.3)
    links.begin("c", 1000, 0.0)
    assert at_least_s(links, "c", 4096, now=0.05) == pytest.approx(LATE_S + 4.096 * (0.3 - LATE_S))


def test_a_late_hand_over_tells_of_links_that_nobody_has_heard_of() -> None:
    links = Links()
    links.begin("a", 4000, 0.0)
    assert at_least_s(links, "new", COMPARED_TOKENS, now=LATE_S - 0.01) == 0
    assert at_least_s(links, "new", COMPARED_TOKENS, now=1.0) > 1


def test_of_a_link_that_nobody_has_heard_of_a_known_one_that_is_the_best_tells() -> None:
    links = learnt(a=SLOW_S)
    assert at_least_s(links, "new", 6000) == pytest.approx(0.01 + SLOW_S * 6000)
    links.begin("a", 6000, 1.0)
    assert at_least_s(links, "new", COMPARED_TOKENS, now=91.0) > 90


def test_slow_links_say_nothing_of_a_new_one_where_one_is_fast_whichever_was_heard_of_last() -> None:
    links = learnt(b=FAST_S, a=SLOW_S)
    assert at_least_s(links, "new", 8000) == pytest.approx(0.01 + FAST_S * 8000)
    links.forget("a")
    assert at_least_s(links, "new", 8000) == pytest.approx(0.01 + FAST_S * 8000)


def test_what_links_show_is_forgotten_with_them() -> None:
    links = learnt(a=SLOW_S, b=FAST_S)
    links.forget("b")
    assert at_least_s(links, "new", 4000) == pytest.approx(0.01 + SLOW_S * 4000)
    links.forget("a")
    assert at_least_s(links, "a", 4000) == 0


def test_what_short_hand_overs_prove_of_a_slow_link_holds_for_long_prompts_however_many_they_are() -> None:
    links = Links()
    for count in range(1, 6):
        moved(links, "a", 600, 0.01 + 600 * SLOW_S)
        expected_s = pytest.approx(LATE_S + 20 * (0.01 + 600 * SLOW_S - LATE_S))
        assert at_least_s(links, "a", 12_000) == expected_s, f"after {count}"
        assert at_least_s(links, "new", 12_000) == expected_s, f"after {count}"


def test_short_hand_overs_that_became_fast_clear_their_link() -> None:
    links = learnt(b=FAST_S, a=SLOW_S)
    for _ in range(4):
        moved(links, "a", 300, 0.013)
    assert links.slow == frozenset()


def test_one_slow_hand_over_is_enough_to_be_slow_beside_a_link_that_is_known() -> None:
    links = Links()
    moved(links, "b", 1000, 0.3)
    assert links.slow == frozenset(), "nobody has heard of others"
    for tokens in (1000, 4000, 8000):
        moved(links, "a", tokens, 0.01 + FAST_S * tokens)
    assert links.slow == {"b"}
    assert links.best_s == pytest.approx(0.01 + COMPARED_TOKENS * FAST_S)


def test_a_hand_over_that_took_no_time_clears_its_link() -> None:
    links = learnt(b=FAST_S)
    moved(links, "a", 1000, 0.6)
    assert links.slow == {"a"}
    moved(links, "a", 64, 0.0)
    assert links.slow == frozenset()


def test_a_slow_hand_over_speaks_against_its_link_beside_one_that_was_fast_once() -> None:
    links = Links()
    moved(links, "a", 12_000, 3.5)
    moved(links, "b", 6000, 0.04)
    assert links.slow == {"a"}
    assert links.best_s is None


def test_what_is_suspected_only_is_never_the_best_of_those_that_are_known() -> None:
    links = learnt(a=2 * FAST_S)
    moved(links, "b", 64, 0.004)
    assert links.slow == frozenset()
    assert links.best_s == pytest.approx(0.01 + COMPARED_TOKENS * 2 * FAST_S)


def test_links_of_which_little_is_known_are_tried_one_after_the_other() -> None:
    links = learnt(a=SLOW_S)
    engines = ("a", "b", "c")
    assert links.new(engines, LATER) == "b"
    links.ask(1.0, "b", trial=True)
    passed_over(links, NEW_REQUESTS)
    assert links.new(engines, LATER) is None, "it has not been heard of"
    moved(links, "b", 1000, 0.3, at=1.0)
    assert links.new(engines, LATER) in ("b", "c")
    links.ask(2.0, "c", trial=True)
    moved(links, "c", 1000, 0.3, at=2.0)
    passed_over(links, NEW_REQUESTS - 1)
    assert links.new(engines, LATER) is None
    passed_over(links, 1)
    assert links.new(engines, LATER) in ("b", "c")


def test_each_request_looks_at_another_new_link() -> None:
    links, seen = learnt(a=SLOW_S), set()
    for _ in range(3):
        seen.add(links.new(["a", "b", "c", "d"], LATER))
        links.ask(1.0)
    assert seen == {"b", "c", "d"}


def test_a_new_link_that_is_on_its_way_is_not_tried() -> None:
    links = learnt(a=SLOW_S)
    links.begin("b", 1000, 1.0)
    assert links.new(["a", "b"], LATER) is None


def test_a_trial_that_was_lost_keeps_new_links_waiting_for_a_while_only() -> None:
    links = learnt(a=SLOW_S)
    links.ask(0.0, "b", trial=True)
    passed_over(links, NEW_REQUESTS)
    assert links.new(["a", "b"], TRIAL_S) is None
    assert links.new(["a", "b"], TRIAL_S + 1) == "b"


def test_a_new_link_that_was_just_chosen_is_not_tried() -> None:
    links = learnt(a=SLOW_S)
    moved(links, "b", 1000, 0.3)
    links.ask(1.0, "b")
    assert links.new(["a", "b"], 2.0) is None
    assert links.new(["a", "b"], 2.0 + TRIAL_S) == "b"


def passed_over(links: Links, count: int = TRIAL_REQUESTS, now: float = 0.0) -> None:
    for _ in range(count):
        links.ask(now)


def due(links: Links, now: float) -> list[str]:
    return [link.prefill for link in links.due(now)]


def tried(links: Links, prefill: str, tokens: int, took_s: float, now: float) -> None:
    links.ask(now, prefill, trial=True)
    moved(links, prefill, tokens, took_s, now)


def test_a_link_that_is_passed_over_is_due_after_a_while() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links, TRIAL_REQUESTS - 1)
    assert due(links, 2 * TRIAL_S) == []
    passed_over(links, 1)
    assert due(links, TRIAL_S - 1) == []
    assert due(links, TRIAL_S + 9) == ["a"]
    links.ask(TRIAL_S + 9, "a")
    assert due(links, 3 * TRIAL_S) == []


def test_one_that_is_on_its_way_is_not_due() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links)
    under_way = links.begin("a", 1000, TRIAL_S)
    passed_over(links)
    assert due(links, 2 * TRIAL_S) == []
    under_way.gone()
    assert due(links, 2 * TRIAL_S) == ["a"]


def test_of_several_links_one_is_tried_at_a_time_and_each_in_its_turn() -> None:
    links, now, turns = learnt(a=SLOW_S, b=SLOW_S, c=SLOW_S), 0.0, []
    for _ in range(6):
        passed_over(links)
        now += 2 * TRIAL_S
        turns.append(due(links, now)[0])
        tried(links, turns[-1], 1000, 0.01 + 1000 * SLOW_S, now)
        assert due(links, now + 2 * TRIAL_S) == []
    assert turns == ["a", "b", "c"] * 2


def test_a_link_that_was_mended_is_believed_after_three_trials_in_a_row() -> None:
    links = learnt(a=SLOW_S, b=SLOW_S)
    passed_over(links)
    for number in range(3):
        assert due(links, TRIAL_S + number)[0] == "a"
        tried(links, "a", 4000, 0.01 + 4000 * FAST_S, TRIAL_S + number)
    assert due(links, TRIAL_S + 4) == []
    assert seconds(links, "a", 4000) == pytest.approx(0.01 + 4000 * FAST_S)


def test_the_next_trial_waits_until_the_last_is_heard_of() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links)
    tried(links, "a", 4000, 0.01 + 4000 * FAST_S, TRIAL_S)
    links.ask(TRIAL_S + 1, "a", trial=True)
    assert due(links, TRIAL_S + 2) == []


def test_an_engine_that_is_another_now_was_never_tried() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links)
    tried(links, "a", 4000, 0.01 + 4000 * FAST_S, TRIAL_S)
    links.forget("a")
    assert due(links, 3 * TRIAL_S) == []


def most_s(links: Links, prefill: str, now: float) -> float:
    """What a request may lose by a trial now, to 5 ms."""
    return max(ms / 1000 for ms in range(0, 10_000, 5) if links.may_lose(prefill, ms / 1000, now))


def test_the_longer_there_was_no_trial_the_more_a_request_may_lose_by_one() -> None:
    links = learnt(a=SLOW_S)
    for times in (1, 2, 3):
        passed_over(links)
        assert most_s(links, "a", times * TRIAL_S) == pytest.approx(times * TRIAL_LOSS_S)
    tried(links, "a", 1000, 0.01 + 1000 * SLOW_S, 3 * TRIAL_S)
    assert most_s(links, "a", 9 * TRIAL_S) == TRIAL_LOSS_S


def test_many_requests_in_a_short_time_may_lose_no_more_by_a_trial_nor_a_few_in_a_long_one() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links, 100 * TRIAL_REQUESTS)
    assert most_s(links, "a", 2 * TRIAL_S) == 2 * TRIAL_LOSS_S
    links = learnt(a=SLOW_S)
    passed_over(links, 2 * TRIAL_REQUESTS)
    assert most_s(links, "a", 100 * TRIAL_S) == 2 * TRIAL_LOSS_S


def test_there_is_a_loss_that_no_request_has_by_a_trial_however_long_there_was_none() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links, 1000 * TRIAL_REQUESTS)
    assert most_s(links, "a", 1000 * TRIAL_S) == TRIAL_LOSS_S * 2**DOUBLINGS


def test_a_link_that_was_never_chosen_is_waited_for_since_another_was() -> None:
    links = learnt(a=SLOW_S)
    passed_over(links, 9 * TRIAL_REQUESTS)
    links.ask(9 * TRIAL_S, "a")
    assert most_s(links, "new", 9 * TRIAL_S) == TRIAL_LOSS_S
    passed_over(links, 4 * TRIAL_REQUESTS)
    assert most_s(links, "new", 13 * TRIAL_S) == 4 * TRIAL_LOSS_S


@pytest.mark.parametrize("prefill", ["a", "new"])
def test_what_rests_on_a_few_hand_overs_is_doubted_soon(prefill: str) -> None:
    links = Links()
    moved(links, "a", 4000, 3.5)
    passed_over(links, TRIAL_REQUESTS)
    assert most_s(links, prefill, 1.0) == TRIAL_LOSS_S
    for doubled in (1, 2, 3, 4, 5, 5):
        passed_over(links, NEW_REQUESTS)
        assert most_s(links, prefill, 1.0) == TRIAL_LOSS_S * 2**doubled
    for other in ("b", "c"):
        moved(links, other, 4000, 3.5)
    assert most_s(links, prefill, 1.0) == TRIAL_LOSS_S


def test_a_link_in_doubt_keeps_no_others_waiting() -> None:
    links = learnt(a=SLOW_S, b=SLOW_S)
    passed_over(links)
    tried(links, "a", 4000, 0.01 + 4000 * FAST_S, TRIAL_S)
    assert due(links, TRIAL_S + 1) == ["a"]
    passed_over(links)
    assert due(links, 3 * TRIAL_S)[:2] == ["a", "b"]


def test_links_of_engines_that_came_and_went_are_bounded() -> None:
    links = Links()
    for number in range(MAX_LINKS + 5):
        moved(links, f"p{number}", 1000, 0.1)
    assert len(links) == MAX_LINKS
    assert links.get("p4") is None
