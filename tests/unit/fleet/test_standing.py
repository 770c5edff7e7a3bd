import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.fleet.standing import Standing, State
from router.settings.fleet import Ejection, Probes

RULES = Probes(down_after=3, up_after=2)


def after(results: str, rules: Probes = RULES) -> Standing:
    """A standing after probes, `+` for a good one and `-` for a bad one, a second apart."""
    standing = Standing(rules, Ejection(), now=0.0)
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
    standing = Standing(Probes(down_after=down_after, up_after=up_after), Ejection(), now=0.0)
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
    standing.bad_probe("probe failed: timeout", now=9.0)
    assert (standing.why, standing.since) == ("/health answered 503", 4.0)


def test_an_engine_that_was_never_asked_says_so() -> None:
    standing = Standing(RULES, Ejection(), now=5.0)
    assert (standing.why, standing.since, repr(standing)) == (
        "not probed yet",
        5.0,
        "<Standing unknown: not probed yet>",
    )


EJECTION = Ejection(failures=3, first_s=5, longest_s=60, trial_successes=2)


def up(ejection: Ejection = EJECTION) -> Standing:
    """An engine that works, since 0."""
    standing = Standing(RULES, ejection, now=0.0)
    standing.good_probe(0.0)
    return standing


def fail(standing: Standing, times: int, now: float, *, can_be_spared: bool = True) -> list[bool]:
    return [standing.failed("timeout", now, can_be_spared=can_be_spared) for _ in range(times)]


def test_failed_requests_in_a_row_take_it_out_whatever_probes_say() -> None:
    standing = up()
    assert fail(standing, 3, 1.0) == [False, False, True]
    assert (standing.state, standing.usable, standing.why) == (State.EJECTED, False, "timeout, 3 in a row")
    assert not standing.good_probe(5.9)
    assert standing.good_probe(6.0)
    assert (standing.state, standing.usable) == (State.TRIAL, True)


def test_a_good_request_between_them_counts() -> None:
    standing = up()
    fail(standing, 2, 1.0)
    standing.worked(1.0)
    assert fail(standing, 2, 1.0) == [False, False]


def test_one_that_cannot_be_spared_stays() -> None:
    standing = up()
    assert not any(fail(standing, 9, 1.0, can_be_spared=False))
    assert fail(standing, 1, 1.0) == [True]


def test_refused_connections_in_a_row_are_a_dead_engine() -> None:
    standing = up()
    assert [standing.refused(1.0) for _ in range(3)] == [False, False, True]
    assert (standing.state, standing.why) == (State.DOWN, "connections are refused")
    assert [standing.good_probe(2.0), standing.good_probe(2.5)] == [False, True]
    assert standing.state is State.UP


def test_a_trial_ends_with_its_second_success() -> None:
    standing = up()
    fail(standing, 3, 0.0)
    standing.good_probe(5.0)
    assert [standing.worked(5.0), standing.worked(5.1)] == [False, True]
    assert standing.state is State.UP


def test_on_trial_there_is_one_request_at_a_time() -> None:
    standing = up()
    fail(standing, 3, 0.0)
    standing.good_probe(5.0)
    standing.on_trial += 1
    assert not standing.usable
    standing.on_trial -= 1
    assert standing.usable


def test_it_tells_when_it_becomes_usable_and_when_it_is_not_any_more() -> None:
    class Ear:
        def __init__(self) -> None:
            self.heard: list[bool] = []

        def engine_changed(self) -> None:
            self.heard.append(standing.usable)

    standing, ear = after(""), Ear()
    standing.news.heard_by(ear)
    for now in (1.0, 2.0):
        standing.good_probe(now)
    standing.drained = True
    for now in (3.0, 4.0, 5.0):
        standing.bad_probe("x", now)
    standing.drained = False
    assert ear.heard == [True, False]
    for now in (6.0, 7.0):
        standing.good_probe(now)
    assert ear.heard == [True, False, True]


def test_each_failed_trial_doubles_the_time_out_up_to_the_longest() -> None:
    standing, now, times = up(), 0.0, []
    fail(standing, 3, now)
    for _ in range(6):
        began = now
        while not standing.good_probe(now):
            now += 0.5
        times.append(now - began)
        assert standing.failed("timeout", now, can_be_spared=False)
    assert times == [5, 10, 20, 40, 60, 60]


def test_one_that_worked_for_long_begins_anew() -> None:
    standing = up()
    fail(standing, 3, 0.0)
    standing.good_probe(5.0)
    standing.failed("timeout", 5.0, can_be_spared=True)
    standing.good_probe(15.0)
    standing.worked(15.0)
    standing.worked(15.0)
    fail(standing, 3, 75.0)
    assert not standing.good_probe(79.9)
    assert standing.good_probe(80.0)


def hang(standing: Standing, times: int, now: float) -> list[bool]:
    return [standing.failed("timeout", now, can_be_spared=True, silent=True) for _ in range(times)]


