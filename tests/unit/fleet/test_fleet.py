import pytest

from router.fleet.backend import Backend, ModelCard
from router.fleet.fleet import Fleet
from tests.support.builders import MODEL, a_backend, linked, paced


def with_cards(backend: Backend, *cards: ModelCard) -> Backend:
    backend.models = {card.id: card for card in cards}
    return backend


def test_a_snapshot_sorts_usable_engines_into_pools() -> None:
    prefill, decode, aggregated = a_backend("prefill", 1), a_backend("decode", 2), a_backend("aggregated", 3)
    snapshot = Fleet([prefill, decode, aggregated]).snapshot(MODEL)
    assert (snapshot.prefill, snapshot.decode, snapshot.aggregated) == ([prefill], [decode], [aggregated])


def test_engines_that_are_down_or_unknown_are_not_in_it() -> None:
    down = a_backend(port=1)
    for _ in range(3):
        down.standing.bad_probe("x", 1.0)
    snapshot = Fleet([down, a_backend(port=2, up=False)]).snapshot(MODEL)
    assert (snapshot.decode, snapshot.known) == ([], True)


def test_engines_of_other_models_are_not_in_it() -> None:
    mine, other = a_backend(port=1), a_backend(port=2, models=("other",))
    assert Fleet([mine, other]).snapshot(MODEL).decode == [mine]


def test_engines_that_failed_a_request_are_avoided_by_it_alone() -> None:
    failed, other, prefill = a_backend(port=1), a_backend(port=2), a_backend("prefill", 3)
    fleet = Fleet([failed, other, prefill])
    avoiding = fleet.snapshot(MODEL, {failed, prefill})
    assert (avoiding.decode, avoiding.prefill, avoiding.prefill_known) == ([other], [], True)
    assert (fleet.snapshot(MODEL).decode, fleet.snapshot(MODEL).prefill) == ([failed, other], [prefill])


def test_a_snapshot_stays_as_it_was_and_the_next_is_as_it_is() -> None:
    one, other = a_backend(port=1), a_backend(port=2)
    fleet = Fleet([one, other])
    before = fleet.snapshot(MODEL)
    one.standing.drained = True
    assert (before.decode, fleet.snapshot(MODEL).decode) == ([one, other], [other])
    one.standing.drained = False
    other.models = {}
    assert fleet.snapshot(MODEL).decode == [one]
    fleet.backends = (other,)
    assert (fleet.snapshot(MODEL).decode, fleet.snapshot(MODEL).known) == ([], False)


def test_models_that_nobody_serves_are_not_kept_in_mind() -> None:
    fleet = Fleet([a_backend()])
    for number in range(10):
        assert not fleet.snapshot(f"m{number}").known
    assert len(fleet._usable) == 0
    assert fleet.snapshot(MODEL).known
    assert len(fleet._usable) == 1


def test_a_model_that_nobody_serves_is_unknown() -> None:
    fleet = Fleet([a_backend()])
    assert (fleet.snapshot("nope").known, fleet.serves("nope"), fleet.serves(MODEL)) == (False, False, True)


def test_a_request_in_both_its_legs_is_in_flight_once() -> None:
    fleet = Fleet([a_backend("prefill", 1, requests=2), a_backend("decode", 2, requests=3), a_backend("aggregated", 3)])
    fleet.backends[2].load.requests = 1
    assert fleet.inflight == fleet.snapshot(MODEL).inflight == 4


def test_models_are_listed_with_the_context_that_fits_everywhere() -> None:
    fleet = Fleet(
        [
            with_cards(a_backend("prefill", 1), ModelCard("m", 8192)),
            with_cards(a_backend("decode", 2), ModelCard("m", 4096, created=7, owned_by="vllm"), ModelCard("a")),
            with_cards(a_backend("decode", 3), ModelCard("m", None)),
        ]
    )
    assert fleet.models() == [ModelCard("a"), ModelCard("m", 4096, created=7)]


def test_a_model_of_prefill_engines_alone_is_not_listed() -> None:
    assert Fleet([with_cards(a_backend("prefill"), ModelCard("m"))]).models() == []


@pytest.mark.parametrize(("role", "ready"), [("prefill", False), ("decode", True), ("aggregated", True)])
def test_a_fleet_is_ready_with_one_engine_that_can_answer(role: str, ready: bool) -> None:
    assert Fleet([a_backend(role)]).ready is ready


def test_a_fleet_without_usable_engines_or_models_is_not_ready() -> None:
    assert not Fleet([]).ready
    assert not Fleet([a_backend(up=False)]).ready
    assert not Fleet([with_cards(a_backend())]).ready


