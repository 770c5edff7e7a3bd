from hypothesis import given
from hypothesis import strategies as st

from router.exchange.budget import RetryBudget
from router.settings.exchange import Retries

RULES = Retries(share=0.2, reserve=3, window_s=10)


def test_without_requests_there_is_the_reserve() -> None:
    budget = RetryBudget(RULES)
    assert [budget.take(0) for _ in range(4)] == [True, True, True, False]
    assert repr(budget) == "<RetryBudget 3 retries of 0 requests>"


def test_it_grows_with_the_requests() -> None:
    budget = RetryBudget(RULES)
    for _ in range(50):
        budget.request(0)
    assert sum(budget.take(0) for _ in range(100)) == 13


def test_it_comes_back_as_the_window_moves_on() -> None:
    budget = RetryBudget(RULES)
    while budget.take(0):
        pass
    assert not budget.take(9.9)
    assert budget.take(10)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2)), max_size=200))
def test_retries_of_any_window_are_within_share_and_reserve(events: list[tuple[bool, float]]) -> None:
    budget, now = RetryBudget(RULES), 0.0
    requests, retries = list[float](), list[float]()
    for is_request, pause_s in events:
        now += pause_s
        if is_request:
            budget.request(now)
            requests.append(now)
        elif budget.take(now):
            retries.append(now)
            recent = [at for at in retries if at > now - RULES.window_s]
            offered = [at for at in requests if at > now - RULES.window_s]
            assert len(recent) <= len(offered) * RULES.share + RULES.reserve