def test_an_engine_that_hangs_is_out_sooner_and_only_its_own_answer_brings_it_back() -> None:
    standing = up()
    assert hang(standing, 2, 1.0) == [False, True]
    assert (standing.state, standing.silent) == (State.EJECTED, True)
    assert not standing.good_probe(100.0), "its /health may be answered by another process"
    assert standing.woke(101.0)
    assert (standing.state, standing.silent, standing.usable) == (State.TRIAL, False, True)
    assert not standing.woke(102.0)
    assert standing.thawed == 1


@pytest.mark.parametrize("between", ["worked", "failed"])
def test_a_sign_of_work_between_two_timeouts_counts(between: str) -> None:
    standing = up()
    hang(standing, 1, 1.0)
    if between == "worked":
        standing.worked(1.0)
    else:
        fail(standing, 1, 1.0)
    assert hang(standing, 1, 1.0) == [between == "failed"], "the third failure of whatever kind"


def test_one_that_hangs_again_on_trial_is_silent_again() -> None:
    standing = up()
    hang(standing, 2, 1.0)
    standing.woke(2.0)
    assert hang(standing, 1, 3.0) == [True]
    assert (standing.state, standing.silent) == (State.EJECTED, True)


def test_a_silent_engine_that_dies_comes_back_like_any_other() -> None:
    standing = up()
    hang(standing, 2, 1.0)
    for _ in range(3):
        standing.bad_probe("gone", 2.0)
    assert (standing.state, standing.silent) == (State.DOWN, False)


def test_an_engine_that_came_back_gets_its_share_bit_by_bit() -> None:
    standing = up(Ejection(slow_start_s=30))
    assert standing.share == 1
    for result in "---++":
        probe(standing, result, 100.0)
    shares = []
    for now in (101.0, 106.0, 115.0, 130.0, 140.0):
        standing.good_probe(now)
        shares.append(standing.share)
    assert shares == [0.1, 0.2, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("state", [State.EJECTED, State.TRIAL])
def test_bad_probes_still_take_it_down(state: State) -> None:
    standing = up()
    fail(standing, 3, 0.0)
    if state is State.TRIAL:
        standing.good_probe(5.0)
    assert [standing.bad_probe("no answer", 6.0) for _ in range(3)] == [False, False, True]
    assert standing.state is State.DOWN


EVENTS = st.lists(
    st.sampled_from(["good", "bad", "worked", "refused", "failed", "spared", "silent", "woke"]), max_size=60
)


@given(EVENTS, st.floats(0.1, 5))
def test_whatever_happens_good_probes_and_requests_bring_it_back(events: list[str], step_s: float) -> None:
    standing, now = up(), 0.0
    for event in events:
        now += step_s
        before = standing.state
        match event:
            case "good":
                changed = standing.good_probe(now)
            case "bad":
                changed = standing.bad_probe("no", now)
            case "worked":
                changed = standing.worked(now)
            case "refused":
                changed = standing.refused(now)
            case "woke":
                changed = standing.woke(now)
            case _:
                silent = event == "silent"
                changed = standing.failed("timeout", now, can_be_spared=silent or event == "spared", silent=silent)
        assert changed == (standing.state is not before) or (changed and before is State.TRIAL)
        assert State.UNKNOWN is not standing.state
        assert not standing.silent or standing.state is State.EJECTED
        assert 0.1 <= standing.share <= 1
    for _ in range(200):
        now += 0.5
        standing.good_probe(now)
        standing.woke(now)
        if standing.usable:
            standing.worked(now)
    assert standing.state is State.UP


@pytest.mark.parametrize(
    ("results", "lives", "faltered"),
    [("", 0, False), ("+", 1, False), ("++", 1, False), ("-+", 1, False), ("+-", 1, True), ("+-+", 2, False)],
)
def test_after_a_bad_probe_it_lives_anew(results: str, lives: int, faltered: bool) -> None:
    standing = after(results)
    assert (standing.lives, standing.faltered) == (lives, faltered)


def test_each_state_says_why_and_since_when() -> None:
    standing = Standing(RULES, EJECTION, now=0.0)
    standing.bad_probe("no answer", 1.0)
    assert (standing.why, standing.since, standing.drained) == ("no answer", 1.0, False)
    for _ in range(2):
        standing.good_probe(2.0)
    assert (standing.why, standing.since) == ("probes answered", 2.0)
    fail(standing, 3, 3.0)
    assert (standing.why, standing.since) == ("timeout, 3 in a row", 3.0)
    standing.good_probe(8.0)
    assert (standing.why, standing.since) == ("one request at a time, to see whether it works again", 8.0)
    for _ in range(2):
        standing.worked(9.0)
    assert (standing.why, standing.since) == ("requests work again", 9.0)
    for _ in range(3):
        standing.refused(10.0)
    assert (standing.why, standing.since) == ("connections are refused", 10.0)


def test_one_that_worked_for_a_short_time_does_not_begin_anew() -> None:
    standing = up()
    fail(standing, 3, 1000.0)
    standing.good_probe(1005.0)
    standing.failed("timeout", 1005.0, can_be_spared=True)
    standing.good_probe(1015.0)
    for _ in range(2):
        standing.worked(1015.0)
    fail(standing, 3, 1016.0)
    assert not standing.good_probe(1025.9)
    assert standing.good_probe(1026.0)
