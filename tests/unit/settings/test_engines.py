import pytest

from router.settings.loading import load
from tests.support.settings import DECODE, faults

KV_EVENTS = {"endpoint": "tcp://{host}:5557", "replay_endpoint": "tcp://{host}:5558"}


def test_kv_events_are_where_the_engine_is() -> None:
    engine = load(flags={"backends": [{**DECODE, "kv_events": KV_EVENTS}]}, environ={}).backends[0]
    assert engine.kv_events is not None
    at = engine.kv_events.at(engine.host)
    assert (at.endpoint, at.replay_endpoint) == (f"tcp://{engine.host}:5557", f"tcp://{engine.host}:5558")
    assert engine.kv_events.model_copy(update={"replay_endpoint": None}).at("x").replay_endpoint is None


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\ud800", "\x00"])
def test_models_and_groups_have_names_that_can_be_shown(name: str) -> None:
    for fields in ({"group": name}, {"models": [name]}):
        (fault,) = faults(flags={"backends": [{**DECODE, **fields}]})
        assert "must be printable text that is not empty" in fault


def test_models_and_groups_may_have_names_of_any_script() -> None:
    named = {"group": "blau grün", "models": ["org/模型-8b"]}
    engine = load(flags={"backends": [{**DECODE, **named}]}, environ={}).backends[0]
    assert (engine.group, engine.models) == ("blau grün", ("org/模型-8b",))
