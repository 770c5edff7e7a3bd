from router.fleet.kv_events.events import Batch, Cleared, Removed, Stored


def test_events_are_values() -> None:
    assert Stored([1, 2], None, 16) == Stored([1, 2], None, 16, session=None)
    assert Stored([1], None, 16) != Stored([1], 7, 16)
    assert Batch(1.0, [Removed([1]), Cleared()]) == Batch(1.0, [Removed([1]), Cleared()])
