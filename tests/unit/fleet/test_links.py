import pytest

from router.fleet.links import (
    COMPARED_TOKENS,
    LATE_S,
    MAX_LINKS,
    PATIENCE,
    TRIAL_LOSS_S,
    TRIAL_REQUESTS,
    TRIAL_S,
    Links,
)

FAST_S, SLOW_S = 11e-6, 290e-6
"""A token of 131,072 bytes at 12 and at 0.45 GB/s."""


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


def test_who_would_lose_much_tries_a_link_only_if_nobody_has_for_long() -> None:
    links = learnt(a=SLOW_S)
    link = links.get("a")
    assert link is not None
    passed_over(links)
    assert (links.may_lose(link, TRIAL_LOSS_S), links.may_lose(link, TRIAL_LOSS_S + 0.01)) == (True, False)
    passed_over(links, (PATIENCE - 1) * TRIAL_REQUESTS)
    assert links.may_lose(link, 9.0)


def test_links_of_engines_that_came_and_went_are_bounded() -> None:
    links = Links()
    for number in range(MAX_LINKS + 5):
        moved(links, f"p{number}", 1000, 0.1)
    assert len(links) == MAX_LINKS
    assert links.get("p4") is None
