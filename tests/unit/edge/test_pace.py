from router.edge.pace import body_deadline


def test_a_body_may_take_its_time_but_not_fall_behind_its_rate() -> None:
    assert body_deadline(100, 0, 30, 1024) == 105
    assert body_deadline(100, 10 * 1024, 30, 1024) == 115
    assert body_deadline(100, 1 << 20, 30, 1024) == 130
    assert body_deadline(100, 0, 2, 1024) == 102
