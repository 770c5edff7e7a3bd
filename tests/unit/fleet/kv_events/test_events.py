from router.fleet.kv_events.events import Batch, Cleared, Removed, Stored, slices


def test_events_are_values() -> None:
    assert Stored([1, 2], None, 16) == Stored([1, 2], None, 16, session=None)
    assert Stored([1], None, 16) != Stored([1], 7, 16)
    assert Batch(1.0, [Removed([1]), Cleared()]) == Batch(1.0, [Removed([1]), Cleared()])


def test_a_long_event_in_slices() -> None:
    assert [*slices(Stored([1, 2, 3, 4, 5], 9, 16, "r"), 2)] == [
        Stored([1, 2], 9, 16, "r", more=3),
        Stored([3, 4], 2, 16, "r", more=1),
        Stored([5], 4, 16, "r"),
    ]
    assert [*slices(Removed([1, 2, 3]), 2)] == [Removed([1, 2]), Removed([3])]
    for short in (Stored([1, 2], None, 16), Removed([]), Cleared()):
        assert [*slices(short, 2)] == [short]
