from router.explain.text import text
from router.routing.modes import Modes
from router.settings.engines import Role
from tests.support.builders import a_call
from tests.unit.explain.test_explainer import LONG, Site

ROUTE = """\
It would be sent: disaggregated over 127.0.0.1:1 -> 127.0.0.1:2
reason: novel_prompt; mode: auto
prompt: 600 tokens (estimated), 9 blocks of 64.3 tokens
session: ann
rule: disaggregate, novel_prompt
  home: cached_tokens 0, local_tokens 0, decodes_alone yes
  pools: prefill_usable yes, prefill_room yes, decode_usable yes, inflight 0
  limits: """


def test_a_route_in_words_then_the_candidates() -> None:
    told = text(Site().explain(a_call(prompt_tokens=LONG, user="ann")))
    assert told.startswith(ROUTE)
    assert "decode by prefix_aware; * is picked, the lowest cost is best\n   engine       cost" in told
    assert "\n*  127.0.0.1:2  0 " in told
    assert "\n127.0.0.1:1  prefill  up     yes     yes   0 " in told
    assert max(map(len, told.splitlines())) <= 120


def test_a_wait_in_words() -> None:
    told = text(Site(full=Role.DECODE).explain())
    assert told.startswith("It would wait, for room in decode: nowhere\nreason: decode_saturated; mode: auto\n")


def test_a_share_and_pairs_that_are_left_alone() -> None:
    site = Site()
    site.chooser.modes = Modes("auto", 0.25, "local")
    site.pairs.failed("127.0.0.1:1", "127.0.0.1:2", 5.0)
    told = text(site.explain(a_call(prompt_tokens=LONG, n=2)))
    assert " (auto for 25%, else local)\n" in told
    assert "cannot be split over two engines: several_sequences\n" in told
    assert told.endswith("quarantined pairs: 127.0.0.1:1 -> 127.0.0.1:2\n")


def test_what_costs_too_much_has_a_dash() -> None:
    site, call = Site(decode_policy="least_loaded"), a_call(prompt_tokens=LONG)
    tree = site.explain(call)
    tree["picks"][0]["candidates"][0]["cost"] = None
    assert "\n*  127.0.0.1:2  -  " in text(tree)
