from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.call import Call
from router.routing.prefix.blocks import BLOCK_BYTES, BLOCK_TOKENS, blocks, chain
from tests.support.builders import a_call, a_completion

LONG = "Tell me about pools. " * 100
TURN = [{"role": "system", "content": LONG}, {"role": "user", "content": LONG}]
NEXT = [*TURN, {"role": "assistant", "content": "Two of them."}, {"role": "user", "content": LONG}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}


def hashes(call: Call, salt: bytes = b"") -> list[int]:
    return list(blocks(call, call.prompt_tokens, salt).hashes)


def of(messages: list[Any], **fields: Any) -> list[int]:
    return hashes(a_call(messages=messages, **fields))


def shared(one: list[int], other: list[int]) -> int:
    """How many blocks two prompts have in common, all of them at the start."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    assert same == sorted(same, reverse=True)
    return sum(same)


def test_the_next_turn_of_a_chat_has_all_blocks_of_the_turn_before() -> None:
    before, after = of(TURN), of(NEXT)
    assert len(before) == 2 * len(LONG) // BLOCK_BYTES
    assert shared(before, after) == len(before) < len(after)


def test_equal_text_in_another_place_has_other_blocks() -> None:
    later = of([{"role": "system", "content": "x" * BLOCK_BYTES}, *TURN])
    assert not set(later) & set(of(TURN))


def test_prompts_part_in_the_block_in_which_they_differ() -> None:
    changed = [TURN[0], {"role": "user", "content": LONG[:1000] + "!" + LONG[1001:]}]
    at = len(LONG) + 1000
    assert at // BLOCK_BYTES <= shared(of(TURN), of(changed)) <= at // BLOCK_BYTES + 1


@pytest.mark.parametrize(
    "changed",
    [
        [{"content": LONG, "role": "system", "name": None}, TURN[1]],
        [{"role": "system", "content": [{"type": "text", "text": LONG}]}, TURN[1]],
        [{"role": "system", "content": LONG, "tool_calls": []}, TURN[1]],
    ],
)
def test_how_a_client_writes_the_same_prompt_does_not_matter(changed: list[Any]) -> None:
    assert of(changed) == of(TURN)


@pytest.mark.parametrize(
    "changed",
    [
        [{"role": "developer", "content": LONG}, TURN[1]],
        [{"role": "system", "content": LONG, "name": "ann"}, TURN[1]],
        [{"role": "system", "content": LONG, "tool_calls": [{"id": "1"}]}, TURN[1]],
        [{"role": "system", "content": [{"type": "text", "text": LONG}, IMAGE]}, TURN[1]],
    ],
)
def test_what_a_template_shows_the_model_does(changed: list[Any]) -> None:
    assert shared(of(changed), of(TURN)) < len(of(TURN))


def test_tools_and_switches_of_the_template_come_first() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    swapped = [{"function": {"name": "f"}, "type": "function"}]
    assert shared(of(TURN), of(TURN, tools=tools)) == 0
    assert of(TURN, tools=tools) == of(TURN, tools=swapped)
    assert shared(of(TURN), of(TURN, chat_template_kwargs={"thinking": True})) == 0
    assert of(TURN) == of(TURN, temperature=1, tools=[])


def test_an_image_counts_by_its_digest() -> None:
    def asked(image: dict[str, Any]) -> list[int]:
        return of([{"role": "user", "content": [image, {"type": "text", "text": LONG}]}])

    assert len(asked(IMAGE)) == (len(LONG) + 30) // BLOCK_BYTES
    assert asked(IMAGE) == asked(dict(reversed(IMAGE.items())))
    assert not set(asked(IMAGE)) & set(asked({"type": "image_url", "image_url": {"url": "B" * 90_000}}))


def test_what_an_assistant_called_is_text_like_any_other() -> None:
    def turn(arguments: str) -> dict[str, Any]:
        function = {"name": "write_file", "arguments": arguments}
        return {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}

    written = of([turn(LONG + LONG)])
    assert len(written) >= 2 * len(LONG) // BLOCK_BYTES
    assert shared(written, of([turn(LONG + "other" + LONG[5:])])) == len(LONG) // BLOCK_BYTES


def test_models_tenants_and_apis_share_nothing() -> None:
    ours = hashes(a_call(messages=TURN), b"ours")
    for other in (
        hashes(a_call(messages=TURN)),
        hashes(a_call(messages=TURN), b"theirs"),
        hashes(a_call(messages=TURN, model="another"), b"ours"),
    ):
        assert not set(ours) & set(other)
    assert hashes(a_call(messages=TURN), b"ours") == ours
    assert not set(hashes(a_completion(prompt=LONG))) & set(hashes(a_completion(prompt=LONG, model="another")))


def test_token_ids_are_counted_not_estimated() -> None:
    ids = list(range(1000))
    of_ids = blocks(a_completion(prompt=ids), 1000)
    assert (len(of_ids.hashes), of_ids.tokens_each) == (1000 // BLOCK_TOKENS, BLOCK_TOKENS)
    assert shared(list(of_ids.hashes), hashes(a_completion(prompt=[*ids[:640], *ids]))) == 10


def test_blocks_stand_for_their_share_of_the_tokens() -> None:
    made = blocks(a_completion(prompt="x" * 10 * BLOCK_BYTES), 900)
    assert (len(made.hashes), made.tokens_each) == (10, 90)


def test_a_prompt_shorter_than_a_block_has_none() -> None:
    assert hashes(a_completion(prompt="short")) == []
    assert hashes(a_call(messages=[])) == []


def test_what_has_no_tokens_has_no_blocks_however_long_it_is() -> None:
    for call in (a_call(messages=[], documents=[LONG]), a_completion(prompt=[{"text": LONG}])):
        made = blocks(call, call.prompt_tokens)
        assert (call.prompt_tokens, list(made.hashes), made.tokens_each) == (0, [], BLOCK_TOKENS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON)
def test_any_json_has_blocks(messages: Any, tools: Any) -> None:
    assert hashes(a_call(messages=messages, tools=tools)) == of(messages, tools=tools)
    assert isinstance(hashes(a_completion(prompt=messages)), list)


@given(st.binary(max_size=600), st.binary(max_size=600), st.integers(0, 2**64 - 1))
def test_a_chain_of_more_begins_as_the_chain_of_less(head: bytes, tail: bytes, seed: int) -> None:
    less = chain(head, seed, 64)
    assert chain(head + tail, seed, 64)[: len(less)] == less
    assert len(less) == len(head) // 64