def test_the_facts_of_the_fleet_view() -> None:
    fleet = Fleet([a_backend("prefill", 1), a_backend("decode", 2, requests=3)])
    facts = fleet.describe(now=1.0)
    assert (facts["ready"], facts["inflight_requests"]) == (True, 3)
    assert {pool: [engine["id"] for engine in engines] for pool, engines in facts["pools"].items()} == {
        "prefill": ["127.0.0.1:1"],
        "decode": ["127.0.0.1:2"],
        "aggregated": [],
    }


def test_its_line_of_facts() -> None:
    assert repr(Fleet([a_backend("prefill", 1), a_backend(port=2), a_backend(port=3, up=False)])) == (
        "<Fleet 1/1 prefill, 1/2 decode>"
    )
    assert repr(Fleet([])) == "<Fleet empty>"


def test_who_can_stand_in_for_an_engine() -> None:
    of = [a_backend(port=port, group=group) for port, group in ((1, "a"), (2, "a"), (3, "b"), (4, "a"))]
    of[3].standing.drained = True
    fleet = Fleet([*of, a_backend("prefill", 5, group="a")])
    assert fleet.stand_ins(of[0]) == [of[1]]


def eject(backend: Backend) -> None:
    for _ in range(3):
        backend.standing.failed("timeout", 1.0, can_be_spared=True)


def test_at_most_half_of_a_pool_can_be_spared() -> None:
    of = [a_backend(port=port, group=group) for port, group in ((1, "a"), (2, "b"), (3, "b"), (4, "b"))]
    fleet = Fleet([*of, a_backend("prefill", 5)])
    for backend in of[:2]:
        assert fleet.can_spare(backend)
        eject(backend)
    assert not fleet.can_spare(of[2])
    assert not fleet.can_spare(fleet.backends[4])


@pytest.mark.parametrize("how", ["drained", "down", "unknown", "ejected"])
def test_who_gets_no_requests_can_stand_in_for_nobody(how: str) -> None:
    last, other = a_backend(port=1), a_backend(port=2, up=how != "unknown")
    assert Fleet([last, a_backend(port=2)]).can_spare(last)
    match how:
        case "drained":
            other.standing.drained = True
        case "down":
            for _ in range(3):
                other.standing.bad_probe("x", 1.0)
        case "ejected":
            eject(other)
    assert not Fleet([last, other]).can_spare(last)


def test_an_engine_is_spared_for_every_model_that_it_serves() -> None:
    several = [a_backend(port=port) for port in (1, 2, 3)]
    only = a_backend(port=4, models=("other",))
    both = a_backend(port=5, models=(MODEL, "adapter"))
    fleet = Fleet([*several, only, both])
    assert [fleet.can_spare(backend) for backend in fleet.backends] == [True, True, True, False, False]
    several[0].models = {**several[0].models, "adapter": ModelCard("adapter")}
    assert fleet.can_spare(both)


def test_a_pair_is_slow_where_handing_over_takes_longer_than_computing() -> None:
    fast, slow, decode = a_backend("prefill", 1), a_backend("prefill", 2), a_backend("decode", 3)
    linked(fast, decode, s_per_token=1e-5)
    linked(slow, decode, s_per_token=3e-4)
    fleet = Fleet([fast, slow, decode])
    assert list(fleet.slow_pairs()) == []
    paced(slow, prefill_tokens_per_s=30_000)
    (pair,) = fleet.slow_pairs()
    assert pair == {
        "prefill": slow.id,
        "decode": decode.id,
        "tokens": 4096,
        "handover_s": pytest.approx(1.239),
        "compute_s": pytest.approx(0.137),
    }
    paced(decode, prefill_tokens_per_s=2000)
    assert list(fleet.slow_pairs()) == []


def test_one_slow_hand_over_makes_no_slow_pair() -> None:
    prefill, decode = a_backend("prefill", 1), paced(a_backend("decode", 2), prefill_tokens_per_s=30_000)
    for count in (0, 0, 1):
        decode.links.begin(prefill.id, 2000, 0.0).arrived(0.7)
        assert len(list(Fleet([prefill, decode]).slow_pairs())) == count


def test_what_was_learnt_of_an_engine_and_its_links_is_forgotten_together() -> None:
    prefill, other, decode = a_backend("prefill", 1), a_backend("prefill", 2), a_backend("decode", 3)
    for engine in (prefill, other):
        linked(paced(engine, prefill_tokens_per_s=30_000), decode, s_per_token=3e-4)
    fleet = Fleet([prefill, other, decode])
    fleet.forget_paces(prefill)
    assert (prefill.paces.compute.samples, other.paces.compute.samples) == (0, 3)
    assert [prefill_id for prefill_id, _ in decode.links.items()] == [other.id]
    fleet.forget_paces(decode)
    assert len(decode.links) == 0
