import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import InvalidRequest, TooLarge
from router.json_bounds import JsonBounds, count_values, is_deeper, loads

STRUCTURAL = st.text('[]{}",:\\ \n\u6f22a1')
"""Strings full of what structure is made of."""

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | STRUCTURAL
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRUCTURAL, inner, max_size=4),
    max_leaves=20,
)
STYLES = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


def children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def values(value: Any) -> int:
    return 1 + sum(map(values, children(value)))


def depth(value: Any) -> int:
    return isinstance(value, dict | list) + max(map(depth, children(value)), default=0)


# The tests by themselves


@given(JSON, STYLES)
def test_values_are_counted_exactly_whatever_strings_hold(value: Any, style: dict[str, Any]) -> None:
    assert count_values(json.dumps(value, **style).encode(), limit=1000) == values(value)


@given(JSON, st.integers(0, 6))
def test_depth_is_that_of_the_deepest_container(value: Any, max_depth: int) -> None:
    assert is_deeper(value, max_depth) == (depth(value) > max_depth)


@given(st.binary(max_size=40) | STRUCTURAL.map(str.encode), JSON)
def test_what_is_no_json_counts_no_less_than_its_valid_beginning(rest: bytes, value: Any) -> None:
    begun = json.dumps([value])[:-1].encode()
    assert count_values(begun + rest, limit=1000) >= values([value])


@pytest.mark.parametrize("raw", [b"[ ]", b"{\n\t}", b'[\r"[" , { } ]', b" 1 "])
def test_spaces_make_no_values(raw: bytes) -> None:
    assert count_values(raw, limit=1000) == values(orjson.loads(raw))


def test_counting_ends_where_strings_alone_tell() -> None:
    assert count_values(b'"' * 1000, limit=100) == 101


# Together


@given(JSON, STYLES, st.builds(JsonBounds, max_depth=st.integers(1, 6), max_values=st.integers(1, 30)))
def test_a_document_is_read_exactly_if_it_is_within_the_bounds(
    value: Any, style: dict[str, Any], bounds: JsonBounds
) -> None:
    raw = json.dumps(value, **style).encode()
    try:
        assert loads(raw, bounds) == value
    except TooLarge:
        assert values(value) > bounds.max_values
    except InvalidRequest:
        assert depth(value) > bounds.max_depth
    else:
        assert values(value) <= bounds.max_values
        assert depth(value) <= bounds.max_depth


@pytest.mark.parametrize("item", [b"[[]]", b"{}", b"1", b'""', b'{"":0}', b"[[[[[[1]]]]]]"])
def test_the_limit_of_values_is_exact(item: bytes) -> None:
    bounds = JsonBounds(max_values=5 * values(orjson.loads(item)) + 1)
    assert len(loads(b"[" + b",".join([item] * 5) + b"]", bounds)) == 5
    with pytest.raises(TooLarge, match=f"more than {bounds.max_values} JSON values"):
        loads(b"[" + b",".join([item] * 6) + b"]", bounds)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_the_limit_of_levels_is_exact(opening: str, closing: str) -> None:
    def nested(levels: int) -> bytes:
        return f"{opening * levels}1{closing * levels}".encode()

    assert depth(loads(nested(64), JsonBounds())) == 64
    with pytest.raises(InvalidRequest, match="more than 64 levels"):
        loads(nested(65), JsonBounds())


def test_brackets_and_commas_in_strings_cost_nothing() -> None:
    text = '[{,\\"' * 1000
    assert loads(json.dumps([text]).encode(), JsonBounds(max_depth=1, max_values=2)) == [text]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[" * 5_000_000,
        b"[1",
        b"NaN",
        b"1e999",
        b"1" + b"0" * 10_000,
        rb'"\ud800"',
        rb'"\ud83dx"',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        "[1]".encode("utf-16"),
        b"[1]\x00",
    ],
    ids=range(13),
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises((InvalidRequest, TooLarge)):
        loads(raw, JsonBounds())
