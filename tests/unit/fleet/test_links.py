import pytest

from router.fleet.links import COMPARED_TOKENS, LATE_S, MAX_LINKS, TRIAL_REQUESTS, TRIAL_S, Links

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


def test_a_link_that_is_passed_over_is_due_after_a_while() -> None:
    links = learnt(a=SLOW_S)
    links.asked += TRIAL_REQUESTS
    assert not links.is_due("a", TRIAL_S - 1)
    assert links.is_due("a", TRIAL_S)
    assert not links.is_due("b", TRIAL_S), "nobody knows that it is slow"
    links.asked -= 1
    assert not links.is_due("a", TRIAL_S)


def test_one_trial_at_a_time() -> None:
    links = learnt(a=SLOW_S)
    links.asked += TRIAL_REQUESTS
    trial = links.begin("a", 1000, TRIAL_S)
    links.asked += TRIAL_REQUESTS
    assert not links.is_due("a", 2 * TRIAL_S)
    trial.gone()
    assert links.is_due("a", 2 * TRIAL_S)


def test_a_link_that_was_mended_is_believed_after_three_trials_in_a_row() -> None:
    links = learnt(a=SLOW_S)
    links.asked += TRIAL_REQUESTS
    for number in range(3):
        assert links.is_due("a", TRIAL_S + number)
        moved(links, "a", 4000, 0.01 + 4000 * FAST_S, TRIAL_S + number)
    assert not links.is_due("a", TRIAL_S + 4)
    assert seconds(links, "a", 4000) == pytest.approx(0.01 + 4000 * FAST_S)


def test_links_of_engines_that_came_and_went_are_bounded() -> None:
    links = Links()
    for number in range(MAX_LINKS + 5):
        moved(links, f"p{number}", 1000, 0.1)
    assert len(links) == MAX_LINKS
    assert links.get("p4") is None
