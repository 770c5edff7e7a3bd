import random
from typing import Any

import orjson
import pytest

from router.admission.line import Line
from router.admission.permits import Permits
from router.call import Call
from router.errors import UnknownModel
from router.explain.explainer import Explainer, Tree
from router.fleet.backend import Backend
from router.fleet.fleet import Fleet
from router.fleet.pairs import Pairs
from router.routing.choose import Chooser
from router.routing.modes import Modes
from router.routing.route import Route
from router.routing.sent import Sent
from router.settings.admission import Admission
from router.settings.engines import Role
from router.settings.fleet import PairRules
from router.settings.routing import Routing
from tests.support.builders import a_backend, a_call, linked, paced

LONG = 600


class Site:
    """Engines, what routes to them, and what explains that."""

    def __init__(self, *, full: Role | None = None, **rules: Any) -> None:
        self.engines: list[Backend] = [a_backend(role, port) for role, port in (("prefill", 1), ("decode", 2))]
        self.fleet = Fleet(self.engines)
        admission = Admission(prefill_permits=4, decode_permits=1)
        self.line = Line(admission, lambda: 0.0)
        self.permits = Permits(admission, self.line)
        self.pairs = Pairs(PairRules(failures=1, quarantine_s=60))
        self.chooser = Chooser(
            Routing(**{"min_novel_tokens": 0, "min_concurrency": 0} | rules), self.permits.with_room, random.Random(1)
        )
        self.explainer = Explainer(self.fleet, self.chooser, self.permits, self.line, self.pairs, lambda: 10.0)
        for engine in self.engines:
            if engine.role is full:
                for _ in range(self.permits.limit(engine)):
                    self.permits.take(engine, 1)

    def explain(self, call: Call | None = None, **how: Any) -> Tree:
        """The explanation as programs read it."""
        tree: Tree = orjson.loads(orjson.dumps(self.explainer.explain(call or a_call(prompt_tokens=LONG), **how)))
        return tree


def test_a_route_and_what_it_comes_from() -> None:
    site = Site()
    tree = site.explain(a_call(prompt_tokens=LONG, user="ann", stream=True))
    assert tree["outcome"] == {
        "would": "be sent",
        "route": "disaggregated",
        "reason": "novel_prompt",
        "prefill": "127.0.0.1:1",
        "decode": "127.0.0.1:2",
        "prefill_cached_tokens": 0,
        "decode_cached_tokens": 0,
        "waits_for": None,
    }
    assert (tree["request"]["prompt_tokens"], tree["request"]["session"], tree["request"]["blocks"]) == (LONG, "ann", 9)
    assert tree["mode"] == {"of_this_request": "auto", "mode": "auto", "share": 1, "otherwise": "local"}
    assert (tree["rules"]["min_novel_tokens"], tree["rules"]["max_local_tokens"]) == (0, 2048)
    (judgement,) = tree["judgements"]
    assert judgement["pools"] == {"prefill_usable": True, "prefill_room": True, "decode_usable": True, "inflight": 0}
    assert judgement["home"]["cached_tokens"] == 0
    assert [(pick["pool"], pick["picked"]) for pick in tree["picks"]] == [
        ("decode", "127.0.0.1:2"),
        ("prefill", "127.0.0.1:1"),
    ]
    assert tree["picks"][0]["candidates"][0].keys() > {"engine", "cost", "pending_tokens", "held_tokens"}


def test_what_engines_hold_and_have_to_do() -> None:
    site, call = Site(), a_call(prompt_tokens=LONG)
    prefill, decode = site.engines
    route = site.chooser.choose(call, site.fleet.snapshot(call.model))
    assert isinstance(route, Route)
    Sent(site.chooser.prefixes, call, route)
    decode.load.tokens, decode.load.local_tokens = 70, 7
    tree = site.explain(call)
    engines = {engine["role"]: engine for engine in tree["engines"]}
    assert engines["decode"]["cached_tokens"] == engines["prefill"]["cached_tokens"] > LONG - 64
    assert (engines["decode"]["tokens"], engines["decode"]["local_tokens"]) == (70, 7)
    assert (engines["prefill"]["permits"], engines["prefill"]["permits_taken"], engines["prefill"]["room"]) == (
        4,
        0,
        True,
    )
    assert (tree["outcome"]["reason"], tree["judgements"][0]["home"]["local_tokens"]) == ("continuation", 7)
    assert prefill.load.requests == 0


