"""Every dialect keeps to the protocols; mypy holds their types, this holds what types cannot say."""

import orjson
import pytest

from router.engines import PAIRED, PLAIN
from router.engines.dialect import Dialect, PairedDialect
from tests.support.builders import a_call, a_handoff

DIALECTS: list[Dialect] = [PLAIN, *PAIRED.values()]
PAIRED_DIALECTS: list[PairedDialect] = [*PAIRED.values()]


def test_a_paired_dialect_is_found_by_its_own_name() -> None:
    assert {name: dialect.name for name, dialect in PAIRED.items()} == {name: name for name in PAIRED}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_no_dialect_touches_what_a_lone_engine_is_asked(dialect: Dialect) -> None:
    call = a_call()
    assert dialect.plain_body(call) == call.body


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_knows_the_end_of_a_stream_from_an_error(dialect: Dialect) -> None:
    assert [e.startswith(dialect.error_starts) for e in (b'data: {"error":{}}', b"data: [DONE]")] == [True, False]


@pytest.mark.parametrize("dialect", PAIRED_DIALECTS, ids=lambda dialect: dialect.name)
def test_every_leg_has_a_json_body_and_leaves_the_call_as_it_was(dialect: PairedDialect) -> None:
    call = a_call(stream=True)
    before, fields = bytes(call.body), orjson.dumps(call.fields)
    bodies = [
        dialect.prefill_body(call),
        dialect.decode_body(call, a_handoff(call), now=1.0),
        dialect.release_body(a_handoff(call)),
    ]
    assert all(isinstance(orjson.loads(body), dict) for body in bodies)
    assert (call.body, orjson.dumps(call.fields)) == (before, fields)
