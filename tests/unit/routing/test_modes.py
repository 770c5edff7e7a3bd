import pytest

from router.routing.modes import Modes
from router.settings.routing import Mode, Routing

IDS = [f"0a1b2c-{number:x}" for number in range(10_000)]


def test_there_is_one_mode_unless_a_share_is_asked_for() -> None:
    assert {Modes("auto").of(request_id) for request_id in IDS} == {"auto"}
    assert {Modes("auto").arm(request_id) for request_id in IDS} == {""}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_share_of_requests_has_the_mode_and_the_rest_the_other(share: float) -> None:
    modes = Modes("auto", share, "disaggregated")
    drawn: list[Mode] = [modes.of(request_id) for request_id in IDS]
    assert drawn.count("auto") / len(IDS) == pytest.approx(share, abs=0.015)
    assert set(drawn) <= {"auto", "disaggregated"}
    assert [modes.arm(request_id) for request_id in IDS] == drawn


def test_a_request_is_told_its_mode_by_its_id_also_elsewhere() -> None:
    first, second = Modes("auto", 0.5), Modes("auto", 0.5)
    assert [first.of(request_id) for request_id in IDS] == [second.of(request_id) for request_id in IDS]


def test_who_is_in_a_small_share_is_in_a_larger_one() -> None:
    few, many = ({i for i in IDS if Modes("auto", share).of(i) == "auto"} for share in (0.2, 0.6))
    assert few < many


def test_the_settings_say_what_it_begins_with() -> None:
    assert Modes.configured(Routing()) == Modes("auto", 1.0, "local")
    asked = Routing(mode="disaggregated", mode_share=0.25, mode_otherwise="auto")
    assert Modes.configured(asked) == Modes("disaggregated", 0.25, "auto")
