from typing import Any

import pytest

from router.fleet.identity import Identity, identity


def listing(*cards: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": list(cards)}


def test_version_and_model_make_the_group() -> None:
    told = identity({"version": "0.32.0"}, listing({"id": "chat", "root": "org/model", "parent": None}))
    assert told == Identity("0.32.0", ("org/model",))
    assert told.group == "0.32.0 org/model"


@pytest.mark.parametrize("version", [None, [], {}, {"version": 5}, {"version": ""}, "0.32.0"])
def test_engines_that_tell_no_version_are_of_one_group(version: object) -> None:
    assert identity(version, listing({"id": "m"})).group == "unknown m"


def test_what_a_model_is_served_as_does_not_matter() -> None:
    one = identity(None, listing({"id": "a", "root": "org/model"}, {"id": "b", "root": "org/model"}))
    assert one == identity(None, listing({"id": "c", "root": "org/model"}))


@pytest.mark.parametrize("root", [None, 5, ""])
def test_a_model_without_a_root_is_known_by_its_name(root: object) -> None:
    assert identity(None, listing({"id": "m", "root": root})).models == ("m",)


def test_neither_adapters_nor_context_lengths_matter() -> None:
    base, adapter = {"id": "m", "root": "m"}, {"id": "sql", "root": "/adapters/sql", "parent": "m"}
    assert identity(None, listing({"max_model_len": 10, **base}, adapter)) == identity(None, listing(base))


def test_the_order_of_models_does_not_matter() -> None:
    assert identity(None, listing({"id": "b"}, {"id": "a"})).group == "unknown a b"
