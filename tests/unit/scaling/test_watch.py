from collections.abc import Mapping
from typing import Any

import pytest

from router.engines.gauges import Gauges
from router.scaling.watch import Look, Watch
from router.scaling.work import Done

GUESS = 20_000.0


def look(at: float, gauges: Mapping[str, Gauges] | None = None, done: Done | None = None, **counts: Any) -> Look:
    return Look(
        **{"at": at, "requests": 0, "tokens": 0, "waiting": 0} | counts, gauges=gauges or {}, done=done or Done()
    )


def watch(*looks: Look, window_s: float = 60) -> Watch:
    made = Watch(window_s, GUESS)
    for one in looks:
        made.add(one)
    return made


def gauges(running: int = 0, generated: float = 0, kv: float = 0.0) -> Gauges:
    return Gauges(0, running, kv, generated, generated_tokens=generated)


def test_loads_are_means_over_the_window() -> None:
    seen = watch(look(0, requests=90, tokens=900), look(50, requests=2, waiting=2), look(100, requests=4))
    assert seen.decode_load(8).requests == 4
    assert seen.prefill_load().novel_tokens == 0


def test_prompts_in_line_are_as_long_as_those_before_them() -> None:
    seen = watch(look(0), look(10, done=Done(prompts=4, tokens=2000, missed_tokens=500), tokens=100, waiting=3))
    load = seen.prefill_load()
    assert (load.novel_tokens, load.novel_tokens_per_s) == ((100 + 3 * 500) / 2, 250)


def test_one_look_tells_of_no_rate() -> None:
    assert watch(look(0, done=Done(tokens=9))).prefill_load().novel_tokens_per_s == 0


def test_the_peak_is_a_guess_until_engines_were_busy_for_long_enough() -> None:
    short = watch(look(0), look(10, done=Done(1, 5000, busy_s=0.5)))
    assert (short.peak_tokens_per_s, short.peak_measured) == (GUESS, False)
    short.add(look(20, done=Done(2, 8000, busy_s=1.0)))
    assert (short.peak_tokens_per_s, short.peak_measured) == (8000, True)


def test_short_prompts_make_the_peak_no_lower_at_once() -> None:
    seen = watch(look(0), look(10, done=Done(9, 90_000, busy_s=3)), window_s=5)
    assert seen.peak_tokens_per_s == GUESS, "two looks further apart than the window are none together"
    seen = watch(look(0), look(10, done=Done(9, 90_000, busy_s=3)), window_s=10)
    seen.add(look(20, done=Done(99, 120_000, busy_s=6)))
    assert seen.peak_tokens_per_s == pytest.approx(30_000 - 20_000 * 10 / 3600)


def test_the_time_between_tokens_is_told_engine_by_engine() -> None:
    seen = watch(
        look(0, {"a": gauges(10, 0), "b": gauges(0, 0)}),
        look(10, {"a": gauges(10, 5000), "b": gauges(1, 10)}),
    )
    load = seen.decode_load(8)
    assert load.inter_token_s == (0.02,), "b has not done enough to tell"


def test_an_engine_that_started_anew_tells_from_then_on() -> None:
    seen = watch(*(look(at, {"a": gauges(1, tokens)}) for at, tokens in ((0, 900), (10, 0), (20, 500))))
    assert seen.decode_load(8).inter_token_s == (0.02,)


def test_kv_is_that_of_engines_that_are_still_there() -> None:
    seen = watch(look(0, {"a": gauges(kv=0.5), "b": gauges(kv=0.9)}), look(10, {"a": gauges(kv=0.7)}))
    assert seen.decode_load(8).kv_usage_ratios == pytest.approx((0.6,))
