"""Which fault happens to which request."""

import pytest

from router.sim.faults import ENGINE_FAULTS, Fault, Faults

CHAT, COMPLETIONS, HEALTH = "/v1/chat/completions", "/v1/completions", "/health"


def faults(*added: Fault, seed: int = 0) -> Faults:
    """Faults of an engine that has none of its own."""
    made = Faults(seed, lambda _fault: None)
    made.add(*added)
    return made


def kinds(given: Faults, path: str, times: int) -> list[str]:
    """What happens to requests, one after the other."""
    picked = [given.pick(path) for _ in range(times)]
    return [fault.kind if fault else "" for fault in picked]


def test_counted_faults_happen_in_order_and_end() -> None:
    given = faults(Fault("status", count=2), Fault("reset", count=1))
    assert kinds(given, CHAT, 4) == ["status", "status", "reset", ""]
    assert given.happened == 3


def test_a_fault_given_twice_counts_twice() -> None:
    fault = Fault("reset", count=1)
    assert kinds(faults(fault, fault), CHAT, 3) == ["reset", "reset", ""]
    assert fault.count == 1


def test_without_a_count_they_happen_for_ever() -> None:
    assert kinds(faults(Fault("hang")), CHAT, 5) == ["hang"] * 5


def test_a_path_of_its_own() -> None:
    given = faults(Fault("status", path=HEALTH))
    assert kinds(given, CHAT, 1) == [""]
    assert kinds(given, HEALTH, 1) == ["status"]


def test_without_a_path_only_generation_is_hit() -> None:
    given = faults(Fault("reset"))
    assert [kinds(given, path, 1) for path in (HEALTH, CHAT, COMPLETIONS)] == [[""], ["reset"], ["reset"]]


def test_shares_are_seeded() -> None:
    first, second, other = (kinds(faults(Fault("reset", share=0.3), seed=seed), CHAT, 300) for seed in (1, 1, 2))
    assert first == second != other
    assert 60 < first.count("reset") < 120


def test_engine_faults_happen_at_once() -> None:
    happened: list[str] = []
    given = Faults(0, lambda fault: happened.append(fault.kind))
    given.add(*(Fault.from_json({"kind": kind}) for kind in sorted(ENGINE_FAULTS)))
    assert happened == sorted(ENGINE_FAULTS)
    assert given.pick(CHAT) is None


def test_cleared_faults_do_not_happen() -> None:
    given = faults(Fault("hang"))
    given.clear()
    assert given.pick(CHAT) is None
    assert repr(given) == "<Faults [], 0 happened>"


def test_the_json_form() -> None:
    fault = Fault.from_json({"kind": "status", "status": 503, "count": 2})
    assert (fault.kind, fault.status, fault.count) == ("status", 503, 2)
    assert Fault.from_json(faults(fault).snapshot()[0]) == fault


@pytest.mark.parametrize(
    "value",
    [
        "reset",
        {},
        {"kind": "meteor"},
        {"kind": "reset", "color": "red"},
        {"kind": "delay"},
        {"kind": "reset", "how": "x"},
    ],
)
def test_what_is_no_fault(value: object) -> None:
    with pytest.raises(ValueError, match=r"fault|delay_s|how"):
        Fault.from_json(value)
