import pytest

from router.usage import Usage


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 2}, Usage(9, 2, None)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 2, 4)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None}, Usage(9, 0, None)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": "4"}}, Usage(9, 0, None)),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
        ({"prompt_tokens": -1}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_what_an_answer_tells(usage: object, read: Usage | None) -> None:
    assert Usage.of({"usage": usage}) == read


def test_an_answer_without_any() -> None:
    assert Usage.of({}) is None
