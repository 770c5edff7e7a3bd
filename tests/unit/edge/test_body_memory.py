import pytest

from router.edge.body_memory import BodyMemory
from router.errors import Unavailable
from tests.support.edge import TurnedAway


def test_all_bodies_share_one_limit() -> None:
    observer = TurnedAway()
    memory = BodyMemory(100, observer)
    with memory.share() as first, memory.share() as second:
        first.take(60)
        second.take(40)
        with pytest.raises(Unavailable, match="no room"):
            second.take(1)
        assert (second.held_bytes, memory.held_bytes, observer.reasons) == (40, 100, ["body_memory"])
        first.give_back()
        second.take(60)
    assert memory.held_bytes == 0


def test_what_is_given_back_is_given_back_once() -> None:
    memory = BodyMemory(100, TurnedAway())
    with memory.share() as share:
        share.take(10)
        share.give_back()
        share.give_back()
    assert memory.held_bytes == 0
