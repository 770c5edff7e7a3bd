from router.settings.loading import load
from tests.support.settings import DECODE

KV_EVENTS = {"endpoint": "tcp://{host}:5557", "replay_endpoint": "tcp://{host}:5558"}


def test_kv_events_are_where_the_engine_is() -> None:
    engine = load(flags={"backends": [{**DECODE, "kv_events": KV_EVENTS}]}, environ={}).backends[0]
    assert engine.kv_events is not None
    at = engine.kv_events.at(engine.host)
    assert (at.endpoint, at.replay_endpoint) == (f"tcp://{engine.host}:5557", f"tcp://{engine.host}:5558")
    assert engine.kv_events.model_copy(update={"replay_endpoint": None}).at("x").replay_endpoint is None
