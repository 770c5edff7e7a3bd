import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.standing import Standing, State
from router.settings import Probes

RULES = Probes(down_after=3, up_after=2)


def after(results: str, rules: Probes = RULES) -> Standing:
    """A standing after probes, `+` for a good one and `-` for a bad one, a second apart."""
    standing = Standing(rules, now=0.0)
    for now, result in enumerate(results, 1):
        probe(standing, result, float(now))
    return standing


def probe(standing: Standing, result: str, now: float) -> bool:
    return standing.good_probe(now) if result == "+" else standing.bad_probe("/health answered 503", now)


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("", State.UNKNOWN),
        ("+", State.UP),
        ("-", State.DOWN),
        ("+-", State.UP),
        ("+--", State.UP),
        ("+---", State.DOWN),
        ("+--+--", State.UP),
        ("+--+---", State.DOWN),
        ("-+", State.DOWN),
        ("-++", State.UP),
        ("-+-+", State.DOWN),
        ("-+-++", State.UP),
        ("+---+", State.DOWN),
        ("+---++", State.UP),
    ],
)
def test_the_table_of_states(results: str, state: State) -> None:
    standing = after(results)
    assert (standing.state, standing.usable) == (state, state is State.UP)


@given(st.text("+-", max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_state_changes_only_as_drawn_and_says_so(results: str, down_after: int, up_after: int) -> None:
    standing = Standing(Probes(down_after=down_after, up_after=up_after), now=0.0)
    for number, result in enumerate(results, 1):
        before, since = standing.state, standing.since
        changed = probe(standing, result, float(number))
        seen = results[:number]
        wanted = {
            State.UNKNOWN: True,
            State.UP: seen.endswith("-" * down_after),
            State.DOWN: seen.endswith("+" * up_after),
        }[before]
        assert changed is wanted
        assert standing.since == (number if changed else since)
        if changed:
            assert standing.state is (State.UP if result == "+" else State.DOWN)
        else:
            assert standing.state is before


def test_why_an_engine_is_out_is_what_took_it_out() -> None:
    standing = after("+---")
    standing.bad_probe("probe failed: ReadTimeout", now=9.0)
    assert (standing.why, standing.since) == ("/health answered 503", 4.0)


def test_an_engine_that_was_never_asked_says_so() -> None:
    standing = Standing(RULES, now=5.0)
    assert (standing.why, standing.since, repr(standing)) == (
        "not probed yet",
        5.0,
        "<Standing unknown: not probed yet>",
    )