def test_engines_that_are_out_say_why() -> None:
    site = Site()
    for _ in range(3):
        site.engines[0].standing.bad_probe("no route to host", 1.0)
    tree = site.explain()
    assert tree["outcome"]["reason"] == "prefill_unavailable"
    engine = tree["engines"][0]
    assert (engine["usable"], engine["state"], engine["why"]) == (False, "down", "no route to host")


def test_a_pool_that_is_full_makes_it_wait() -> None:
    tree = Site(full=Role.DECODE).explain()
    assert tree["outcome"] == {"would": "wait", "route": None, "reason": "decode_saturated", "waits_for": "decode"}
    assert [engine["room"] for engine in tree["engines"]] == [True, False]


def test_a_fleet_without_decode_refuses_it() -> None:
    site = Site()
    for _ in range(3):
        site.engines[1].standing.bad_probe("x", 1.0)
    tree = site.explain()
    assert (tree["outcome"]["would"], tree["outcome"]["reason"]) == ("be refused", "decode_unavailable")


def test_pairs_that_are_left_alone_or_have_yet_to_meet() -> None:
    site = Site()
    site.pairs.failed("127.0.0.1:1", "127.0.0.1:2", 5.0)
    site.pairs.cold.add(("127.0.0.1:1", "127.0.0.1:3"))
    pairs = site.explain()["pairs"]
    assert pairs["quarantined"] == [{"prefill": "127.0.0.1:1", "decode": "127.0.0.1:2", "for_s": 55.0}]
    assert pairs["cold"] == [{"prefill": "127.0.0.1:1", "decode": "127.0.0.1:3"}]


def test_the_mode_of_a_share_is_told() -> None:
    site = Site()
    site.chooser.modes = Modes("auto", 0.0, "local")
    tree = site.explain()
    assert tree["mode"] == {"of_this_request": "local", "mode": "auto", "share": 0, "otherwise": "local"}
    assert tree["outcome"]["reason"] == "forced_local"
    assert site.explain(mode="disaggregated")["outcome"]["reason"] == "novel_prompt"


def test_engines_that_hold_too_little_have_no_cost() -> None:
    site = Site()
    site.engines.append(a_backend("decode", 3))
    site.fleet.backends = tuple(site.engines)
    call = a_call(prompt_tokens=LONG)
    assert site.chooser.prefixes is not None
    site.chooser.prefixes.expect(call, site.engines[2])
    costs = {row["engine"]: row["cost"] for row in site.explain(call)["picks"][0]["candidates"]}
    assert costs["127.0.0.1:2"] is None
    assert costs["127.0.0.1:3"] < 0


def test_policies_with_two_figures_show_both() -> None:
    tree = Site(decode_policy="least_loaded").explain()
    assert tree["picks"][0]["candidates"] == [
        {"engine": "127.0.0.1:2", "cost": [1, 600]}
        | {"requests": 0, "tokens": 0, "others_requests": 0, "slowness": 1, "share": 1}
    ]


def test_what_nobody_serves_is_refused_as_elsewhere() -> None:
    with pytest.raises(UnknownModel):
        Site().explain(a_call(model="another"))


def test_nothing_is_held_afterwards() -> None:
    site = Site()
    site.explain()
    assert [(engine.load.requests, engine.load.ever, site.permits.taken(engine)) for engine in site.engines] == [
        (0, 0, 0),
        (0, 0, 0),
    ]
    assert site.chooser.prefixes is not None
    assert [site.chooser.prefixes.index.blocks_of(engine) for engine in site.engines] == [0, 0]


def test_what_was_learnt_of_two_engines_is_told() -> None:
    site = Site()
    prefill, decode = site.engines
    paced(prefill, prefill_tokens_per_s=30_000)
    paced(decode, prefill_tokens_per_s=30_000)
    linked(prefill, decode, s_per_token=3e-4)
    (judgement,) = site.explain()["judgements"]
    assert (judgement["disaggregate"], judgement["reason"]) == (False, "slow_handover")
    assert judgement["times"]["handover_s"] == pytest.approx(LONG * 3e-4, rel=0.2)
    assert judgement["times"]["stay_is_known"] is True
