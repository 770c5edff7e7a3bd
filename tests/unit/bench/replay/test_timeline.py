from router.bench.replay.timeline import Timeline


def test_events_happen_in_the_order_of_their_times_and_see_them() -> None:
    timeline, seen = Timeline(), list[tuple[str, float]]()

    def note(name: str) -> None:
        seen.append((name, timeline.now_s))

    timeline.at(2, lambda: note("late"))
    timeline.at(1, lambda: timeline.at(1.5, lambda: note("planned on the way")))
    timeline.at(1, lambda: note("second of two"))
    timeline.run()
    assert seen == [("second of two", 1), ("planned on the way", 1.5), ("late", 2)]
