import asyncio
from collections import Counter
from typing import Any

from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.scaling.autoscaler import Autoscaler, Capacity
from router.scaling.work import PrefillWork
from router.settings.engines import Role
from router.settings.scaling import Autoscale
from tests.support.builders import MODEL, a_backend


class Site:
    """Two prefill and two decode engines that each do 1,000 tokens a second, or 10 requests at once."""

    def __init__(self, **rules: Any) -> None:
        self.now = 0.0
        self.prefill = [a_backend(Role.PREFILL, port) for port in (1, 2)]
        self.decode = [a_backend(Role.DECODE, port) for port in (11, 12)]
        self.fleet = Fleet([*self.prefill, *self.decode])
        self.work = PrefillWork()
        self.waiting: Counter[Role] = Counter()
        made = Autoscale(**({"window_s": 10, "scale_in_after_s": 60} | rules))
        self.autoscaler = Autoscaler(
            self.fleet, lambda role, _: self.waiting[role], self.work, made, Capacity(1000, 10), lambda: self.now
        )

    def after(self, seconds: float, *, tokens: int = 0, requests: int = 0) -> dict[str, Any]:
        """What is told after looks every 5 s, with so many tokens on each prefill engine, requests on each decode."""
        for engine in self.prefill:
            engine.load.tokens = tokens
        for engine in self.decode:
            engine.load.requests = requests
        until = self.now + seconds
        while self.now < until:
            self.now += 5
            self.autoscaler.look()
        told: dict[str, Any] = self.autoscaler.describe()["models"][MODEL]
        return told


def test_a_pool_is_wanted_as_it_is_found() -> None:
    site = Site()
    assert list(site.autoscaler.desired()) == []
    told = site.after(5)
    assert {pool: (p["desired"], p["usable"]) for pool, p in told.items()} == {"decode": (2, 2), "prefill": (2, 2)}
    assert sorted(site.autoscaler.desired()) == [(MODEL, Role.DECODE, 2), (MODEL, Role.PREFILL, 2)]


def test_each_pool_grows_by_its_own_load() -> None:
    told = Site().after(20, tokens=2000)
    assert (told["prefill"]["desired"], told["prefill"]["signal"], told["decode"]["desired"]) == (4, "backlog", 2)
    told = Site().after(20, requests=9)
    assert (told["prefill"]["desired"], told["decode"]["signal"], told["decode"]["desired"]) == (2, "requests", 3)


def test_a_saturated_decode_pool_does_not_grow_prefill() -> None:
    site = Site()
    told = site.after(20, tokens=2000, requests=11)
    assert (told["prefill"]["desired"], told["prefill"]["reason"]) == (2, "decode_saturated")
    assert told["decode"]["desired"] == 3
    assert site.after(20, tokens=2000, requests=5)["prefill"]["desired"] == 4


def test_requests_that_wait_for_decode_say_that_it_is_saturated() -> None:
    site = Site()
    site.waiting[Role.DECODE] = 1
    assert site.after(20, tokens=2000)["prefill"]["reason"] == "decode_saturated"


def test_a_decode_pool_that_cannot_grow_holds_nothing_up() -> None:
    site = Site(decode={"min_replicas": 1, "max_replicas": 2})
    assert site.after(20, tokens=2000, requests=11)["prefill"]["desired"] == 4


def test_an_engine_that_is_to_go_is_named_a_lease_ahead() -> None:
    site = Site()
    site.prefill[1].load.requests = 3
    told = site.after(75)["prefill"]
    assert (told["desired"], told["reason"], told["drain_next"]) == (2, "kv_lease", ["127.0.0.1:1"])
    told = site.after(25)["prefill"]
    assert (told["desired"], told["drain_next"]) == (1, ["127.0.0.1:1"])


def test_a_drained_engine_may_go_when_nobody_pulls_its_kv_any_more() -> None:
    site = Site()
    idle, busy = site.prefill
    idle.standing.drained = busy.standing.drained = True
    busy.load.requests = 1
    assert site.after(30)["prefill"]["may_go"] == []
    assert site.after(5)["prefill"]["may_go"] == [idle.id]
    idle.load.ever += 1  # it had a request since
    assert site.after(5)["prefill"]["may_go"] == []
    site.decode[0].standing.drained = True
    assert site.after(5)["decode"]["may_go"] == [site.decode[0].id]


def test_engines_that_are_down_are_still_wanted() -> None:
    site = Site()
    site.decode[0].standing.bad_probe("connect_failed", 0.0)
    for _ in range(5):
        site.decode[0].standing.bad_probe("connect_failed", 0.0)
    told = site.after(5)["decode"]
    assert (told["desired"], told["engines"], told["usable"]) == (2, 2, 1)


def test_engines_that_load_at_the_first_look_are_wanted_as_they_come_up() -> None:
    site = Site()
    up, loading = site.decode
    known, loading.models = loading.models, {}
    told = site.after(50)["decode"]
    assert (told["desired"], told["engines"]) == (1, 1)
    loading.models = known
    told = site.after(5)["decode"]
    assert (told["desired"], told["drain_next"], told["reason"]) == (2, [], "passing_surplus")
    told = site.after(55)["decode"]
    assert (told["desired"], told["drain_next"]) == (2, []), "without load it is a surplus, which has to last with both"
    told = site.after(5)["decode"]
    assert (told["desired"], told["drain_next"]) == (1, [up.id])


