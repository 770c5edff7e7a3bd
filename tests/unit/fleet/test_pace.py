import random
from timeit import timeit

import pytest

from router.fleet.pace import CONFIRMED, ENOUGH, LEAST_TOKENS, REACH, Pace, Paces


def noted(*samples: tuple[int, float]) -> Pace:
    pace = Pace(2048)
    for tokens, took_s in samples:
        pace.note(tokens, took_s)
    return pace


def line(tokens: int, fixed_s: float = 0.02, s_per_token: float = 30e-6) -> tuple[int, float]:
    return tokens, fixed_s + s_per_token * tokens


def test_nothing_is_known_before_there_are_enough_samples() -> None:
    pace = noted(*[line(1000)] * (ENOUGH - 1))
    assert (pace.seconds(1000), pace.tokens_per_s) == (None, None)
    pace.note(*line(1000))
    assert pace.seconds(1000) == pytest.approx(0.05)
    assert pace.tokens_per_s is not None


def test_the_fixed_part_and_the_rest_are_told_apart_by_prompts_that_differ() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200, 4000)])
    assert pace.fixed_s == pytest.approx(0.02)
    assert pace.s_per_token == pytest.approx(30e-6)
    assert pace.seconds(2000) == pytest.approx(0.08)
    assert pace.tokens_per_s == pytest.approx(2048 / (0.02 + 2048 * 30e-6))


def test_prompts_that_are_alike_tell_their_own_time_only() -> None:
    pace = noted(line(1000), line(1001), line(999), line(1000))
    assert pace.fixed_s == 0
    assert pace.seconds(1000) == pytest.approx(0.05, rel=0.01)


def test_what_is_before_a_prompt_in_line_takes_its_time_too() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200)])
    assert pace.seconds(1000, before=4000) == pytest.approx(0.02 + 5000 * 30e-6)


def test_an_estimate_does_not_reach_far_beyond_what_it_was_learnt_from() -> None:
    pace = noted(*[line(tokens) for tokens in (100, 500, 300)])
    assert pace.seconds(500 * REACH) is not None
    assert pace.seconds(500 * REACH + 1) is None
    assert pace.seconds(500, before=100_000) is not None


def test_neither_part_is_ever_negative() -> None:
    faster_when_longer = noted((1000, 0.2), (2000, 0.15), (4000, 0.1), (1000, 0.2))
    assert faster_when_longer.s_per_token == 0
    assert faster_when_longer.fixed_s > 0
    longer_is_dearer = noted((500, 0.01), (4000, 0.2), (8000, 0.8), (500, 0.01))
    assert longer_is_dearer.fixed_s == 0
    assert longer_is_dearer.s_per_token > 0


def test_short_prompts_count_as_a_block() -> None:
    pace = noted((1, 0.01), (LEAST_TOKENS, 0.01), (0, 0.01))
    assert pace.seconds(5) == pace.seconds(LEAST_TOKENS) == pytest.approx(0.01)


def test_delays_move_nothing() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200, 4000)])
    for _ in range(3):
        for delayed in (5.0, 9.0):
            pace.note(2000, delayed)
        assert pace.in_doubt
        pace.note(*line(2000))
        assert not pace.in_doubt
    assert pace.seconds(2000) == pytest.approx(0.08)


@pytest.mark.parametrize("times", [27, 4, 1 / 4, 1 / 27])
def test_a_change_is_believed_when_it_is_confirmed(times: float) -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200, 4000)])
    for number in range(CONFIRMED):
        assert pace.seconds(2000) == pytest.approx(0.08)
        tokens, took_s = line(2000 + 100 * number)
        pace.note(tokens, times * took_s)
    assert pace.seconds(2000) == pytest.approx(times * 0.08, rel=0.05)


def test_delays_to_both_sides_confirm_nothing() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200, 4000)])
    for _ in range(4):
        pace.note(2000, 0.8)
        pace.note(2000, 0.008)
    assert pace.seconds(2000) == pytest.approx(0.08)


def test_a_step_more_or_less_is_no_delay() -> None:
    pace = noted((64, 0.001), (64, 0.001), (64, 0.001))
    pace.note(64, 0.0059)
    assert not pace.in_doubt


def test_a_first_handshake_is_outvoted() -> None:
    pace = noted((2000, 0.9), line(2000), line(1000))
    assert pace.seconds(2000) is None
    pace.note(*line(4000))
    assert pace.seconds(2000) == pytest.approx(0.08)
    assert noted((64, 0.022), line(9000), line(4000)).seconds(2000) is not None, "a short one is dear, not late"
    slow_for_all = noted((2000, 0.9), (2000, 0.8), (1000, 0.5))
    assert slow_for_all.seconds(2000) == pytest.approx(0.85, rel=0.1)


def test_the_first_samples_are_there_until_there_is_an_estimate() -> None:
    pace = noted((2000, 0.9), line(2000))
    assert list(pace.seen(3000)) == [(2000, 0.9), line(2000)]
    pace.note(*line(1000))
    assert list(pace.seen(3000)) == [line(2000), line(1000)], "the first one was outvoted"
    pace.note(*line(4000))
    assert list(pace.seen(3000)) == []


def test_what_an_estimate_does_not_reach_goes_by_the_longest_that_it_was_learnt_from() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 300, 400)])
    assert pace.seconds(4800) == pytest.approx(line(4800)[1])
    assert list(pace.seen(4800)) == []
    assert pace.seconds(4801) is None
    ((tokens, took_s),) = pace.seen(4801)
    assert tokens == 600
    assert took_s == pytest.approx(line(600)[1])
    assert list(noted().seen(100)) == []


def test_smaller_changes_are_followed() -> None:
    pace = noted(*[line(tokens) for tokens in (600, 9000, 1200, 4000)])
    for tokens in (900, 3000, 700, 8000) * 6:
        pace.note(tokens, 2 * line(tokens)[1])
    assert pace.seconds(2000) == pytest.approx(0.16, rel=0.05)


def test_noise_is_averaged() -> None:
    rng = random.Random(1)
    pace = Pace(2048)
    errors = []
    for _ in range(300):
        tokens, took_s = line(rng.randrange(500, 20_000))
        expected_s = pace.seconds(tokens)
        if expected_s is not None:
            errors.append(abs(expected_s / took_s - 1))
        pace.note(tokens, took_s * rng.uniform(0.8, 1.3))
    assert sum(errors) / len(errors) < 0.12


def test_instant_engines_have_no_speed() -> None:
    assert noted((1000, 0.0), (1000, 0.0), (1000, 0.0)).tokens_per_s is None


def test_what_is_learnt_takes_no_room_and_hardly_any_time() -> None:
    paces = Paces()
    for tokens in range(1000):
        paces.compute.note(*line(tokens))
    assert not hasattr(paces.compute, "__dict__")
    assert timeit(lambda: paces.decode.note(100, 1.0), number=1) < 1


def test_how_fast_an_engine_is_with_long_prompts_is_not_told_from_short_ones() -> None:
    pace = Pace(compared_tokens=2048)
    for _ in range(5):
        pace.note(60, 0.002)
    assert pace.tokens_per_s is None
    pace.note(256, 0.008)
    assert pace.tokens_per_s == pytest.approx(2048 / 0.064, rel=0.2)
