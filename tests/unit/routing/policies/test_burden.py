import random

import pytest

from router.fleet.backend import Backend
from router.routing.policies.burden import pending_tokens, slowness, slowness_for_pick, tokens_ahead, works
from tests.support.builders import a_backend, a_call, paced

CALL = a_call(prompt_tokens=1000)


def test_of_as_many_streams_the_shorter_prompts_are_less() -> None:
    fewer, more = works([a_backend(requests=2, tokens=10), a_backend(requests=2, tokens=20)], CALL, None)
    assert fewer < more


def test_what_is_pending_is_told_in_tokens_to_compute() -> None:
    assert pending_tokens([a_backend("prefill", requests=3, tokens=900), a_backend("prefill")]) == [900, 0]
    assert pending_tokens([a_backend("decode", requests=3, tokens=900)]) == [0.2 * (900 + 3 * 500)]


def test_what_others_have_there_is_added() -> None:
    prefill, decode = a_backend("prefill", requests=1, tokens=900), a_backend("decode", requests=3, tokens=900)
    prefill.load.note_others(2)
    decode.load.note_others(2, 700)
    assert tokens_ahead(prefill) == 900 + 2 * 2048
    assert pending_tokens([prefill]) == [900 + 2 * 2048]
    assert pending_tokens([decode]) == [0.2 * (900 + 700 + 5 * 500)]
    assert works([prefill], CALL, None) == [(900 + 2 * 2048 + 1000, 3 + 1)]
    assert works([decode], CALL, None) == [(5 + 1, 1600 + 1000)]


def test_a_decode_engine_has_ahead_of_a_prompt_what_it_computes_itself() -> None:
    decode = a_backend("decode", requests=3, tokens=900)
    decode.load.local_tokens = 300
    assert tokens_ahead(decode) == 300


def prefill(*speeds: float | None) -> list[Backend]:
    return [paced(a_backend("prefill", port, tokens=1000), prefill_tokens_per_s=s) for port, s in enumerate(speeds, 1)]


def decode(*speeds: float | None) -> list[Backend]:
    return [paced(a_backend("decode", port, requests=2), decode_tokens_per_s=s) for port, s in enumerate(speeds, 1)]


@pytest.mark.parametrize("speeds", [(None, None), (10_000, None), (10_000, 12_000), (10_000, 10_000, None)])
def test_engines_that_are_not_known_to_differ_are_equally_fast(speeds: tuple[float | None, ...]) -> None:
    assert slowness(prefill(*speeds)) is None


def test_slower_ones_have_as_much_more_to_do() -> None:
    assert slowness(prefill(40_000, 20_000, 5_000)) == pytest.approx([0.5, 1, 4])
    assert pending_tokens(prefill(40_000, 20_000, 5_000)) == pytest.approx([500, 1000, 4000])
    engines = decode(200, 100, 50)
    assert [streams for streams, _ in works(engines, CALL, slowness(engines))] == pytest.approx([1.5, 3, 6])
    assert pending_tokens(decode(200, 100, 50)) == pytest.approx([100, 200, 400])


def test_unknown_ones_are_as_fast_as_the_median() -> None:
    assert slowness(prefill(40_000, None, 20_000, 5_000)) == pytest.approx([0.5, 1, 1, 4])


def test_small_differences_are_none_and_large_ones_bounded() -> None:
    assert slowness(prefill(10_000, 12_000, 30_000, 100)) == pytest.approx([1.2, 1, 0.4, 16], abs=0.21)
    assert slowness(prefill(10_000, 12_000, 100_000_000)) == pytest.approx([1, 1, 1 / 16])


def test_each_pool_is_weighed_by_what_it_does() -> None:
    engine, other = a_backend("decode", 1, requests=2), a_backend("decode", 2, requests=2)
    paced(engine, prefill_tokens_per_s=100)
    paced(other, prefill_tokens_per_s=10_000)
    assert slowness([engine, other]) is None


def test_some_choices_take_all_for_equally_fast_so_that_a_slow_one_is_seen_again() -> None:
    engines, rng = prefill(20_000, 5_000), random.Random(1)
    drawn = [slowness_for_pick(engines, rng) for _ in range(3200)]
    assert 60 < drawn.count(None) < 140
    assert all(slow == slowness(engines) for slow in drawn if slow)
    alike = random.Random(1)
    assert slowness_for_pick(prefill(20_000, 20_000), alike) is None
    assert alike.random() == random.Random(1).random(), "nothing is drawn where there is nothing to choose"
