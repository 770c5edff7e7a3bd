"""Tokens of texts and conversations."""

from hypothesis import given
from hypothesis import strategies as st

from router.sim import tokens


def test_a_token_is_four_bytes() -> None:
    assert tokens.encode("abcdefg") == b"abcdefg\0"
    assert tokens.count(tokens.encode("abcdefg")) == 2
    assert tokens.encode("") == b""


@given(st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8")))
def test_text_comes_back(text: str) -> None:
    assert tokens.decode(tokens.encode(text)) == text


@given(st.lists(st.integers(0, tokens.TOKEN_LIMIT - 1)))
def test_ids_come_back(ids: list[int]) -> None:
    assert tokens.to_ids(tokens.from_ids(ids)) == ids


def test_a_lone_surrogate_is_a_text_too() -> None:
    assert tokens.count(tokens.encode("\ud800")) == 1


def test_an_answer_sent_back_extends_the_tokens_of_its_own_generation() -> None:
    question = [{"role": "user", "content": "Why?"}]
    answer = " bad cat"
    followed = [*question, {"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    generated = tokens.from_messages(question) + answer.encode()
    assert tokens.from_messages(followed).startswith(generated)


def test_parts_tools_and_calls_are_part_of_the_prompt() -> None:
    plain = tokens.from_messages([{"role": "user", "content": "hello"}])
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert tokens.from_messages([{"role": "user", "content": parts}]) == plain
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    prompts = {
        plain,
        tokens.from_messages([{"role": "user", "content": image}]),
        tokens.from_messages([{"role": "user", "content": "hello"}], tools=[{"type": "function"}]),
        tokens.from_messages([{"role": "user", "content": "hello", "tool_calls": [{"id": "1"}]}]),
        tokens.from_messages([{"role": "system", "content": "hello"}]),
        tokens.from_messages([]),
    }
    assert len(prompts) == 6
