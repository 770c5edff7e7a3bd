import pytest

from router.engines.plain import Plain
from tests.support.builders import a_call


def test_a_lone_engine_gets_the_clients_body_as_it_is() -> None:
    call = a_call(stream=True, a_field_of_tomorrow=[1])
    assert Plain().plain_body(call) == call.body


@pytest.mark.parametrize("event", [b'data: {"error":{"message":"x"}}', b'data:{"error":1}'])
def test_an_error_event_is_known_by_its_start(event: bytes) -> None:
    assert event.startswith(Plain.error_starts)


@pytest.mark.parametrize(
    "event",
    [
        b"data: [DONE]",
        b'data: {"id":"1","choices":[{"delta":{"content":"{\\"error\\": 1}"}}]}',
        b'data: {"errors_seen":0}',
        b': {"error"}',
        b"",
    ],
)
def test_what_only_speaks_of_errors_is_the_engines_work(event: bytes) -> None:
    assert not event.startswith(Plain.error_starts)
