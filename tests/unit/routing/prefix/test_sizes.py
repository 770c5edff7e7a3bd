import pytest

from router.routing.prefix.sizes import MAX_MODELS, TokenSizes
from tests.support.builders import a_call, a_completion

TEXT = a_completion(prompt="x" * 8000)


def test_english_until_something_is_known() -> None:
    assert TokenSizes().tokens(TEXT) == 2000 == TEXT.prompt_tokens


def test_what_engines_count_is_learnt_per_model() -> None:
    sizes = TokenSizes()
    for _ in range(100):
        sizes.learn(TEXT, 4000)
    assert sizes.bytes_per_token(TEXT.model) == pytest.approx(2, rel=0.02)
    assert sizes.tokens(TEXT) == pytest.approx(4000, rel=0.02)
    assert sizes.tokens(a_completion(prompt="x" * 8000, model="another")) == 2000


def test_the_last_prompts_count() -> None:
    sizes = TokenSizes()
    for tokens in (1000,) * 300 + (4000,) * 200:
        sizes.learn(TEXT, tokens)
    assert sizes.bytes_per_token(TEXT.model) == pytest.approx(2, rel=0.05)


def test_one_odd_count_does_not_turn_it_over() -> None:
    sizes = TokenSizes()
    for _ in range(100):
        sizes.learn(TEXT, 2000)
    sizes.learn(TEXT, 16_000)
    assert 3 < sizes.bytes_per_token(TEXT.model) < 4


@pytest.mark.parametrize("bytes_per_token", [0.6, 15.9])
def test_a_single_long_prompt_does_not_speak_for_the_others(bytes_per_token: float) -> None:
    sizes = TokenSizes()
    for _ in range(50):
        sizes.learn(TEXT, 2000)
    odd = a_completion(prompt=" " * 1_600_000)
    sizes.learn(odd, round(1_600_000 / bytes_per_token))
    assert sizes.tokens(TEXT) == pytest.approx(2000, rel=0.2)


@pytest.mark.parametrize("tokens", [0, -1, 1, 100_000])
def test_counts_that_tell_of_something_else_are_not_learnt(tokens: int) -> None:
    sizes = TokenSizes()
    sizes.learn(TEXT, tokens)
    assert sizes.tokens(TEXT) == 2000


def test_short_prompts_are_mostly_template() -> None:
    sizes = TokenSizes()
    sizes.learn(a_completion(prompt="x" * 200), 100)
    assert sizes.tokens(TEXT) == 2000


def test_token_ids_are_counted_already() -> None:
    sizes = TokenSizes()
    ids = a_completion(prompt=[7] * 300)
    sizes.learn(ids, 999)
    assert sizes.tokens(ids) == 300


def test_a_template_counts_with_its_messages() -> None:
    call = a_call(prompt_tokens=600)
    assert (call.prompt_bytes, TokenSizes().tokens(call)) == (2400, 600)


def test_models_are_not_kept_for_ever() -> None:
    sizes = TokenSizes()
    for number in range(MAX_MODELS + 1):
        sizes.learn(a_completion(prompt="x" * 8000, model=f"m-{number}"), 4000)
    assert sizes.bytes_per_token("m-0") == 4
    assert sizes.bytes_per_token("m-1") < 4
