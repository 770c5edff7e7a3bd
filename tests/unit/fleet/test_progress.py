import math
from dataclasses import replace

from router.engines.gauges import Gauges
from router.fleet.progress import Progress

IDLE, BUSY = Gauges(0, 0, 0.0, 100.0), Gauges(0, 1, 0.1, 120.0)


def test_other_counters_than_last_time_are_a_sign_of_work() -> None:
    progress = Progress()
    progress.note(IDLE, 1.0)
    progress.note(IDLE, 2.0)
    assert (progress.worked_at(), progress.since(0.5), progress.since(1.0)) == (1.0, True, False)
    progress.note(BUSY, 3.0)
    assert (progress.worked_at(), progress.gauges) == (3.0, BUSY)


def test_requests_that_come_and_wait_are_no_sign_of_work() -> None:
    progress = Progress()
    progress.note(BUSY, 1.0)
    waiting = replace(BUSY, waiting=3)
    progress.note(waiting, 2.0)
    assert (progress.worked_at(), progress.gauges) == (1.0, waiting)
    progress.note(replace(waiting, running=0), 3.0)
    assert progress.worked_at() == 3.0


def test_nothing_is_known_of_an_engine_without_counters() -> None:
    progress = Progress()
    assert (progress.worked_at(), progress.since(-1.0), progress.gauges) == (math.inf, False, None)
    assert repr(progress) == "<Progress None None>"