def test_engines_that_come_unasked_later_are_spared_for_a_while_and_change_no_number() -> None:
    site = Site(prefill={"min_replicas": 2})
    site.after(60)
    site.fleet.backends = (*site.fleet.backends, a_backend(Role.PREFILL, 3), a_backend(Role.PREFILL, 4))
    told = site.after(60)["prefill"]
    assert (told["desired"], told["engines"], told["drain_next"]) == (2, 4, [])
    assert site.after(5)["prefill"]["drain_next"] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_what_is_named_a_lease_ahead_is_named_beside_engines_that_came_unasked() -> None:
    site = Site()
    site.after(65)
    site.prefill[1].load.requests = 3
    site.fleet.backends = (*site.fleet.backends, busy := a_backend(Role.PREFILL, 3))
    busy.load.requests = 3
    told = site.after(10)["prefill"]
    assert (told["reason"], told["drain_next"]) == ("kv_lease", ["127.0.0.1:1"])


def test_a_pool_that_lost_all_its_engines_is_wanted_back() -> None:
    site = Site()
    site.after(5)
    site.fleet.backends = tuple(site.decode)
    assert site.after(5)["prefill"]["desired"] == 2
    site.fleet.backends = ()
    site.autoscaler.look()
    assert list(site.autoscaler.desired()) == []


def test_several_models_have_pools_of_their_own() -> None:
    site = Site()
    other: Backend = a_backend(Role.AGGREGATED, 21, models=("other",))
    site.fleet.backends = (*site.fleet.backends, other)
    site.after(5)
    assert site.autoscaler.describe()["models"]["other"].keys() == {"aggregated"}


def of_models(role: Role, port: int, *models: str) -> Backend:
    return a_backend(role, port, models=models)


def test_models_that_the_same_engines_serve_have_one_pool_and_its_work() -> None:
    site = Site()
    site.prefill = [of_models(Role.PREFILL, port, MODEL, "adapter") for port in (1, 2)]
    site.fleet.backends = (*site.prefill, *site.decode)
    site.work.of(MODEL)
    site.after(5)
    for model in (MODEL, "adapter"):
        done = site.work.of(model)
        done.tokens, done.busy_s, done.prompts = 10_000, 10.0, 10
    told = site.after(5)
    assert told["prefill"]["load"]["novel_tokens_per_s"] == 4000, "of both, over five seconds"
    assert told["prefill"] == site.autoscaler.describe()["models"]["adapter"]["prefill"]
    assert told["prefill"]["desired"] > 2
    assert len(site.autoscaler.pools(Role.PREFILL)) == len(site.autoscaler.pools(Role.DECODE)) == 1
    assert {model for model, role, _ in site.autoscaler.desired() if role is Role.PREFILL} == {MODEL, "adapter"}


def test_an_adapter_that_is_loaded_everywhere_joins_the_pool_and_one_that_leaves_takes_none_along() -> None:
    site = Site()
    wanted = site.after(20, requests=9)["decode"]["desired"]
    site.prefill = [of_models(Role.PREFILL, port, "adapter", MODEL) for port in (1, 2)]
    site.decode = [of_models(Role.DECODE, port, "adapter", MODEL) for port in (11, 12)]
    site.fleet.backends = (*site.prefill, *site.decode)
    site.work.of("adapter").tokens = 10**6
    told = site.after(5, requests=9)
    assert (wanted, told["decode"]["desired"], told["decode"]["reason"]) == (3, 3, "fits")
    assert told["prefill"]["desired"] == 2, "what was done before was not done in these seconds"
    site.fleet.backends = (*site.prefill, of_models(Role.DECODE, 11, MODEL), of_models(Role.DECODE, 12, "adapter"))
    site.after(5)
    pools = site.autoscaler.pools(Role.DECODE)
    assert sorted(list(pool.models) for pool in pools) == [["adapter"], [MODEL]]


def test_an_adapter_that_a_part_of_the_engines_had_for_long_does_not_make_the_pool_smaller() -> None:
    site = Site()
    both = ("adapter", MODEL)
    site.decode = [
        of_models(Role.DECODE, 11, *both),
        of_models(Role.DECODE, 12, *both),
        of_models(Role.DECODE, 13, MODEL),
    ]
    site.fleet.backends = tuple(site.decode)
    before = site.after(100, requests=5)["decode"]["desired"]
    site.decode[2].models = site.decode[0].models
    after = site.after(5, requests=5)["decode"]
    assert (before, after["desired"], after["reason"]) == (3, 3, "fits")
    assert len(site.autoscaler.pools(Role.DECODE)) == 1


async def test_it_looks_until_it_is_cancelled_also_after_a_look_that_failed() -> None:
    looked, looks = asyncio.Event(), 0

    def waiting(_role: Role, _model: str) -> int:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        looked.set()
        return 0

    fleet, rules = Fleet([a_backend(Role.DECODE, 1)]), Autoscale(interval_s=0.001)
    autoscaler = Autoscaler(fleet, waiting, PrefillWork(), rules, Capacity(1000, 10), lambda: 0.0)
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(autoscaler.run())
        await looked.wait()
        looking.cancel()
    assert looking.cancelled()
