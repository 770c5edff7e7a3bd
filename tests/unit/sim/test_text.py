"""Generated text."""

import re
from typing import Any

import pytest

from router.sim import blocks, text
from router.sim.request import parse_body

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me."}]}


def test_a_text_depends_on_model_and_prompt_only() -> None:
    body = BODY | {"max_tokens": 30}
    right = text.reference_text("a", "chat", body)
    assert text.reference_text("a", "chat", body | {"temperature": 2.0, "seed": 7, "stream": True}) == right
    others = [
        text.reference_text("b", "chat", body).text,
        text.reference_text("a", "chat", body | {"messages": [{"role": "user", "content": "Tell me!"}]}).text,
        text.reference_text("a", "completions", {"prompt": "Tell me.", "max_tokens": 30}).text,
    ]
    assert len({right.text, *others}) == 4


def test_a_shorter_answer_is_the_start_of_a_longer_one() -> None:
    short, long = (text.reference_text("a", "chat", BODY | {"max_tokens": length}) for length in (5, 50))
    assert long.text.startswith(short.text)
    assert (len(short.text), len(long.text)) == (20, 200)
    assert (short.completion_tokens, long.completion_tokens, short.finish_reason) == (5, 50, "length")


def test_tokens_are_word_pieces_that_need_no_escapes() -> None:
    assert len(text.PIECES) == len(set(text.PIECES)) > 1000
    assert all(re.fullmatch(rb" [a-z]{3}", piece) for piece in text.PIECES)


def test_without_a_limit_an_answer_ends_by_itself() -> None:
    lengths = set()
    for number in range(50):
        body = {"messages": [{"role": "user", "content": f"{number}"}]}
        answer = text.reference_text("a", "chat", body)
        assert answer.finish_reason == "stop"
        lengths.add(answer.completion_tokens)
    assert len(lengths) > 10
    assert min(lengths) >= text.SHORTEST_ANSWER_TOKENS
    assert max(lengths) <= text.LONGEST_ANSWER_TOKENS


def test_min_tokens_and_the_context_bound_a_natural_answer() -> None:
    request = parse_body("chat", BODY | {"min_tokens": 500})
    assert text.answer_length(request, request.prompts[0], 10_000) == (500, "stop")
    assert text.answer_length(request, b"a" * 40, 100) == (90, "length")


def test_choices_differ_and_come_in_order() -> None:
    body = {"prompt": ["one", "two"], "n": 2, "max_tokens": 4}
    answer = text.reference_text("a", "completions", body)
    assert len({choice.text for choice in answer.choices}) == 4
    lone = text.reference_text("a", "completions", {"prompt": "two", "max_tokens": 4})
    assert answer.choices[2].text == lone.text
    assert (answer.prompt_tokens, answer.completion_tokens) == (2, 16)


@pytest.mark.parametrize("prompt", ["Tell me.", [ord("T")]])
def test_echo_puts_the_prompt_first(prompt: object) -> None:
    body = {"prompt": prompt, "max_tokens": 2}
    plain = text.reference_text("a", "completions", body).text
    echoed = text.reference_text("a", "completions", body | {"echo": True}).text
    assert echoed == ("Tell me." if isinstance(prompt, str) else "T") + plain


def test_other_kv_gives_other_text() -> None:
    right = blocks.understood(blocks.root("a"), b"abcd")
    wrong = blocks.understood(blocks.root("a"), b"abcd", b"broken")
    assert text.advance(text.first_state(right, 0))[0] != text.advance(text.first_state(wrong, 0))[0]
